// REST and SSE through the gateway: the product's own API, health, metrics, errors, disconnects.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import { done, get, metric, parseEvents, post, sleep, startPair, stop, test, until } from './lib/harness.mjs';

const { engine, gateway } = await startPair(['--accuracy-share', '0']); // an idle pair has nothing to compute then
const { url } = gateway;
const request = { prompt: 'Once upon a time', max_tokens: 40, seed: 7 };
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

await test('rest: /v1/inference answers every required field', async () => {
  const { status, json, headers } = await post(`${url}/v1/inference`, request);
  assert.equal(status, 200);
  assert.match(headers.get('content-type'), /^application\/json/);
  assert.ok(json.text.length > 20);
  for (const field of ['tokens_generated', 'inference_time_ms']) assert.ok(Number.isInteger(json[field]), field);
  assert.ok(json.tokens_generated <= 40 && json.tokens_per_second > 0);
  assert.equal(json.model_id, 'tales');
  assert.match(json.request_id, uuid);
  assert.equal(json.seed, 7);
  assert.match(json.quantization_used, /^(i2s|tl1|tl2)$/); // by the machine
  assert.equal(json.device_used, 'cpu');
  assert.ok(['stop', 'length'].includes(json.finish_reason));
  assert.ok(json.performance_metrics.time_to_first_token_ms > 0);
  assert.equal(json.accuracy_metrics, undefined, 'nothing was measured, nothing may be reported');
});

await test('rest: the stream has tokens, progress, metrics and complete, and the same text', async () => {
  const whole = await post(`${url}/v1/inference`, request);
  const { status, headers, text } = await post(`${url}/v1/inference/stream`, request);
  assert.equal(status, 200);
  assert.match(headers.get('content-type'), /^text\/event-stream/);
  assert.equal(headers.get('cache-control'), 'no-cache');
  const events = parseEvents(text).map((e) => ({ ...e, data: JSON.parse(e.data) }));
  const tokens = events.filter((e) => e.event === 'token');
  assert.equal(tokens.map((e) => e.data.text).join(''), whole.json.text);
  tokens.forEach((e, i) => {
    assert.equal(e.data.position, i);
    assert.equal(e.id, String(i));
    assert.match(e.data.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });
  for (const e of events) assert.equal(e.data.type, e.event);
  assert.ok(events.some((e) => e.event === 'progress' && e.data.tokens_generated > 0));
  assert.ok(events.some((e) => e.event === 'metrics' && e.data.device === 'cpu'));
  assert.equal(events.at(-1).event, 'complete');
  assert.equal(events.at(-1).data.total_tokens, tokens.length);
});

await test('rest: HTTP/2 with prior knowledge gives the same answer', async () => {
  const session = http2.connect(url);
  const stream = session.request({ ':method': 'POST', ':path': '/v1/inference', 'content-type': 'application/json' });
  stream.end(JSON.stringify(request));
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk) => (text += chunk));
  const [headers] = await once(stream, 'response');
  await once(stream, 'end');
  session.close();
  assert.equal(headers[':status'], 200);
  assert.equal(JSON.parse(text).text, (await post(`${url}/v1/inference`, request)).json.text);
});

const invalid = [
  ['not JSON', '{', 400, 'INVALID_REQUEST'],
  ['not an object', '[1]', 400, 'INVALID_REQUEST'],
  ['prompt missing', {}, 400, 'VALIDATION_FAILED', 'prompt'],
  ['prompt empty', { prompt: '' }, 400, 'VALIDATION_FAILED', 'prompt'],
  ['prompt of the wrong type', { prompt: 3 }, 400, null, 'prompt'],
  ['prompt too long', { prompt: 'a'.repeat(8193) }, 400, 'VALIDATION_FAILED', 'prompt'],
  ['max_tokens 0', { ...request, max_tokens: 0 }, 400, 'VALIDATION_FAILED', 'max_tokens'],
  ['max_tokens 2049', { ...request, max_tokens: 2049 }, 400, 'VALIDATION_FAILED', 'max_tokens'],
  ['temperature 2.1', { ...request, temperature: 2.1 }, 400, 'VALIDATION_FAILED', 'temperature'],
  ['unknown field', { ...request, temprature: 1 }, 400, 'VALIDATION_FAILED', 'temprature'],
  ['unknown choice', { ...request, priority: 'urgent' }, 400, null, 'priority'],
  ['unknown model', { ...request, model: 'nobody' }, 404, 'MODEL_NOT_FOUND', null],
];
for (const [name, body, status, code, field] of invalid)
  await test(`rest: ${name} is ${status} in the contract's shape`, async () => {
    const answer = await post(`${url}/v1/inference`, body);
    assert.equal(answer.status, status, answer.text);
    const { error } = answer.json;
    if (code) assert.equal(error.code, code);
    assert.ok(error.message && error.request_id && error.timestamp && Array.isArray(error.recovery_suggestions));
    if (field) assert.ok(JSON.stringify(error).includes(field), answer.text);
  });

