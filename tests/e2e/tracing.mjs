// Traces: one request is one connected trace from the HTTP client to the engine's decode, with the attributes; what a dead or silent
// collector costs; sampling; and the load reports that gRPC clients ask for. timeout: 120
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { Collector } from './lib/collector.mjs';
import { done, freePort, get, metric, model, post, root, start, startEngine, startGateway, stop, test, until } from './lib/harness.mjs';

const features = await (async () => {
  const child = start('bitnet-engine', ['--version']);
  await child.ended;
  return child.log();
})();
if (!features.includes('opentelemetry')) {
  console.log('skip tracing: built without the feature opentelemetry');
  process.exit(0);
}

const collector = await new Collector().listen();
const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint, OTEL_BSP_SCHEDULE_DELAY: '50', OTEL_EXPORTER_OTLP_HEADERS: 'x-token=abc',
              OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment=test' };

async function engineWith(extraEnv, ...extra) {
  const port = await freePort(), admin = await freePort();
  const child = start('bitnet-engine', ['--model', model, '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${admin}`, ...extra], extraEnv);
  await until('engine ready', 30000, async () => (await get(`http://127.0.0.1:${admin}/health/ready`)).status === 200, child);
  return { child, target: `127.0.0.1:${port}`, admin: `http://127.0.0.1:${admin}` };
}
async function gatewayWith(extraEnv, target, ...extra) {
  const port = await freePort(), admin = await freePort();
  const child = start('bitnet-gateway', ['--engine', target, '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${admin}`,
                                         '--rate-limits', 'off', ...extra], extraEnv);
  await until('gateway ready', 30000, async () => (await get(`http://127.0.0.1:${port}/health/ready`)).status === 200, child);
  return { child, url: `http://127.0.0.1:${port}`, admin: `http://127.0.0.1:${admin}` };
}

const engine = await engineWith(env);
const gateway = await gatewayWith(env, engine.target);
const hexId = (n) => [...Array(n)].map(() => Math.floor(Math.random() * 16).toString(16)).join('').replace(/^0/, '1');
const context = (flags = '01') => {
  const traceId = hexId(32), spanId = hexId(16);
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-${flags}`, tracestate: 'vendor=1' } };
};
const named = (spans, name) => {
  const found = spans.filter((s) => s.name === name);
  assert.equal(found.length, 1, `${name} in ${spans.map((s) => s.name)}`);
  return found[0];
};
const within = (inner, outer) => assert.ok(inner.start >= outer.start && inner.end <= outer.end, `${inner.name} lies in ${outer.name}`);
const lastLog = (child, field, value) => child.log().split('\n').filter(Boolean).map((line) => JSON.parse(line)).find((l) => l[field] === value);

await test('tracing: one request over REST is one connected trace with times that fit and the attributes', async () => {
  const c = context();
  const answer = await post(`${gateway.url}/v1/inference`,
                            { prompt: 'Once upon a time', max_tokens: 24, seed: 5, temperature: 0.5, top_k: 40, top_p: 0.8 }, { headers: c.headers });
  assert.equal(answer.status, 200, answer.text);
  const spans = await collector.trace(c.traceId, 6);
  assert.equal(spans.length, 6);
  const http = named(spans, 'POST /v1/inference');
  const client = spans.find((s) => s.name === 'bitnet.v1.InferenceService/Generate' && s.kind === 3);
  const server = spans.find((s) => s.name === 'bitnet.v1.InferenceService/Generate' && s.kind === 2);
  const [queue, prefill, decode] = ['queue', 'prefill', 'decode'].map((name) => named(spans, name));
  assert.deepEqual([http.parent, client.parent, server.parent], [c.spanId, http.id, client.id]);
  for (const s of [queue, prefill, decode]) assert.equal(s.parent, server.id);
  assert.deepEqual([http.kind, queue.kind], [2, 1]);
  for (const s of spans) assert.equal(s.state, 'vendor=1', s.name);
  within(client, http);
  for (const s of [queue, prefill, decode]) within(s, server);
  assert.ok(queue.end === prefill.start && prefill.end === decode.start && decode.end > decode.start && prefill.end > prefill.start);

  assert.equal(http.resource['service.name'], 'bitnet-gateway');
  assert.equal(server.resource['service.name'], 'bitnet-engine');
  for (const s of spans) {
    assert.equal(s.resource['service.namespace'], 'bitnet');
    assert.equal(s.resource['deployment.environment'], 'test');
    assert.match(s.resource['service.version'], /^\d+\.\d+/);
  }
  const a = http.attributes, b = server.attributes;
  assert.deepEqual([a['http.request.method'], a['http.route'], a['http.response.status_code']], ['POST', '/v1/inference', 200]);
  assert.deepEqual([client.attributes['rpc.system'], client.attributes['rpc.service'], client.attributes['rpc.method'],
                    client.attributes['rpc.grpc.status_code'], client.attributes['server.address']],
                   ['grpc', 'bitnet.v1.InferenceService', 'Generate', 0, engine.target]);
  assert.equal(b['rpc.grpc.status_code'], 0);
  assert.equal(b['gen_ai.operation.name'], 'text_completion');
  assert.equal(b['gen_ai.request.max_tokens'], 24);
  assert.ok(Math.abs(b['gen_ai.request.temperature'] - 0.5) < 1e-6 && Math.abs(b['gen_ai.request.top_p'] - 0.8) < 1e-6);
  assert.deepEqual([b['gen_ai.request.top_k'], b['gen_ai.request.seed']], [40, 5]);
  assert.equal(b['gen_ai.response.id'], answer.json.request_id);
  assert.equal(b['gen_ai.response.model'], answer.json.model_id);
  assert.deepEqual(b['gen_ai.response.finish_reasons'], [answer.json.finish_reason]);
  assert.deepEqual([b['gen_ai.usage.input_tokens'], b['gen_ai.usage.output_tokens']], [answer.json.prompt_tokens, answer.json.tokens_generated]);
  assert.deepEqual([b['bitnet.quantization'], b['bitnet.device']], [answer.json.quantization_used, answer.json.device_used]);
  assert.ok(b['bitnet.batch_size'] >= 1 && b['bitnet.cached_tokens'] >= 0);
  assert.ok(collector.metadata.every((m) => m['x-token'] === 'abc'));
});

await test('tracing: no span has a word of a prompt or an answer', async () => {
  const c = context();
  const answer = await post(`${gateway.url}/v1/chat/completions`,
                            { messages: [{ role: 'user', content: 'xyzzyPROMPT' }], max_tokens: 12 }, { headers: c.headers });
  assert.equal(answer.status, 200, answer.text);
  const spans = await collector.trace(c.traceId, 6);
  const all = JSON.stringify(spans, (key, value) => (typeof value === 'bigint' ? `${value}` : value));
  assert.ok(!all.includes('xyzzy'));
  assert.ok(!all.includes(JSON.stringify(answer.json.choices[0].message.content).slice(1, 20)));
  assert.equal(spans.find((s) => s.kind === 2 && s.parent !== c.spanId).attributes['gen_ai.operation.name'], 'chat');
});

await test('tracing: a stream without a caller begins a trace, whose id is in both logs', async () => {
  const before = collector.spans.length;
  const answer = await post(`${gateway.url}/v1/inference/stream`, { prompt: 'The fox', max_tokens: 8 }, { headers: { 'x-request-id': 'trace-stream' } });
  assert.match(answer.text, /event: complete/);
  await until('its spans', 10000, async () => collector.spans.slice(before).some((s) => s.name === 'POST /v1/inference/stream'));
  const http = collector.spans.slice(before).find((s) => s.name === 'POST /v1/inference/stream');
  assert.equal(http.parent, '');
  await collector.trace(http.traceId, 6);
  for (const child of [gateway.child, engine.child]) assert.equal(lastLog(child, 'request_id', 'trace-stream').trace_id, http.traceId);
});

await test('tracing: what the caller does not record is not recorded, and still logged', async () => {
  const c = context('00');
  assert.equal((await post(`${gateway.url}/v1/inference`, { prompt: 'a', max_tokens: 2 }, { headers: { ...c.headers, 'x-request-id': 'not-recorded' } })).status, 200);
  const next = context();
  await post(`${gateway.url}/v1/inference`, { prompt: 'a', max_tokens: 2 }, { headers: next.headers });
  await collector.trace(next.traceId, 6);
  assert.equal(collector.spans.filter((s) => s.traceId === c.traceId).length, 0);
  assert.equal(lastLog(engine.child, 'request_id', 'not-recorded').trace_id, c.traceId);
});

await test('tracing: failures carry error.type: the client\'s in the engine\'s span, a lost engine in all', async () => {
  const c = context();
  assert.equal((await post(`${gateway.url}/v1/inference`, { prompt: 'a', model: 'unknown' }, { headers: c.headers })).status, 404);
  const spans = await collector.trace(c.traceId, 3);
  const http = named(spans, 'POST /v1/inference'), server = spans.find((s) => s.kind === 2 && s !== http);
  assert.equal(http.attributes['http.response.status_code'], 404);
  assert.equal(http.attributes['error.type'], 'MODEL_NOT_FOUND');
  assert.notEqual(http.status?.code, 2);
  assert.equal(server.attributes['error.type'], 'MODEL_NOT_FOUND');
  assert.equal(server.status.code, 2);
  const client = spans.find((s) => s.kind === 3);
  assert.equal(client.attributes['error.type'], 'NOT_FOUND');
});

await test('tracing: a request over gRPC without a gateway is continued too', async () => {
  const definition = loader.loadSync(['bitnet/v1/inference.proto'], { keepCase: true, longs: Number, enums: String, oneofs: true, includeDirs: [path.join(root, 'proto')] });
  const api = grpc.loadPackageDefinition(definition).bitnet.v1;
  const client = new api.InferenceService(engine.target, grpc.credentials.createInsecure());
  const c = context(), metadata = new grpc.Metadata();
  metadata.set('traceparent', c.headers.traceparent);
  await new Promise((resolve, reject) => client.Generate({ prompt: 'Once', max_tokens: 4, n: 2 }, metadata, (e, a) => (e ? reject(e) : resolve(a))));
  const spans = await collector.trace(c.traceId, 4);
  const server = named(spans, 'bitnet.v1.InferenceService/Generate');
  assert.equal(server.parent, c.spanId);
  assert.equal(server.attributes['gen_ai.response.finish_reasons'].length, 2);
  client.close();
});

await test('tracing: health, metrics and pages are not recorded', async () => {
  const c = context();
  for (const page of ['/health', '/health/live', '/', '/openapi.json']) await get(`${gateway.url}${page}`, { headers: c.headers });
  const list = context();
  await get(`${gateway.url}/v1/models`, { headers: list.headers });
  const spans = await collector.trace(list.traceId, 2);
  assert.deepEqual(spans.map((s) => s.name).sort(), ['GET /v1/models', 'bitnet.v1.ModelService/List']);
  assert.equal(collector.spans.filter((s) => s.traceId === c.traceId).length, 0);
});

await test('tracing: the exported spans are counted, and none is dropped', async () => {
  for (const p of [engine, gateway]) {
    assert.ok(await metric(p.admin, 'bitnet_trace_spans_exported_total') > 5);
    assert.equal(await metric(p.admin, 'bitnet_trace_spans_dropped_total'), 0);
  }
});

await test('tracing: a collector that says nothing costs no request; what it missed is counted; the end is not held up', async () => {
  collector.mode = 'hold';
  const small = { ...env, OTEL_BSP_MAX_QUEUE_SIZE: '32', OTEL_BSP_MAX_EXPORT_BATCH_SIZE: '8' };
  const e = await engineWith(small, '--null-model'), g = await gatewayWith(small, e.target);
  const statuses = await Promise.all(Array.from({ length: 40 }, async () => (await post(`${g.url}/v1/inference`, { prompt: 'a', max_tokens: 2 })).status));
  assert.ok(statuses.every((s) => s === 200));
  for (const p of [e, g]) assert.ok(await metric(p.admin, 'bitnet_trace_spans_dropped_total', { reason: 'queue_full' }) > 0);
  const began = Date.now();
  for (const ended of await Promise.all([stop(g.child), stop(e.child)])) assert.equal(ended.code, 0);
  assert.ok(Date.now() - began < 40000);
  collector.mode = 'take';
});

await test('tracing: what is left goes to the collector at the end, over TLS too', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-trace-')), cert = path.join(dir, 'cert.pem'), key = path.join(dir, 'key.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '2',
                           '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'], { stdio: 'ignore' });
  const secure = await new Collector().listen(grpc.ServerCredentials.createSsl(null, [{ cert_chain: readFileSync(cert), private_key: readFileSync(key) }]));
  const late = { ...env, OTEL_BSP_SCHEDULE_DELAY: '3600000', OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: secure.endpoint, OTEL_EXPORTER_OTLP_CERTIFICATE: cert };
  const e = await engineWith(late, '--null-model'), g = await gatewayWith(late, e.target);
  const c = context();
  assert.equal((await post(`${g.url}/v1/inference`, { prompt: 'a', max_tokens: 2 }, { headers: c.headers })).status, 200);
  await stop(g.child);
  await stop(e.child);
  assert.equal((await secure.trace(c.traceId, 6, 1000)).length, 6);
  secure.close();
  rmSync(dir, { recursive: true });
});

await test('tracing: without a collector\'s address nothing is recorded, and the context is passed on', async () => {
  const e = await startEngine(['--null-model']), g = await startGateway(e.target);
  await until('pair ready', 30000, async () => (await get(`${g.url}/health/ready`)).status === 200);
  const c = context();
  assert.equal((await post(`${g.url}/v1/inference`, { prompt: 'a', max_tokens: 2 }, { headers: { ...c.headers, 'x-request-id': 'off' } })).status, 200);
  assert.equal(lastLog(e.child, 'request_id', 'off').trace_id, c.traceId);
  for (const p of [e, g]) assert.equal(await metric(p.admin, 'bitnet_trace_spans_exported_total'), 0);
  await stop(g.child);
  await stop(e.child);
});

assert.equal((await stop(gateway.child)).code, 0);
assert.equal((await stop(engine.child)).code, 0);
collector.close();
await done();
