// Embeddings, from OpenAI's client to the engine: forms of input and of vectors, limits, and models that do the one or the other. The models are
// made here; what a vector must be is tested against a reference in the engine's unit tests.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import OpenAI from 'openai';
import YAML from 'yaml';
import { build, done, get, metric, model, post, root, sleep, startEngine, startGateway, startPair, stop, test, until } from './lib/harness.mjs';
import { clients, refused, status as grpcStatus, unary } from './lib/rpc.mjs';
import { Spec } from './lib/spec.mjs';
import { bearer, file, token } from './lib/tokens.mjs';

const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-embeddings-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const made = (name, ...args) => shaped('tiny', name, ...args);
const shaped = (preset, name, ...args) => {
  const to = path.join(folder, `${name}.gguf`);
  execFileSync(path.join(build, 'bitnet'), ['synth', '--preset', preset, '--layers', '2', '--seed', '1', '-o', to, ...args], { stdio: 'ignore' });
  return to;
};
const files = { mean: made('mean', '--pooling', 'mean', '--not-causal'), last: made('last', '--pooling', 'last') };
const spec = new Spec(YAML.parse(readFileSync(path.join(root, 'gateway/openapi.yaml'), 'utf8'), { maxAliasCount: -1 }));
const operation = spec.operations().find((o) => o.id === 'createEmbedding');

// The last --model counts.
const { engine, gateway } = await startPair(['--model', files.mean]);
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'none', maxRetries: 0 });
const SIZE = 256;
const create = (input, rest = {}) => client.embeddings.create({ model: 'mean', input, ...rest });
const raw = async (body) => {
  const answer = await post(`${gateway.url}/v1/embeddings`, body);
  spec.checkAnswer(operation, answer, JSON.stringify(body).slice(0, 100));
  return answer;
};
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const ids = async (text) => (await post(`${gateway.url}/tokenize`, { text, add_special: true })).json.tokens;

await test('embeddings: the client gets vectors of length 1, one for each text, and the usage', async () => {
  const { data, usage, object, model: name } = await create(['Once upon a time', 'a king', 'Once upon a time']);
  assert.equal(object, 'list');
  assert.equal(name, 'mean');
  assert.deepEqual(data.map((d) => d.index), [0, 1, 2]);
  for (const { embedding } of data) {
    assert.equal(embedding.length, SIZE);
    assert.ok(Math.abs(dot(embedding, embedding) - 1) < 1e-5);
  }
  assert.deepEqual(data[0].embedding, data[2].embedding);
  assert.ok(dot(data[0].embedding, data[1].embedding) < 0.999);
  const tokens = (await Promise.all(['Once upon a time', 'a king', 'Once upon a time'].map(ids))).flat().length;
  assert.deepEqual(usage, { prompt_tokens: tokens, total_tokens: tokens });
});

await test('embeddings: text or its token ids, numbers or base64, alone or with others: the same vector', async () => {
  const text = 'Once upon a time', tokens = await ids(text);
  const [base] = (await create(text)).data; // the client asks for base64
  const floats = (await create(text, { encoding_format: 'float' })).data[0].embedding;
  assert.deepEqual(floats.map(Math.fround), Array.from(base.embedding, Math.fround));
  const encoded = (await raw({ input: text, encoding_format: 'base64' })).json.data[0].embedding;
  assert.deepEqual(Array.from(new Float32Array(Uint8Array.from(Buffer.from(encoded, 'base64')).buffer)), floats.map(Math.fround));
  for (const input of [tokens, [tokens], [text]]) assert.deepEqual((await create(input, { encoding_format: 'float' })).data[0].embedding, floats);
  const many = (await create(Array.from({ length: 256 }, (_, i) => (i === 200 ? text : `text ${i}`)), { encoding_format: 'float' })).data;
  assert.equal(many.length, 256);
  assert.deepEqual(many[200].embedding, floats);
});

await test('embeddings: fewer dimensions are the first of them, at length 1 again', async () => {
  const whole = (await create('a king', { encoding_format: 'float' })).data[0].embedding;
  const cut = (await create('a king', { encoding_format: 'float', dimensions: 32 })).data[0].embedding;
  assert.equal(cut.length, 32);
  const length = Math.hypot(...whole.slice(0, 32));
  cut.forEach((x, i) => assert.ok(Math.abs(x - whole[i] / length) < 1e-6));
  const { status, json } = await raw({ input: 'a', dimensions: SIZE + 1 });
  assert.equal(status, 400);
  assert.equal(json.error.param, 'dimensions');
});

