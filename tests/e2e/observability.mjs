// What an operator sees beside traces: levels of the log that change while the process runs, exemplars, lines for what was slow, load reports
// in trailers, and the report of a crash. timeout: 120
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, get, metric, model, post, root, sleep, start, startEngine, startGateway, test, until } from './lib/harness.mjs';

const sanitized = Boolean(process.env.SAN);
const lines = (child) => child.log().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
const engine = await startEngine(['--null-model', '--null-step-us', '20000', '--slow-step-ms', '10', '--slow-request-ms', '100']);
const gateway = await startGateway(engine.target);
await until('pair ready', 30000, async () => (await get(`${gateway.url}/health/ready`)).status === 200);
const infer = (extra = {}, headers = {}) => post(`${gateway.url}/v1/inference`, { prompt: 'Once upon a time', max_tokens: 4, ...extra }, { headers });
const put = (url, body) => get(`${url}/debug/log-level`, { method: 'PUT', body });

const api = grpc.loadPackageDefinition(loader.loadSync(['bitnet/v1/inference.proto'],
  { keepCase: true, longs: Number, enums: String, oneofs: true, includeDirs: [path.join(root, 'proto')] })).bitnet.v1;
const client = new api.InferenceService(engine.target, grpc.credentials.createInsecure());

for (const [name, process] of [['engine', engine], ['gateway', gateway]])
  await test(`log levels: those of the ${name} change while it runs, by component`, async () => {
    assert.deepEqual((await get(`${process.admin}/debug/log-level`)).json, { log_level: 'info' });
    const component = name === 'engine' ? 'service' : 'gateway';
    const changed = await put(process.admin, `warn,${component}=off\n`);
    assert.equal(changed.status, 200, changed.text);
    assert.deepEqual(changed.json, { log_level: `warn,${component}=off` });
    const before = lines(process.child).filter((l) => l.component === component).length;
    assert.equal((await infer()).status, 200);
    assert.equal(lines(process.child).filter((l) => l.component === component).length, before);
    for (const wrong of ['', 'loud', 'info,debug', 'rpc=', 'x'.repeat(4000)]) {
      const refused = await put(process.admin, wrong);
      assert.equal(refused.status, 400, `${wrong.slice(0, 20)}: ${refused.text}`);
      assert.equal(refused.json.error.code, 'VALIDATION_FAILED');
    }
    assert.deepEqual((await put(process.admin, 'info')).json, { log_level: 'info' });
    assert.equal((await infer()).status, 200);
    await until('its line', 5000, async () => lines(process.child).filter((l) => l.component === component).length > before);
  });

await test('log levels: only the engine\'s own path takes PUT, and a wrong start value is refused', async () => {
  assert.equal((await get(`${engine.admin}/metrics`, { method: 'PUT', body: '' })).status, 405);
  const child = start('bitnet-engine', ['--model', model, '--log-level', 'info,rpc=loud']);
  assert.notEqual((await child.ended).code, 0);
  assert.match(child.log(), /log-level: expected .* found .*rpc=loud/);
});

await test('latency: slow steps and requests are logged with their cause, a line a second at most', async () => {
  await Promise.all(Array.from({ length: 6 }, (_, i) => infer({ max_tokens: 10 }, { 'x-request-id': `slow-${i}` })));
  await sleep(1100);
  assert.equal((await infer({ max_tokens: 20 }, { 'x-request-id': 'slow-last' })).status, 200);
  const slow = (what) => lines(engine.child).filter((l) => l.component === 'latency' && l.msg === what);
  await until('a line', 5000, async () => slow('slow request').some((l) => l.request_id === 'slow-last'));
  const request = slow('slow request').find((l) => l.request_id === 'slow-last'), steps = slow('slow step');
  assert.equal(request.cause, 'decode');
  assert.ok(request.ms >= 100 && Math.abs(request.queue_ms + request.prefill_ms + request.decode_ms - request.ms) < 1);
  assert.ok(request.left_out >= 1, JSON.stringify(request));
  assert.ok(steps.length >= 1 && steps.every((l) => l.ms >= 10 && l.cause && l.rows >= 1 && l.sequences >= 1));
  assert.ok(steps.some((l) => l.left_out >= 5));
});

