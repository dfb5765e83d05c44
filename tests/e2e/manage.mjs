// Model management over REST with a real engine: loads, swaps, unloads, who may, what is refused, and how several engines change together.
// Other models are made of the bundled one. timeout: 180
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import OpenAI from 'openai';
import YAML from 'yaml';
import { build, done, get, metric, model, post, root, startEngine, startGateway, stop, test, until } from './lib/harness.mjs';
import { Spec } from './lib/spec.mjs';
import { bearer, file, token } from './lib/tokens.mjs';

const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-manage-')), models = path.join(folder, 'models');
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
mkdirSync(models);
const at = (name) => path.join(models, name);
copyFileSync(model, at('one.gguf'));
// The same with an embedding of four bits: sound too, and as fast, but other probabilities.
execFileSync(path.join(build, 'bitnet'), ['quantize', model, at('two.gguf'), '--embedding', 'q4_0'], { stdio: 'ignore' });
copyFileSync(model, path.join(folder, 'outside.gguf'));
symlinkSync(path.join(folder, 'outside.gguf'), at('link.gguf'));
symlinkSync('/dev/zero', at('zero.gguf'));
execFileSync('mkfifo', [at('fifo.gguf')]);
mkdirSync(at('folder.gguf'));
writeFileSync(at('text.gguf'), 'Once upon a time\n'.repeat(100));
copyFileSync(at('one.gguf'), at('short.gguf'));
truncateSync(at('short.gguf'), 100000);
execFileSync(path.join(build, 'bitnet'), ['synth', '--preset', 'tiny', '-o', at('random.gguf')], { stdio: 'ignore' });

const key = 'a secret of at least thirty-two bytes', withKey = ['--jwt-key', file('secret', key), '--jwt-alg', 'HS256'];
const as = (...scopes) => bearer(token({ alg: 'HS256', key }, { scopes }));
const all = as('model:read', 'model:write', 'model:manage');
const spec = new Spec(YAML.parse(readFileSync(path.join(root, 'gateway/openapi.yaml'), 'utf8'), { maxAliasCount: -1 }));
const operation = Object.fromEntries(spec.operations().map((o) => [o.id, o]));

// The smallest checks: what they find is tested elsewhere.
const quick = { validation_config: { enable_cross_validation: false }, cache_config: { cache_size_mb: 100 } };
class Door {
  constructor(url) { this.url = url; }
  async ask(id, target, body, headers = all, options = {}) {
    const o = operation[id];
    const answer = await get(this.url + target, { method: o.method, headers: { ...headers, 'content-type': 'application/json' },
                                                  ...(body && { body: JSON.stringify(body) }), ...options });
    spec.checkAnswer(o, answer, `${id} ${JSON.stringify(body)}`);
    return answer;
  }
  load(name, rest = {}, headers, options) { return this.ask('loadModel', '/v1/models/load', { model_path: name.startsWith('/') ? name : at(name), ...quick, ...rest }, headers, options); }
  swap(name, id, rest = {}, headers) { return this.ask('swapModel', '/v1/models/swap', { new_model_path: at(name), target_model_id: id, ...rest }, headers); }
  unload(id, headers) { return this.ask('unloadModel', `/v1/models/${id}`, undefined, headers); }
  status(id) { return this.ask('getModelStatus', `/v1/models/${id}/status`); }
  async ids() { return (await this.ask('listModels', '/v1/models')).json.models.filter((m) => m.status === 'active').map((m) => m.id).sort(); }
  infer(model, headers = all) { return post(`${this.url}/v1/inference`, { prompt: 'Once upon a time', max_tokens: 3, model }, { headers }); }
}

const engine = await startEngine(['--model-dirs', models]);
const gateway = await startGateway(engine.target, withKey), door = new Door(gateway.url);
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: all.authorization.slice(7), maxRetries: 0 });