await test('embeddings: faults are named', async () => {
  for (const [body, param, message] of [
    [{}, 'input'], [{ input: '' }, 'input'], [{ input: [] }, 'input'], [{ input: ['a', ''] }, 'input'], [{ input: Array(257).fill('a') }, 'input', /256/],
    [{ input: [[1], [999999]] }, 'input', /inputs\[1\].*999999/], [{ input: 'little '.repeat(2000) }, 'input', /tokens/],
    [{ input: 'a', encoding_format: 'hex' }, 'encoding_format'], [{ input: 'a', dimensions: 0 }, 'dimensions']]) {
    const { status, json } = await raw(body);
    assert.equal(status, 400, JSON.stringify(body).slice(0, 80));
    assert.equal(json.error.param, param, JSON.stringify(json));
    if (message) assert.match(json.error.message, message);
  }
  assert.equal((await raw({ input: 'a', model: 'nobody' })).status, 404);
});

await test('embeddings: over gRPC the same vectors, and errors that name the input', async () => {
  const { inference } = clients(engine.target), tokens = await ids('a king');
  const { embeddings, prompt_tokens: n, model: name } = await unary(inference, 'Embed', { inputs: [{ text: 'a king' }, { tokens: { ids: tokens } }] });
  assert.equal(name, 'mean');
  assert.equal(n, 2 * tokens.length);
  assert.deepEqual(embeddings[0].values, embeddings[1].values);
  assert.deepEqual(embeddings[0].values, (await create('a king', { encoding_format: 'float' })).data[0].embedding.map(Math.fround));
  const fails = (request, field) => refused(unary(inference, 'Embed', request), 'VALIDATION_FAILED', { grpc: grpcStatus.INVALID_ARGUMENT, field });
  await fails({ inputs: [] }, 'inputs');
  await fails({ inputs: Array(257).fill({ text: 'a' }) }, 'inputs');
  await fails({ inputs: [{ text: 'a' }, { tokens: { ids: [] } }] }, 'inputs[1]');
  await fails({ inputs: [{ tokens: { ids: [99999999] } }] }, 'inputs[0]');
  await fails({ inputs: [{ text: 'a' }], dimensions: SIZE + 1 }, 'dimensions');
  await refused(unary(inference, 'Embed', { inputs: [{ text: 'a' }], model: 'nobody' }), 'MODEL_NOT_FOUND');
  await refused(unary(inference, 'Embed', { inputs: Array(256).fill({ text: 'a '.repeat(200) }), timeout_ms: 1 }), 'DEADLINE_EXCEEDED');
  await refused(unary(inference, 'Generate', { prompt: 'a' }), 'VALIDATION_FAILED', { field: 'model' });
});

await test('embeddings: a model that embeds does not generate, and one that generates does not embed', async () => {
  for (const [to, body] of [['/v1/completions', { prompt: 'a' }], ['/v1/chat/completions', { messages: [{ role: 'user', content: 'a' }] }], ['/v1/inference', { prompt: 'a' }]]) {
    const { status, json } = await post(gateway.url + to, body);
    assert.equal(status, 400, to);
    assert.equal(json.error.param, 'model', to);
  }
  const pair = await startPair();
  await assert.rejects(new OpenAI({ baseURL: `${pair.gateway.url}/v1`, apiKey: 'none' }).embeddings.create({ model: 'tales', input: 'a' }),
                       (e) => e instanceof OpenAI.BadRequestError && e.param === 'model' && /generates/.test(e.message));
  await stop(pair.gateway.child);
  await stop(pair.engine.child);
});

