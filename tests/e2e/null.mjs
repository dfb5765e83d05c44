// The null model from outside: what it says of itself, one message a token, and a reader that stops.
import assert from 'node:assert/strict';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, freePort, get, metric, model, post, root, start, startPair, stop, test, until } from './lib/harness.mjs';

const { engine, gateway } = await startPair(['--null-model', '--coalesce', 'off', '--stall-timeout-ms', '500']);
const definition = loader.loadSync(['bitnet/v1/inference.proto'],
                                   { keepCase: true, longs: Number, enums: String, oneofs: true, includeDirs: [path.join(root, 'proto')] });
const api = grpc.loadPackageDefinition(definition).bitnet.v1;
const client = new api.InferenceService(engine.target, grpc.credentials.createInsecure());
const ids = [100, 101, 102, 103];

await test('null: id and device say what it is, everywhere', async () => {
  const answer = await post(`${gateway.url}/v1/inference`, { prompt: 'Once', max_tokens: 8 });
  assert.equal(answer.status, 200);
  assert.match(answer.text, /"null-model"/);
  assert.match(answer.text, /"null"/);
  const list = await get(`${gateway.url}/v1/models`);
  assert.match(list.text, /"null-model"/);
  assert.ok(await metric(engine.admin, 'bitnet_tokens_generated_total', { model: 'null-model', device: 'null' }) >= 8);
  assert.match(engine.child.log(), /NULL MODEL/);
});

await test('null: neither environment nor configuration file make one', async () => {
  const child = start('bitnet-engine', ['--model', model, '--listen', `127.0.0.1:${await freePort()}`], { BITNET_NULL_MODEL: 'true' });
  assert.equal((await child.ended).code, 1);
  assert.match(child.log(), /BITNET_NULL_MODEL: expected --null-model on the command line/);
});

await test('null: without coalescing each message has one token', async () => {
  const call = client.StreamGenerate({ tokens: { ids }, max_tokens: 300 });
  const sizes = [];
  await new Promise((resolve, reject) => call.on('error', reject).on('end', resolve)
    .on('data', (event) => { if (event.event === 'token') sizes.push(event.token.tokens.length); }));
  assert.equal(sizes.length, 300);
  assert.ok(sizes.every((n) => n === 1));
});

await test('null: a reader that stops is given up, and its memory is free', async () => {
  const call = client.StreamGenerate({ tokens: { ids }, max_tokens: 480, n: 8, logprobs: true, top_logprobs: 20 });
  const error = new Promise((resolve) => call.on('error', resolve));
  call.once('data', () => call.pause());
  await until('the stream is given up', 30000, async () =>
    (await metric(engine.admin, 'bitnet_cancellations_total', { cause: 'stalled' })) === 1);
  assert.equal((await error).code, grpc.status.ABORTED);
  assert.equal(await metric(engine.admin, 'bitnet_kv_cache_blocks', { state: 'used' }), 0);
  assert.equal(await metric(engine.admin, 'bitnet_requests_running'), 0);
});

client.close();
await stop(gateway.child);
assert.equal((await stop(engine.child)).code, 0);
await done();
