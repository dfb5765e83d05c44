// gRPC clients: @grpc/grpc-js with the proto files, and with nothing but reflection.
import assert from 'node:assert/strict';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import reflection from 'grpc-js-reflection-client';
import { done, metric, model, root, start, freePort, startEngine, stop, test, until } from './lib/harness.mjs';

const engine = await startEngine();
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const definition = loader.loadSync(['bitnet/v1/inference.proto', 'bitnet/v1/models.proto', 'bitnet/v1/admin.proto',
                                    'grpc/health/v1/health.proto'],
                                   { ...options, includeDirs: [path.join(root, 'proto')] });
const api = grpc.loadPackageDefinition(definition);
const credentials = grpc.credentials.createInsecure();
const inference = new api.bitnet.v1.InferenceService(engine.target, credentials);
const models = new api.bitnet.v1.ModelService(engine.target, credentials);
const health = new api.grpc.health.v1.Health(engine.target, credentials);

export const unary = (client, method, request, callOptions = {}) => new Promise((resolve, reject) =>
  client[method](request, new grpc.Metadata(), callOptions, (error, answer) => (error ? reject(error) : resolve(answer))));
const collect = (call) => new Promise((resolve, reject) => {
  const events = [];
  call.on('data', (event) => events.push(event)).on('error', reject).on('end', () => resolve(events));
});
const textOf = (events) => events.filter((e) => e.event === 'token').flatMap((e) => e.token.tokens).map((t) => t.text).join('');
const rejects = async (promise, code, pattern) => {
  const error = await promise.then(() => assert.fail('the call succeeded'), (e) => e);
  assert.equal(error.code, code, error.message);
  if (pattern) assert.match(error.details, pattern);
};
const request = { prompt: 'Once upon a time', max_tokens: 40, sampling: { seed: 7 } };

await test('grpc: Generate answers with text, usage and timing', async () => {
  const answer = await unary(inference, 'Generate', request);
  assert.equal(answer.choices.length, 1);
  assert.ok(answer.choices[0].text.length > 20);
  assert.equal(answer.usage.completion_tokens, answer.choices[0].token_ids.length);
  assert.ok(answer.usage.prompt_tokens >= 2 && answer.timing.total_ms > 0);
  assert.match(answer.request_id, /^[0-9a-f-]{36}$/);
  assert.equal(answer.seed, 7);
});

await test('grpc: StreamGenerate streams the same text as Generate', async () => {
  const whole = await unary(inference, 'Generate', request);
  const events = await collect(inference.StreamGenerate(request));
  assert.equal(textOf(events), whole.choices[0].text);
  assert.deepEqual(events.filter((e) => e.event === 'token').flatMap((e) => e.token.tokens.map((t) => t.id)), whole.choices[0].token_ids);
  assert.equal(events.at(-1).event, 'complete');
  assert.ok(events.some((e) => e.event === 'choice_end'));
});

await test('grpc: the same seed gives the same text, another seed another', async () => {
  const texts = await Promise.all([7, 7, 8].map(async (seed) =>
    (await unary(inference, 'Generate', { ...request, sampling: { seed, temperature: 1 } })).choices[0].text));
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
});

await test('grpc: reflection finds the services and can call them without a proto file', async () => {
  for (const version of ['v1', 'v1alpha']) {
    const client = new reflection.GrpcReflection(engine.target, credentials, undefined, version);
    const services = await client.listServices();
    for (const name of ['bitnet.v1.InferenceService', 'bitnet.v1.ModelService', 'grpc.health.v1.Health'])
      assert.ok(services.includes(name), `${version} lists ${services}`);
    const descriptor = await client.getDescriptorBySymbol('bitnet.v1.InferenceService');
    const reflected = descriptor.getPackageObject(options);
    const caller = new reflected.bitnet.v1.InferenceService(engine.target, credentials);
    const events = await collect(caller.StreamGenerate(request));
    assert.ok(textOf(events).length > 20);
  }
});

await test('grpc: Tokenize and Detokenize are each other\'s inverse', async () => {
  const text = 'The princess said: “Où est l’été? 🙂”\n\n  two  spaces';
  const tokens = await unary(inference, 'Tokenize', { text });
  assert.ok(tokens.ids.length > 5 && tokens.pieces.length === tokens.ids.length);
  assert.equal((await unary(inference, 'Detokenize', { ids: tokens.ids })).text, text);
});

await test('grpc: logprobs, n and stop', async () => {
  const answer = await unary(inference, 'Generate', { ...request, n: 3, logprobs: true, top_logprobs: 4 });
  assert.equal(answer.choices.length, 3);
  for (const choice of answer.choices) {
    assert.equal(choice.logprobs.length, choice.token_ids.length);
    for (const entry of choice.logprobs) {
      assert.equal(entry.top.length, 4);
      assert.ok(entry.logprob <= 0 && entry.top[0].logprob >= entry.top[3].logprob);
    }
  }
  const word = answer.choices[0].text.trim().split(/\s+/)[4];
  const stopped = await unary(inference, 'Generate', { ...request, stop: [word] });
  assert.ok(!stopped.choices[0].text.includes(word));
  assert.equal(stopped.choices[0].finish_reason, 'FINISH_REASON_STOP');
});