await test('manage: a model is loaded, is listed by both APIs, answers in both, and the default stays', async () => {
  const { status, json } = await door.load('one.gguf', { validation_config: { validation_samples: 10 } });
  assert.equal(status, 200, JSON.stringify(json));
  assert.equal(json.model_id, 'one');
  assert.equal(json.status, 'loaded');
  assert.equal(json.model_metadata.architecture, 'bitnet-b1.58');
  assert.equal(json.validation_results.gguf_validation.format_valid, true);
  assert.equal(json.validation_results.quantization_validation.accuracy_score, 1); // the kernels agree with the portable ones to the bit
  assert.ok(json.validation_results.performance_validation.device_compatibility.includes('cpu'));
  assert.deepEqual(await door.ids(), ['one', 'tales']);
  assert.deepEqual((await client.models.list()).data.map((m) => m.id).sort(), ['one', 'tales']);
  assert.equal((await door.infer('one')).json.model_id, 'one');
  assert.equal((await door.infer(undefined)).json.model_id, 'tales');
  assert.equal((await client.completions.create({ model: 'one', prompt: 'a', max_tokens: 2 })).model, 'one');
  assert.equal((await client.chat.completions.create({ model: 'tales', messages: [{ role: 'user', content: 'a' }], max_tokens: 2 })).model, 'tales');
  const seen = (await door.status('one')).json;
  assert.equal(seen.status, 'active');
  assert.equal(seen.path, at('one.gguf'));
});

await test('manage: a model that nobody has is a 404 in both APIs, and the error says what there is', async () => {
  const { status, json } = await door.infer('nobody');
  assert.equal(status, 404);
  assert.equal(json.error.code, 'MODEL_NOT_FOUND');
  assert.match(json.error.message, /one.*tales/);
  await assert.rejects(client.chat.completions.create({ model: 'nobody', messages: [{ role: 'user', content: 'a' }] }), (e) => e instanceof OpenAI.NotFoundError);
  await assert.rejects(client.models.retrieve('nobody'), (e) => e instanceof OpenAI.NotFoundError);
  for (const p of ['/tokenize', '/v1/completions']) assert.equal((await post(gateway.url + p, { model: 'nobody', text: 'a', prompt: 'a' }, { headers: all })).status, 404, p);
});

await test('manage: without a token 401, with another scope 403, on every call', async () => {
  const calls = { write: () => [(h) => door.load('two.gguf', {}, h)], manage: () => [(h) => door.swap('two.gguf', 'one', {}, h), (h) => door.unload('one', h)] };
  for (const [scope, make] of Object.entries(calls))
    for (const call of make()) {
      assert.equal((await call({})).status, 401);
      for (const other of ['read', 'write', 'manage'].filter((s) => s !== scope)) {
        const { status, json } = await call(as(`model:${other}`));
        assert.equal(status, 403);
        assert.equal(json.error.code, 'AUTHORIZATION_FAILED');
      }
    }
  const open = await startGateway(engine.target);
  assert.equal((await new Door(open.url).load('two.gguf', {}, {})).status, 403); // without keys it is closed to all
  await stop(open.child);
  assert.deepEqual(await door.ids(), ['one', 'tales']);
});

await test('manage: what is outside of the folders, no file or no model is refused, and nothing of it stays', async () => {
  const cases = [[path.join(folder, 'outside.gguf'), 403], ['/etc/passwd.gguf', 403], ['link.gguf', 403], ['zero.gguf', 403], ['fifo.gguf', 422],
                 ['folder.gguf', 422], ['text.gguf', 422], ['short.gguf', 422], ['random.gguf', 422], ['missing.gguf', 404]];
  for (const [name, ...statuses] of cases) {
    const { status, json } = await door.load(name, { model_id: 'bad' });
    assert.ok(statuses.includes(status), `${name}: ${status} ${JSON.stringify(json)}`);
    assert.ok(json.error.details.engine, name);
    if (status === 422) {
      assert.equal(json.status, 'failed', name);
      assert.equal(json.error_details.error_code, json.error.code, name);
      assert.ok([null, 'model_path'].includes(json.error.param), `${name}: ${json.error.param}`); // a field of the request, not a tensor
      assert.equal(json.validation_results?.quantization_validation, undefined, name); // it came to nothing that is measured
    }
  }
  assert.deepEqual(await door.ids(), ['one', 'tales']);
  const taken = await door.load('two.gguf', { model_id: 'one' });
  assert.equal(taken.status, 409, JSON.stringify(taken.json));
});

await test('manage: a refused model as a problem has what was found in result', async () => {
  const { status, json } = await door.load('short.gguf', {}, { ...all, accept: 'application/problem+json' });
  assert.equal(status, 422);
  assert.equal(json.status, 422);
  assert.equal(json.result.status, 'failed');
});

