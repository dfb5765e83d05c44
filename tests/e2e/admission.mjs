// Who is let in and who goes first: bounds by tokens over both protocols, clients in turns, high priority before low that runs.
import assert from 'node:assert/strict';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, metric, post, root, startPair, test, until } from './lib/harness.mjs';

const { engine, gateway } = await startPair(['--max-sequences', '1', '--queue-tokens', '1000']);
const definition = loader.loadSync('bitnet/v1/inference.proto', { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true,
                                                                  includeDirs: [path.join(root, 'proto')] });
const inference = new (grpc.loadPackageDefinition(definition).bitnet.v1.InferenceService)(engine.target, grpc.credentials.createInsecure());
const request = { prompt: 'Once upon a time', max_tokens: 20, ignore_eos: true, sampling: { seed: 7 } };
const generate = (extra) => new Promise((resolve, reject) =>
  inference.Generate({ ...request, ...extra }, (error, answer) => (error ? reject(error) : resolve(answer))));
const reason = (name) => metric(engine.admin, 'bitnet_admission_rejections_total', { reason: name });

// A stream that nobody reads keeps the one sequence there is, until it is cancelled.
const occupy = async (extra) => {
  const call = inference.StreamGenerate({ ...request, max_tokens: 1900, ...extra });
  call.on('error', () => {});
  await until('it runs', 10000, async () => await metric(engine.admin, 'bitnet_requests_running') === 1);
  return call;
};
const idle = () => until('it is idle', 20000, async () => await metric(engine.admin, 'bitnet_requests_active') === 0);
const waiting = (n) => until(`${n} wait`, 10000, async () => await metric(engine.admin, 'bitnet_requests_waiting') === n);

await test('admission: every reason has its series from the start', async () => {
  for (const name of ['queue_full', 'queue_tokens', 'queue_wait', 'priority', 'deadline', 'draining']) assert.equal(await reason(name), 0);
  assert.equal(await metric(engine.admin, 'bitnet_preemptions_total'), 0);
});

await test('admission: the bound by tokens is RESOURCE_EXHAUSTED, and 503 with a time to retry', async () => {
  const hog = await occupy({ priority: 'PRIORITY_HIGH' });
  const held = [300, 300].map((max_tokens) => generate({ max_tokens }).catch(() => {}));
  await waiting(2);
  const error = await generate({ max_tokens: 500 }).then(() => assert.fail('it was let in'), (e) => e);
  assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
  assert.match(error.metadata.get('grpc-status-details-bin')[0].toString('latin1'), /cause[^]*queue_tokens[^]*RetryInfo/);
  const rest = await post(`${gateway.url}/v1/inference`, { prompt: 'Once', max_tokens: 500 });
  assert.equal(rest.status, 503);
  assert.equal(rest.json.error.code, 'SERVICE_UNAVAILABLE');
  assert.ok(Number(rest.headers.get('retry-after')) >= 1);
  const unread = await generate({ max_tokens: 500, response_format: { regex: '(' } }).then(() => assert.fail('it was let in'), (e) => e);
  assert.equal(unread.code, grpc.status.RESOURCE_EXHAUSTED); // before its format is looked at
  assert.equal(await reason('queue_tokens'), 3);
  const normal = await generate({ max_tokens: 250 }).then(() => assert.fail('it was let in'), (e) => e);
  assert.match(normal.details, /higher priority or fewer tokens/);
  assert.equal(await reason('priority'), 1);
  hog.cancel();
  await Promise.all(held);
  await idle();
  assert.equal(await metric(engine.admin, 'bitnet_queue_tokens'), 0);
});

await test('admission: a client that floods does not hold another up', async () => {
  const hog = await occupy({ priority: 'PRIORITY_HIGH' });
  const order = [];
  const flood = Array.from({ length: 20 }, () => generate({ client_id: 'flood', priority: 'PRIORITY_HIGH' }).then(() => order.push('flood')));
  await waiting(20);
  const other = generate({ client_id: 'other', priority: 'PRIORITY_HIGH' }).then(() => order.push('other'));
  await waiting(21);
  hog.cancel();
  await Promise.all([...flood, other]);
  await idle();
  assert.ok(order.indexOf('other') <= 3, order.join(' '));
});

await test('admission: low priority gives way to high and goes on with the same text', async () => {
  const long = { max_tokens: 1900, priority: 'PRIORITY_LOW' };
  const alone = await generate(long);
  const before = await metric(engine.admin, 'bitnet_preemptions_total');
  const events = [];
  const call = inference.StreamGenerate({ ...request, ...long });
  const whole = new Promise((resolve, reject) => call.on('data', (e) => events.push(e)).on('error', reject).on('end', resolve));
  await until('it runs', 10000, async () => events.length > 3);
  const high = await generate({ priority: 'PRIORITY_HIGH' });
  assert.equal(high.usage.completion_tokens, 20);
  await whole;
  assert.equal(events.filter((e) => e.event === 'token').flatMap((e) => e.token.tokens).map((t) => t.text).join(''), alone.choices[0].text);
  assert.ok(await metric(engine.admin, 'bitnet_preemptions_total') > before);
});

await done();