const mean = (choice) => choice.logprobs.reduce((sum, t) => sum + t.logprob, 0) / choice.logprobs.length;
await test('grpc: best_of answers with the likeliest of what n would have given, and counts all', async () => {
  const r = { ...request, max_tokens: 30, sampling: { seed: 11, temperature: 1.2, top_p: 1, top_k: 0 } };
  const all = await unary(inference, 'Generate', { ...r, n: 8, logprobs: true, top_logprobs: 2 });
  const order = [...all.choices].sort((a, b) => mean(b) - mean(a));
  for (const n of [1, 3, 7]) {
    const best = await unary(inference, 'Generate', { ...r, n, best_of: 8, logprobs: n === 3, top_logprobs: n === 3 ? 2 : 0 });
    assert.deepEqual(best.choices.map((c) => c.index), [...Array(n).keys()]);
    assert.deepEqual(best.choices.map((c) => c.token_ids), order.slice(0, n).map((c) => c.token_ids));
    assert.deepEqual(best.choices.map((c) => c.logprobs), order.slice(0, n).map((c) => (n === 3 ? c.logprobs : [])));
    assert.equal(best.usage.completion_tokens, all.usage.completion_tokens);
  }
  const same = await unary(inference, 'Generate', { ...r, n: 2, best_of: 2 });
  assert.deepEqual(same.choices.map((c) => c.token_ids), all.choices.slice(0, 2).map((c) => c.token_ids));
  await rejects(unary(inference, 'Generate', { ...r, n: 3, best_of: 2 }), grpc.status.INVALID_ARGUMENT, /best_of/);
  await rejects(unary(inference, 'Generate', { ...r, best_of: 9 }), grpc.status.INVALID_ARGUMENT, /best_of/);
  await rejects(collect(inference.StreamGenerate({ ...r, best_of: 2 })), grpc.status.INVALID_ARGUMENT, /best_of/);
  assert.equal((await collect(inference.StreamGenerate({ ...r, n: 2, best_of: 2 }))).at(-1).event, 'complete');
});

// A grammar that leaves one token leaves one alternative.
await test('grpc: alternatives are no more than a grammar allows', async () => {
  const answer = await unary(inference, 'Generate', { ...request, response_format: { regex: '(yes|no)' }, logprobs: true, top_logprobs: 20 });
  const [choice] = answer.choices;
  assert.match(choice.text, /^(yes|no)$/);
  for (const entry of choice.logprobs) {
    assert.ok(entry.top.length >= 1 && entry.top.length < 20, `${entry.top.length}`);
    assert.equal(new Set(entry.top.map((t) => t.token_id)).size, entry.top.length);
    assert.ok(entry.top.every((t) => 'yesno'.includes(t.token.toString())), JSON.stringify(entry.top.map((t) => t.token.toString())));
  }
});

// Log-probabilities need all logits; without them the head computes only those that sampling reads.
await test('grpc: the screened head gives the tokens of the full one', async () => {
  for (const sampling of [{ temperature: 0 }, { seed: 1 }, { seed: 2, temperature: 1.5, top_k: 200, top_p: 1 },
                          { seed: 3, top_k: 7, presence_penalty: 1.5, frequency_penalty: 0.5 }]) {
    const r = { prompt: 'The old king', max_tokens: 200, ignore_eos: true, sampling };
    const [screened, full] = await Promise.all([r, { ...r, logprobs: true }].map((x) => unary(inference, 'Generate', x)));
    assert.deepEqual(screened.choices[0].token_ids, full.choices[0].token_ids, JSON.stringify(sampling));
  }
});

await test('grpc: chat is rendered by the template', async () => {
  const answer = await unary(inference, 'Generate', { chat: { messages: [{ role: 'user', content: 'Tell me a tale.' }] }, max_tokens: 30 });
  assert.ok(answer.choices[0].text.length > 10);
});

await test('grpc: the model list', async () => {
  const { models: list } = await unary(models, 'List', {});
  assert.equal(list.length, 1);
  assert.equal(list[0].id, 'tales');
  assert.equal(list[0].status, 'MODEL_STATUS_ACTIVE');
});

await test('grpc: health Check and Watch, unknown services', async () => {
  for (const service of ['', 'bitnet.v1.InferenceService'])
    assert.equal((await unary(health, 'Check', { service })).status, 'SERVING');
  await rejects(unary(health, 'Check', { service: 'nobody' }), grpc.status.NOT_FOUND);
  const watch = health.Watch({ service: 'nobody' });
  const [first] = await new Promise((resolve, reject) => watch.on('data', (d) => resolve([d])).on('error', reject));
  assert.equal(first.status, 'SERVICE_UNKNOWN');
  watch.on('error', () => {});
  watch.cancel();
});