await test('manage: a client that goes away does not end a load', async () => {
  const controller = new AbortController();
  const gone = assert.rejects(door.load('two.gguf', {}, all, { signal: controller.signal }));
  setTimeout(() => controller.abort(), 5);
  await gone;
  await until('two is loaded', 20000, async () => (await door.ids()).includes('two'));
});

await test('manage: a swap moves requests to the new file, under the same id', async () => {
  const score = async () => (await post(`${gateway.url}/v1/completions`, { prompt: 'Once upon a time', max_tokens: 0, echo: true, logprobs: 0, model: 'one' }, { headers: all })).json.choices[0].logprobs.token_logprobs[3];
  const before = await score();
  const { status, json } = await door.swap('two.gguf', 'one', { health_check_config: { accuracy_threshold: 0.9, inference_test_prompts: ['Once upon a time'] } });
  assert.equal(status, 200, JSON.stringify(json));
  assert.equal(json.status, 'completed');
  assert.match(json.swap_id, /^[0-9a-f-]{36}$/);
  assert.equal(json.new_model_metadata.model_id, 'one');
  assert.equal(json.rollback_info.rollback_performed, false);
  const after = await score();
  assert.ok(after < 0 && before < 0 && after !== before, `${before} ${after}`);
  assert.equal((await door.status('one')).json.path, at('two.gguf'));
});

await test('manage: a swap that cannot be is refused, and the old model stays', async () => {
  const before = (await door.status('one')).json.path;
  const corrupt = await door.swap('short.gguf', 'one');
  assert.equal(corrupt.status, 422, JSON.stringify(corrupt.json));
  assert.ok(['failed', 'rolled_back'].includes(corrupt.json.status));
  assert.ok(corrupt.json.swap_phases);
  assert.equal((await door.swap('two.gguf', 'nobody')).status, 404);
  assert.equal((await door.swap('link.gguf', 'one')).status, 403);
  assert.equal((await door.status('one')).json.path, before);
  assert.equal((await door.infer('one')).status, 200);
});

await test('manage: a model is unloaded; the last one that is the default is not', async () => {
  for (const id of ['one', 'two']) {
    assert.equal((await door.unload(id)).status, 204);
    assert.equal((await door.unload(id)).status, 404);
    assert.equal((await door.infer(id)).status, 404);
  }
  const { status, json } = await door.unload('tales');
  assert.equal(status, 409);
  assert.equal(json.error.code, 'CONFLICT');
  assert.deepEqual(await door.ids(), ['tales']);
});

await test('manage: several engines change one after the other; a change that ends on the way can be taken back', async () => {
  const closed = await startEngine(); // no folders: it loads nothing
  const open = await startEngine(['--model-dirs', models]);
  const door2 = await startGateway(`${engine.target},${open.target}`, withKey), both = new Door(door2.url);
  const door3 = await startGateway(`${engine.target},${closed.target}`, withKey), mixed = new Door(door3.url);
  await until('all serve', 10000, async () => (await metric(door2.admin, 'bitnet_engine_up')) === 2 && (await metric(door3.admin, 'bitnet_engine_up')) === 2);
  assert.equal((await both.load('one.gguf')).status, 200);
  for (let i = 0; i < 4; i++) assert.equal((await both.infer('one')).status, 200); // in turns, on both
  assert.equal((await both.unload('one')).status, 204);
  const partly = await mixed.load('one.gguf');
  assert.equal(partly.status, 403, JSON.stringify(partly.json));
  assert.deepEqual(partly.json.error.details, { engine: closed.target, changed_engines: [engine.target] });
  assert.deepEqual(await mixed.ids(), ['one', 'tales']);
  assert.equal((await mixed.unload('one')).status, 204); // of the one that has it
  assert.deepEqual(await mixed.ids(), ['tales']);
  await stop(open.child, 'SIGKILL');
  await until('the loss is known', 10000, async () => (await metric(door2.admin, 'bitnet_engine_up')) === 1);
  assert.equal((await both.load('one.gguf')).status, 503);
  assert.deepEqual(await door.ids(), ['tales']); // nothing was begun
});

await done();