await test('exemplars: buckets name a trace that was recorded, on OpenMetrics pages only', async () => {
  const traceId = 'abcdef0123456789abcdef0123456789';
  assert.equal((await infer({}, { traceparent: `00-${traceId}-00f067aa0ba902b7-01` })).status, 200);
  for (const [url, name] of [[engine.admin, 'bitnet_time_to_first_token_seconds'], [gateway.admin, 'bitnet_request_duration_seconds']]) {
    const open = await get(`${url}/metrics`, { headers: { accept: 'application/openmetrics-text; version=1.0.0' } });
    assert.match(open.text, new RegExp(`${name}_bucket\\{[^}]*\\} \\d+ # \\{trace_id="${traceId}"\\} [0-9.e-]+ \\d+\\.\\d{3}\\n`));
    assert.match(open.text, /# EOF\n$/);
    assert.doesNotMatch((await get(`${url}/metrics`)).text, /trace_id/);
  }
});

// gRPC's own client library brings the official proto; what a method of its service answers is the report.
const protos = path.join(path.dirname(createRequire(import.meta.url).resolve('@grpc/grpc-js/package.json')), 'proto');
const orca = loader.loadSync('xds/service/orca/v3/orca.proto', { keepCase: true, longs: Number, defaults: true,
                                                                includeDirs: [path.join(protos, 'xds'), path.join(protos, 'protoc-gen-validate')] });
const decode = (bytes) => orca['xds.service.orca.v3.OpenRcaService'].StreamCoreMetrics.responseDeserialize(bytes);
async function report(request, format) {
  const metadata = new grpc.Metadata();
  if (format) metadata.set('endpoint-load-metrics-format', format);
  const call = client.StreamGenerate(request, metadata);
  call.on('data', () => {}).on('error', () => {});
  const status = await new Promise((resolve) => call.on('status', resolve));
  return { code: status.code, bytes: status.metadata.get('endpoint-load-metrics-bin')[0] };
}
await test('load reports: for clients that ask, by the official proto: queue, cache, CPU and requests', async () => {
  const request = { prompt: 'Once', max_tokens: 4 };
  assert.equal((await report(request)).bytes, undefined);
  assert.equal((await report(request, 'text')).bytes, undefined);
  const others = Array.from({ length: 3 }, () => report({ prompt: 'Once', max_tokens: 60 }, 'bin'));
  await until('they run', 5000, async () => await metric(engine.admin, 'bitnet_requests_running') === 3);
  const r = decode((await report(request, 'BIN')).bytes);
  assert.equal(r.named_metrics.num_requests_waiting, 0);
  assert.equal(r.named_metrics.num_requests_running, 3);
  assert.ok(r.named_metrics.kv_cache_usage > 0 && r.named_metrics.kv_cache_usage <= 1);
  assert.equal(r.application_utilization, 3 / 64);
  assert.ok(r.cpu_utilization > 0 && r.rps_fractional > 0 && r.eps === 0, JSON.stringify(r));
  const refused = await report({ prompt: 'Once', model: 'unknown' }, 'bin');
  assert.equal(refused.code, grpc.status.NOT_FOUND);
  assert.ok(decode(refused.bytes).named_metrics.num_requests_running >= 0);
  await Promise.all(others);
});

await test('crash: a fault is reported with the requests in flight and the stack, and the process dies of it', async () => {
  if (sanitized) return;
  for (const [process, signal] of [[gateway, 'SIGABRT'], [engine, 'SIGSEGV']]) {
    const ids = [`in-flight-${signal}-1`, `in-flight-${signal}-2`], metadata = new grpc.Metadata();
    const calls = process === gateway
      ? ids.map((id) => infer({ max_tokens: 2000 }, { 'x-request-id': id }).catch(() => {}))
      : ids.map((id) => client.StreamGenerate({ prompt: 'a', max_tokens: 500, request_id: id }, metadata).on('data', () => {}).on('error', () => {}));
    await until('they run', 10000, async () => await metric(engine.admin, 'bitnet_requests_running') === 2);
    process.child.kill(signal);
    assert.deepEqual(await process.child.ended, { code: null, signal });
    const report = process.child.log().split('=== crash report ===\n')[1];
    assert.ok(report, process.child.log().slice(-2000));
    assert.match(report, new RegExp(`^bitnet-${process === gateway ? 'gateway' : 'engine'} \\d+\\.\\d+\\.\\d+ \\(`));
    assert.match(report, new RegExp(signal));
    for (const id of ids) assert.ok(report.includes(`  ${id}\n`), report);
    assert.match(report, /requests in flight: [2-9]/);
    assert.match(report, /stack:\n.*\(\+0x[0-9a-f]+\)/s);
    assert.match(report, /=== end of the report ===\n$/);
    await Promise.all(calls.filter((c) => c instanceof Promise));
  }
});

client.close();
await done();