await test('grpc: errors say what was expected', async () => {
  await rejects(unary(inference, 'Generate', { ...request, model: 'nobody' }), grpc.status.NOT_FOUND, /nobody/);
  await rejects(unary(inference, 'Generate', { ...request, sampling: { temperature: 3 } }), grpc.status.INVALID_ARGUMENT, /temperature/);
  await rejects(unary(inference, 'Generate', { ...request, prompt: 'word '.repeat(6000) }), grpc.status.INVALID_ARGUMENT, /context/);
  await rejects(unary(inference, 'Generate', { prompt: '' , tokens: { ids: [999999] } }), grpc.status.INVALID_ARGUMENT);
});

await test('grpc: an unknown method is UNIMPLEMENTED at once', async () => {
  const client = new grpc.Client(engine.target, credentials);
  const call = new Promise((resolve, reject) => client.makeUnaryRequest('/bitnet.v1.InferenceService/Nothing', (b) => b, (b) => b, Buffer.alloc(0),
    { deadline: Date.now() + 5000 }, (error, answer) => (error ? reject(error) : resolve(answer))));
  await rejects(call, grpc.status.UNIMPLEMENTED);
});

await test('grpc: invalid UTF-8 in a prompt is INVALID_ARGUMENT', async () => {
  const client = new grpc.Client(engine.target, credentials);
  const bytes = Buffer.from([0x12, 0x03, 0x41, 0xff, 0xfe]); // field 2 (prompt), "A\xff\xfe"
  const call = new Promise((resolve, reject) => client.makeUnaryRequest('/bitnet.v1.InferenceService/Generate', (b) => b, (b) => b, bytes,
    { deadline: Date.now() + 5000 }, (error, answer) => (error ? reject(error) : resolve(answer))));
  await rejects(call, grpc.status.INVALID_ARGUMENT, /UTF-8/);
});

await test('grpc: a NUL in a prompt is refused, not cut', async () => {
  await rejects(unary(inference, 'Generate', { ...request, prompt: 'A\0B' }), grpc.status.INVALID_ARGUMENT, /NUL/);
});

await test('grpc: a deadline in mid-stream ends the call', async () => {
  const started = Date.now();
  await rejects(unary(inference, 'Generate', { ...request, max_tokens: 1900, ignore_eos: true }, { deadline: Date.now() + 200 }),
                grpc.status.DEADLINE_EXCEEDED);
  assert.ok(Date.now() - started < 3000);
  await until('sequence freed', 1000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
});

await test('grpc: a client that disconnects in mid-stream frees its sequence within a second', async () => {
  const before = await metric(engine.admin, 'bitnet_kv_cache_blocks', { state: 'used' });
  const call = inference.StreamGenerate({ ...request, max_tokens: 1900, ignore_eos: true });
  call.on('error', () => {});
  await new Promise((resolve) => call.once('data', resolve));
  assert.equal(await metric(engine.admin, 'bitnet_requests_running'), 1);
  call.cancel();
  await until('sequence freed', 1000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
  assert.equal(await metric(engine.admin, 'bitnet_kv_cache_blocks', { state: 'used' }), before);
});

await test('grpc: 64 concurrent streams give exactly what each gives alone', async () => {
  const requests = Array.from({ length: 64 }, (_, i) => ({
    prompt: ['Once upon a time', 'The old king', 'Peter Rabbit ran', 'In the forest there lived a'][i % 4] + ' '.repeat(i % 3),
    max_tokens: 16 + (i * 7) % 40, ignore_eos: true, sampling: { seed: i, temperature: i % 5 === 0 ? 0 : 0.9, top_k: i % 2 ? 40 : 0 } }));
  const together = await Promise.all(requests.map((r) => collect(inference.StreamGenerate(r))));
  for (const [i, r] of requests.entries()) {
    const alone = await unary(inference, 'Generate', r);
    assert.equal(together[i].at(-1).event, 'complete');
    const ids = together[i].filter((e) => e.event === 'token').flatMap((e) => e.token.tokens.map((t) => t.id));
    assert.deepEqual(ids, alone.choices[0].token_ids, `request ${i}`);
    assert.equal(ids.length, r.max_tokens);
  }
});

await test('grpc: SIGTERM lets running streams finish, then exits 0', async () => {
  const other = await startEngine();
  const client = new api.bitnet.v1.InferenceService(other.target, credentials);
  const stream = client.StreamGenerate({ ...request, max_tokens: 300, ignore_eos: true });
  const events = collect(stream);
  await new Promise((resolve) => stream.once('data', resolve));
  const ended = stop(other.child);
  assert.equal((await events).at(-1).event, 'complete');
  assert.deepEqual(await ended, { code: 0, signal: null });
});

await test('grpc: an engine without its model says why and exits 1', async () => {
  const child = start('bitnet-engine', ['--model', '/nonexistent/x.gguf', '--listen', `127.0.0.1:${await freePort()}`, '--admin-listen', `127.0.0.1:${await freePort()}`]);
  assert.equal((await child.ended).code, 1);
  assert.match(child.log(), /nonexistent/);
});

await test('grpc: a public address without TLS is refused', async () => {
  const child = start('bitnet-engine', ['--model', model, '--listen', `0.0.0.0:${await freePort()}`, '--admin-listen', `127.0.0.1:${await freePort()}`]);
  assert.notEqual((await child.ended).code, 0);
  assert.match(child.log(), /TLS/);
});

await done();
