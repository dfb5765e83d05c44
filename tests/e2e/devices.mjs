// Devices that fail, are too small or are not there, with GPUs that are fakes (BITNET_GPU_FAKE; they compute as the CPU does): what clients, health,
// metrics and the list of devices see. timeout: 120
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import YAML from 'yaml';
import { readFileSync } from 'node:fs';
import { build, done, get, metric, model, parseEvents, post, root, startGateway, startPair, stop, test, until } from './lib/harness.mjs';
import { Spec } from './lib/spec.mjs';
import { bearer, file, token } from './lib/tokens.mjs';

const key = 'a secret of at least thirty-two bytes';
const spec = new Spec(YAML.parse(readFileSync(path.join(root, 'gateway/openapi.yaml'), 'utf8'), { maxAliasCount: -1 }));
const operation = Object.fromEntries(spec.operations().map((o) => [o.id, o]));
const prompts = ['Once upon a time', 'The king had', 'In a dark wood', 'An old woman', 'There was a fox', 'One day the miller', 'Far away', 'The youngest'];
const question = (prompt, i) => ({ prompt, max_tokens: 40, temperature: i % 2 ? 0.9 : 0, seed: i });

async function pair(gpus, ...args) {
  process.env.BITNET_GPU_FAKE = gpus;
  const p = await startPair(args);
  delete process.env.BITNET_GPU_FAKE;
  return p;
}
const close = async (p) => { await stop(p.gateway.child); return stop(p.engine.child); };
const ask = async (p, body) => {
  const answer = await post(`${p.gateway.url}/v1/inference`, body);
  assert.equal(answer.status, 200, answer.text);
  spec.checkAnswer(operation.createInference, answer, 'inference');
  return answer.json;
};
async function stream(p, body) {
  const { status, text } = await post(`${p.gateway.url}/v1/inference/stream`, body);
  assert.equal(status, 200);
  const events = parseEvents(text);
  assert.equal(events.at(-1).event, 'complete', text);
  return events.filter((e) => e.event === 'token').map((e) => JSON.parse(e.data).text).join('');
}
const devices = async (p) => {
  const answer = await get(`${p.gateway.url}/v1/devices`);
  spec.checkAnswer(operation.listDevices, answer, 'devices');
  return answer.json;
};
const health = async (p) => (await get(`${p.gateway.url}/health`)).json;

const expected = await (async () => {
  const cpu = await pair('none', '--device', 'cpu');
  const texts = await Promise.all(prompts.map((prompt, i) => stream(cpu, question(prompt, i))));
  await close(cpu);
  return texts;
})();

await test('devices: streams under way go on, token for token, where the model is after its device failed', async () => {
  const p = await pair('fail:60', '--device', 'auto');
  assert.deepEqual((await devices(p)).fallback_order, ['cuda:0', 'cpu']);
  assert.equal((await health(p)).status, 'healthy');
  const long = ask(p, { prompt: 'The end of the tale', max_tokens: 120, temperature: 0, stop_sequences: [] });
  const texts = await Promise.all(prompts.map((prompt, i) => stream(p, question(prompt, i))));
  assert.deepEqual(texts, expected);
  assert.equal((await long).device_used, 'cuda:0,cpu'); // the answer names both
  assert.equal((await ask(p, { prompt: 'a', max_tokens: 2 })).device_used, 'cpu');
  const { devices: list } = await devices(p);
  assert.deepEqual(list.map((d) => [d.id, d.status]), [['cuda:0', 'failed'], ['cpu', 'active']]);
  await until('degraded health', 10000, async () => (await health(p)).status === 'degraded'); // an answer is kept for a while
  assert.match(JSON.stringify((await health(p)).components.execution_router), /cuda:0 .*failed/);
  assert.equal((await get(`${p.gateway.url}/health/ready`)).status, 200);
  assert.equal(await metric(p.engine.admin, 'bitnet_fallback_total', { from: 'cuda:0', to: 'cpu', reason: 'failed' }), 1);
  assert.equal(await metric(p.engine.admin, 'bitnet_errors_total', { type: 'device' }), 1);
  const { text: page } = await get(`${p.engine.admin}/metrics`);
  assert.doesNotMatch(page, /bitnet_device_info\{device="cuda:0"/); // gauges are of now,
  assert.match(page, /bitnet_tokens_generated_total\{[^}]*device="cuda:0"[^}]*\} [1-9]/); // counters of all time
  assert.match(page, /bitnet_tokens_generated_total\{[^}]*device="cpu"[^}]*\} [1-9]/);
  assert.equal((await get(`${p.gateway.url}/v1/stats?include_details=true`)).json.device_stats.fallback_events, 1);
  assert.match(p.engine.child.log(), /the device failed[^]*the model has moved to another device/);
  assert.equal((await close(p)).code, 0);
});

await test('devices: a GPU that is too small, or fails its self-test, is passed by when the model is loaded', async () => {
  const p = await pair('oom,broken', '--device', 'gpu');
  assert.equal((await ask(p, { prompt: 'a', max_tokens: 2 })).device_used, 'cpu');
  assert.deepEqual((await devices(p)).devices.map((d) => [d.id, d.status]), [['cuda:0', 'unavailable'], ['cuda:1', 'unavailable'], ['cpu', 'active']]);
  const ill = await health(p);
  assert.equal(ill.status, 'degraded');
  assert.match(JSON.stringify(ill.components.execution_router), /no memory on cuda:0.*cuda:1 .*self-test/);
  await close(p);
});

await test('devices: a request gets the kind of device that it wishes for, and a GPU its one layout', async () => {
  const p = await pair('ok', '--device', 'gpu', '--quantization', 'tl2', '--model-dirs', path.dirname(model));
  const keys = await startGateway(p.engine.target, ['--jwt-key', file('secret', key), '--jwt-alg', 'HS256']);
  const loaded = await post(`${keys.url}/v1/models/load`, { model_path: model, model_id: 'on-cpu', device_preference: 'cpu', quantization_format: 'tl2',
                                                            validation_config: { enable_cross_validation: false } },
                            { headers: bearer(token({ alg: 'HS256', key }, { scopes: ['model:write'] })) });
  assert.equal(loaded.status, 200, loaded.text);
  const answers = {};
  for (const device of ['auto', 'cpu', 'gpu'])
    answers[device] = await ask(p, { ...question(prompts[1], 1), device_preference: device, quantization_preference: 'tl2' });
  for (const [device, used, format] of [['auto', 'cuda:0', 'i2s'], ['cpu', 'cpu', 'tl2'], ['gpu', 'cuda:0', 'i2s']]) {
    assert.equal(answers[device].device_used, used);
    assert.equal(answers[device].quantization_used, format); // asked for tl2, a layout of CPUs
    assert.equal(answers[device].text, expected[1]);
  }
  await stop(keys.child);
  await close(p);
});

await test('devices: the tool lists them, and says which do not work', () => {
  const run = (gpus) => {
    try {
      return JSON.parse(execFileSync(path.join(build, 'bitnet'), ['devices', '--json'], { env: { ...process.env, BITNET_GPU_FAKE: gpus } }));
    } catch (e) {
      return { status: e.status, ...JSON.parse(e.stdout) };
    }
  };
  assert.deepEqual(run('ok').devices.map((d) => [d.id, d.works]), [['cuda:0', true], ['cpu', true]]);
  assert.equal(run('ok,broken').status, 1);
  assert.match(run('ok,broken').devices[1].error, /self-test/);
  assert.match(run('none').no_gpu, /none/);
});

await done();