await test('embeddings: a client that goes away leaves nothing behind, and other clients go on', async () => {
  const controller = new AbortController();
  const body = { input: Array.from({ length: 256 }, (_, i) => `${i} `.repeat(60)) };
  const gone = Array.from({ length: 4 }, () => post(`${gateway.url}/v1/embeddings`, body, { signal: controller.signal }).catch((e) => e.name));
  await sleep(30);
  const other = create('a king');
  await sleep(30);
  controller.abort();
  assert.ok((await Promise.all(gone)).some((g) => g === 'AbortError'));
  assert.equal((await other).data.length, 1);
  await until('nothing runs', 20000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
});

await test('embeddings: a deadline is a 504, and a queue that is full is waited for', async () => {
  const small = await startEngine(['--model', files.last, '--queue-limit', '4', '--max-sequences', '2']);
  const door = await startGateway(small.target);
  await until('it serves', 10000, async () => (await get(`${door.url}/health/ready`)).status === 200);
  const many = await post(`${door.url}/v1/embeddings`, { input: Array(64).fill('Once upon a time') });
  assert.equal(many.status, 200, many.text.slice(0, 300)); // its inputs wait for each other
  const hasty = await startGateway(small.target, ['--request-timeout-ms', '2']);
  await until('it serves', 10000, async () => (await get(`${hasty.url}/health/ready`)).status === 200);
  const late = await post(`${hasty.url}/v1/embeddings`, { input: Array(256).fill('little king '.repeat(100).slice(0, 300)) });
  assert.equal(late.status, 504, late.text.slice(0, 300));
  assert.equal(late.json.error.code, 'DEADLINE_EXCEEDED');
});

await test('embeddings: a model of qwen3 gives the hidden state of the EOS that ends its text', async () => {
  const pair = await startPair(['--model', shaped('tiny-qwen3', 'qwen', '--pooling', 'last')]);
  const embed = async (input) => (await post(`${pair.gateway.url}/v1/embeddings`, { input })).json.data[0].embedding;
  const { tokens } = (await post(`${pair.gateway.url}/tokenize`, { text: 'a king of 1001', add_special: true })).json;
  assert.equal(tokens.at(-1), 1025);
  assert.deepEqual(await embed('a king of 1001'), await embed(tokens));
  assert.notDeepEqual(await embed('a king of 1001'), await embed(tokens.slice(0, -1)));
  assert.equal((await embed('a king')).length, 256);
  await stop(pair.gateway.child);
  await stop(pair.engine.child);
});

await test('embeddings: beside a model that generates, each does its own', async () => {
  const key = 'a secret of at least thirty-two bytes', headers = bearer(token({ alg: 'HS256', key }, { scopes: ['model:write', 'model:read', 'model:manage'] }));
  const both = await startEngine(['--model-dirs', folder]);
  const door = await startGateway(both.target, ['--jwt-key', file('secret', key), '--jwt-alg', 'HS256']);
  await until('it serves', 10000, async () => (await get(`${door.url}/health/ready`)).status === 200);
  const loaded = await post(`${door.url}/v1/models/load`, { model_path: files.mean, validation_config: { validation_samples: 10 }, cache_config: { cache_size_mb: 100 } }, { headers });
  assert.equal(loaded.status, 200, loaded.text);
  const ask = async (to, body) => (await post(door.url + to, body, { headers })).json;
  assert.deepEqual((await ask('/v1/embeddings', { model: 'mean', input: 'a king' })).data[0].embedding,
                   (await create('a king', { encoding_format: 'float' })).data[0].embedding);
  assert.deepEqual((await get(`${door.url}/v1/models`, { headers })).json.models.map((m) => [m.id, m.computes_embeddings]), [['mean', true], ['tales', undefined]]);
  assert.equal((await ask('/v1/inference', { prompt: 'a', max_tokens: 1 })).model_id, 'tales');
  assert.equal((await ask('/v1/embeddings', { input: 'a' })).error.param, 'model'); // the default generates
  const swap = (to, id) => post(`${door.url}/v1/models/swap`, { new_model_path: to, target_model_id: id, health_check_config: { inference_test_prompts: ['a king'] } }, { headers });
  const swapped = await swap(files.last, 'mean');
  assert.equal(swapped.status, 200, swapped.text);
  assert.equal(swapped.json.health_check_results.overall_healthy, true);
  const other = await swap(files.last, 'tales');
  assert.equal(other.status, 422, other.text);
  assert.equal(other.json.error_details.validation_failures[0].validation_type, 'kind');
  assert.equal((await ask('/v1/inference', { prompt: 'a', max_tokens: 1 })).model_id, 'tales');
});

await done();