await test('rest: invalid UTF-8 is 400', async () => {
  const body = Buffer.concat([Buffer.from('{"prompt":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]);
  const { status, json } = await get(`${url}/v1/inference`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
  assert.equal(status, 400);
  assert.equal(json.error.code, 'INVALID_REQUEST');
});

await test('rest: a prompt over the context is 400 and names both lengths', async () => {
  const { status, json } = await post(`${url}/v1/completions`, { model: 'tales', prompt: Array(3000).fill(5), max_tokens: 5 });
  assert.equal(status, 400);
  assert.match(json.error.message, /3000/);
  assert.match(json.error.message, /2048/);
});

await test('rest: errors of the engine name the field, what was expected and what was found', async () => {
  const decode = await post(`${url}/detokenize`, { tokens: [1, 99999999] });
  assert.equal(decode.status, 400, decode.text);
  assert.equal(decode.json.error.param, 'tokens');
  const [violation] = decode.json.error.details.violations;
  assert.equal(violation.field, 'tokens');
  assert.match(violation.expected, /^token ids below \d+$/);
  assert.equal(violation.actual, '99999999 at 1');
  for (const [path, body] of [['/v1/inference', request], ['/v1/chat/completions', { messages: [{ role: 'user', content: 'a' }] }]]) {
    const { status, json } = await post(url + path, { ...body, model: 'nobody' });
    assert.equal(status, 404);
    assert.deepEqual([json.error.param, json.error.message, json.error.details], ['model', 'there is no model "nobody"; "tales" is served', {}]);
  }
});

await test('rest: 404, 405 with Allow, 413, 415', async () => {
  assert.equal((await get(`${url}/nothing`)).status, 404);
  const wrong = await get(`${url}/v1/inference`);
  assert.equal(wrong.status, 405);
  assert.match(wrong.headers.get('allow'), /POST/);
  assert.equal((await post(`${url}/v1/inference`, 'x'.repeat(3 << 20))).status, 413);
  assert.equal((await post(`${url}/v1/inference`, 'prompt=x', { headers: { 'content-type': 'application/x-www-form-urlencoded' } })).status, 415);
});

await test('rest: request ids are echoed or made', async () => {
  assert.equal((await post(`${url}/v1/inference`, request, { headers: { 'x-request-id': 'my-id-1' } })).headers.get('x-request-id'), 'my-id-1');
  assert.match((await get(`${url}/health/live`)).headers.get('x-request-id'), uuid);
});

await test('rest: health in its three forms', async () => {
  for (const path of ['/health/live', '/health/ready']) assert.equal((await get(url + path)).status, 200);
  const { json } = await get(`${url}/health`);
  assert.equal(json.status, 'healthy');
  for (const part of ['model_manager', 'execution_router', 'batch_engine', 'device_monitor', 'quantization_engine'])
    assert.ok(json.components[part], part);
});

await test('rest: the model list serves OpenAI clients and ours', async () => {
  const { json } = await get(`${url}/v1/models`);
  assert.equal(json.object, 'list');
  assert.equal(json.data[0].id, 'tales');
  assert.equal((await get(`${url}/v1/models/tales`)).status, 200);
  assert.equal((await get(`${url}/v1/models/nobody`)).status, 404);
});

await test('rest: metrics of both processes count what happened', async () => {
  const before = await metric(engine.admin, 'bitnet_tokens_generated_total');
  const { json } = await post(`${url}/v1/inference`, request);
  assert.equal(await metric(engine.admin, 'bitnet_tokens_generated_total') - before, json.tokens_generated);
  assert.ok(await metric(gateway.admin, 'bitnet_requests_total', { endpoint: '/v1/inference', status: '200' }) > 0);
});

await test('rest: 64 concurrent streams end correctly, each with the text it has alone', async () => {
  const bodies = Array.from({ length: 64 }, (_, i) => ({ prompt: `${i % 2 ? 'The king' : 'A little rabbit'} had ${i} apples`, max_tokens: 10 + i % 30, seed: i }));
  const together = await Promise.all(bodies.map((body) => post(`${url}/v1/inference/stream`, body)));
  for (const [i, body] of bodies.entries()) {
    const events = parseEvents(together[i].text).map((e) => JSON.parse(e.data));
    assert.equal(events.at(-1).type, 'complete');
    const alone = await post(`${url}/v1/inference`, body);
    assert.equal(events.filter((e) => e.type === 'token').map((e) => e.text).join(''), alone.json.text, `request ${i}`);
  }
});

await test('rest: an idle pair uses under 1 % of a core', async () => {
  const { readFileSync } = await import('node:fs');
  const ticks = () => [engine, gateway].map(({ child }) => {
    const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return Number(fields[11]) + Number(fields[12]); // utime + stime, in ticks of 10 ms
  }).reduce((a, b) => a + b);
  await sleep(500);
  const before = ticks();
  await sleep(5000);
  assert.ok(ticks() - before <= 5, `${(ticks() - before) * 10} ms of CPU in 5 s`);
});

await test('rest: without an engine 503 at once with Retry-After, and 200 again when it is back', async () => {
  await stop(engine.child, 'SIGKILL');
  await until('not ready', 5000, async () => (await get(`${url}/health/ready`)).status === 503);
  const answer = await post(`${url}/v1/inference`, request);
  assert.equal(answer.status, 503);
  assert.equal(answer.json.error.code, 'SERVICE_UNAVAILABLE');
  assert.ok(Number(answer.headers.get('retry-after')) >= 1);
  assert.equal((await get(`${url}/health/live`)).status, 200);
});

await test('rest: SIGTERM ends the gateway with 0', async () => {
  assert.deepEqual(await stop(gateway.child), { code: 0, signal: null });
});

await done();
