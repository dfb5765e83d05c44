// timeout: 480
// Several models in one engine over gRPC: load, list, get, unload, swap, the default, what survives a restart, what is refused, and the memory of all.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { done, get, metric, model, startEngine, start, stop, test, until } from './lib/harness.mjs';
import { change, changed, clients, refused, status, stream, unary } from './lib/rpc.mjs';
import { makeVariants } from './lib/variants.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-models-')), inside = path.join(dir, 'models'), outside = path.join(dir, 'other');
process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
const files = makeVariants(inside, { copy: 'copy', sure: ['tempered', 1.2], unsure: ['tempered', 0.85], wrong: 'wrong', nan: 'scaleIsNan', cut: 'truncated', words: 'text', slow: ['slow', 30] });
const strangers = makeVariants(outside, { stranger: 'copy' });
const state = path.join(dir, 'state');
const options = ['--model-dirs', inside, '--state-file', state, '--kv-cache-size', '8M'];
let engine = await startEngine(options), { inference, models, admin } = clients(engine.target);

const LONG = 120, SHORT = 20; // tokens
const request = { prompt: 'Once upon a time', max_tokens: SHORT, sampling: { seed: 7, temperature: 1 } };
const tokensOf = async (name, extra = {}) => (await unary(inference, 'Generate', { ...request, model: name, ...extra })).choices[0].token_ids;
const list = async (filter = {}) => (await unary(models, 'List', filter)).models;
const ids = async () => (await list()).map((m) => m.id);
const quick = { samples: 10 }; // positions that a load compares
const load = (request_) => changed(models, 'Load', { validation: quick, ...request_ });
const series = async (id) => (await get(`${engine.admin}/metrics`)).text.split('\n').filter((line) => line.includes(`model="${id}"`));
const ready = async () => (await get(`${engine.admin}/health/ready`)).status === 200;
// A long request that is running: `end` gives what came of it.
async function running(name) {
  const call = inference.StreamGenerate({ ...request, model: name, max_tokens: LONG, ignore_eos: true });
  const end = stream(call);
  await new Promise((resolve) => call.once('data', resolve));
  return { call, end };
}

const alone = { tales: await tokensOf('') };

// ---- load

await test('models: a second model is loaded while the first one serves', async () => {
  const { progress, result } = await load({ path: files.sure, aliases: ['gpt-4o-mini', 'acme/sure.v1'] });
  assert.deepEqual([result.model.id, result.model.status, result.error_code], ['sure', 'MODEL_STATUS_ACTIVE', '']);
  assert.ok(result.load_time_ms > 0 && result.validation.format_valid);
  assert.ok(progress.length > 0 && progress.some((p) => p.phase === 'loading'), JSON.stringify(progress));
  const [sure, tales] = await list();
  assert.deepEqual([sure.id, tales.id, sure.is_default, tales.is_default], ['sure', 'tales', false, true]);
  assert.deepEqual(sure.aliases, ['gpt-4o-mini', 'acme/sure.v1']);
  assert.equal(sure.path, files.sure);
  assert.ok(sure.parameter_count > 1e6 && sure.memory_bytes > 1e6 && sure.architecture === 'bitnet-b1.58' && sure.created_unix > 0);
});

await test('models: each request is served by the model that it names', async () => {
  alone.sure = await tokensOf('sure');
  assert.notDeepEqual(alone.sure, alone.tales);
  for (const name of ['gpt-4o-mini', 'acme/sure.v1', 'acme-sure-v1']) assert.deepEqual(await tokensOf(name), alone.sure);
  assert.deepEqual(await tokensOf('tales'), alone.tales);
  const [a, b] = await Promise.all([running('tales'), running('sure')].map(async (r) => (await r).end));
  assert.equal(a.events.at(-1).complete.model, 'tales');
  assert.equal(b.events.at(-1).complete.model, 'sure');
  assert.equal((await unary(inference, 'Tokenize', { model: 'sure', text: 'a' })).model, 'sure');
  await refused(unary(inference, 'Generate', { ...request, model: 'nobody' }), 'MODEL_NOT_FOUND', { grpc: status.NOT_FOUND, pattern: /nobody.*"sure".*"tales"/ });
  await refused(unary(inference, 'Tokenize', { model: 'nobody', text: 'a' }), 'MODEL_NOT_FOUND');
});

await test('models: get by id, alias and default; statistics are of each', async () => {
  assert.equal((await unary(models, 'Get', {})).id, 'tales');
  const sure = await unary(models, 'Get', { id: 'gpt-4o-mini' });
  assert.equal(sure.id, 'sure');
  assert.ok(sure.total_requests >= 5 && sure.avg_tokens_per_second > 0 && sure.avg_inference_time_ms > 0, JSON.stringify(sure));
  await refused(unary(models, 'Get', { id: 'nobody' }), 'MODEL_NOT_FOUND', { grpc: status.NOT_FOUND });
  assert.equal((await list({ status: ['MODEL_STATUS_FAILED', 'MODEL_STATUS_LOADING'] })).length, 0);
  assert.equal((await list({ status: ['MODEL_STATUS_ACTIVE'] })).length, 2);
});

await test('models: metrics, devices and health are of all', async () => {
  for (const [name, labels] of [['bitnet_tokens_generated_total', {}], ['bitnet_inference_requests_total', { finish_reason: 'length' }], ['bitnet_inter_token_latency_seconds_count', {}]])
    for (const id of ['tales', 'sure']) assert.ok((await metric(engine.admin, name, { ...labels, model: id })) > 0, `${name} of ${id}`);
  assert.ok((await metric(engine.admin, 'bitnet_model_memory_usage_bytes', { model: 'sure', component: 'weights' })) > 1e6);
  assert.equal(await metric(engine.admin, 'bitnet_device_info', { device: 'cpu' }), 1);
  assert.ok((await metric(engine.admin, 'bitnet_device_utilization_ratio', { device: 'cpu' })) > 0);
  const [cpu] = (await unary(admin, 'Devices')).devices.filter((d) => d.id === 'cpu');
  const used = (await list()).reduce((sum, m) => sum + m.memory_bytes, 0);
  assert.equal(cpu.memory_used_bytes, used);
  const health = await unary(admin, 'Health');
  assert.equal(health.status, 'HEALTH_STATUS_HEALTHY', JSON.stringify(health.components));
  const stats = await unary(admin, 'Stats');
  assert.equal(stats.inferences_i2s + stats.inferences_tl1 + stats.inferences_tl2, stats.inferences);
  assert.equal(stats.inferences_cpu, stats.inferences);
});

// ---- refusals

const fifo = path.join(inside, 'fifo.gguf');
execFileSync('mkfifo', [fifo]);
symlinkSync(strangers.stranger, path.join(inside, 'link.gguf'));
symlinkSync(outside, path.join(inside, 'away'));
symlinkSync('/dev/zero', path.join(inside, 'zero.gguf'));
symlinkSync(files.unsure, path.join(outside, 'back.gguf'));
mkdirSync(path.join(inside, 'folder.gguf'));
const bad = [
  ['outside of the folders', { path: strangers.stranger }, 'AUTHORIZATION_FAILED'],
  ['through a symlink', { path: path.join(inside, 'link.gguf') }, 'AUTHORIZATION_FAILED'],
  ['through a symlink of a folder', { path: path.join(inside, 'away', 'stranger.gguf') }, 'AUTHORIZATION_FAILED'],
  ['with dots', { path: path.join(inside, 'x') + '/../../other/stranger.gguf' }, null],
  ['a FIFO', { path: fifo }, null],
  ['a device', { path: path.join(inside, 'zero.gguf') }, 'AUTHORIZATION_FAILED'],
  ['a device by its path', { path: '/dev/zero' }, 'VALIDATION_FAILED', 'path'],
  ['a folder', { path: path.join(inside, 'folder.gguf') }, null],
  ['no file', { path: path.join(inside, 'nothing.gguf') }, null],
  ['another suffix', { path: '/etc/passwd' }, 'VALIDATION_FAILED', 'path'],
  ['a path that is not absolute', { path: 'models/tales.gguf' }, 'VALIDATION_FAILED', 'path'],
  ['an id that is taken', { path: files.copy, id: 'sure' }, 'CONFLICT'],
  ['an id that is an alias', { path: files.copy, id: 'gpt-4o-mini' }, 'CONFLICT'],
  ['an alias that is taken', { path: files.copy, id: 'x', aliases: ['tales'] }, 'CONFLICT'],
  ['an id of wrong characters', { path: files.copy, id: 'a/b' }, 'VALIDATION_FAILED', 'id'],
  ['accuracy out of bounds', { path: files.copy, validation: { min_accuracy: 0.5 } }, 'VALIDATION_FAILED', 'validation.min_accuracy'],
  ['an unknown device', { path: files.copy, device: 'tpu' }, 'VALIDATION_FAILED', 'device'],
  ['a truncated file', { path: files.cut }, 'MODEL_LOAD_FAILED'],
  ['a text', { path: files.words }, 'MODEL_LOAD_FAILED'],
  ['a scale that is no number', { path: files.nan }, 'MODEL_LOAD_FAILED'],
];
for (const [what, request_, code, field] of bad)
  await test(`models: refused: ${what}`, async () => {
    const before = await ids(), { error } = await change(models, 'Load', { validation: quick, ...request_ });
    assert.ok(error, 'the load succeeded');
    if (code) await refused(Promise.resolve({ error }), code, { field });
    assert.ok(error.details.length > 10);
    assert.deepEqual((await list({ status: ['MODEL_STATUS_ACTIVE'] })).map((m) => m.id), before.filter((id) => ['sure', 'tales'].includes(id)));
  });

await test('models: a refused file is reported in the result too, and counted', async () => {
  const before = await metric(engine.admin, 'bitnet_model_load_failures_total');
  const { result, error } = await change(models, 'Load', { path: files.cut, id: 'broken' });
  assert.equal(result.model.status, 'MODEL_STATUS_FAILED');
  assert.equal(result.error_code, 'MODEL_LOAD_FAILED');
  assert.equal(result.error_message, error.details);
  assert.equal(error.code, status.FAILED_PRECONDITION);
  assert.equal(await metric(engine.admin, 'bitnet_model_load_failures_total'), before + 1);
  assert.ok(await ready());
});

// ---- the default, and what survives

await test('models: the default is who serves requests without a name', async () => {
  assert.equal((await unary(models, 'SetDefault', { id: 'sure' })).is_default, true);
  assert.deepEqual(await tokensOf(''), alone.sure);
  await refused(unary(models, 'SetDefault', { id: 'nobody' }), 'MODEL_NOT_FOUND');
  await refused(unary(models, 'SetDefault', { id: '' }), 'VALIDATION_FAILED', { field: 'id' });
  await refused(unary(models, 'Unload', { id: 'sure' }), 'CONFLICT', { grpc: status.FAILED_PRECONDITION });
});

await test('models: a restart serves the same models with the same default', async () => {
  assert.deepEqual(await stop(engine.child), { code: 0, signal: null });
  engine = await startEngine(options);
  ({ inference, models, admin } = clients(engine.target));
  assert.deepEqual((await list()).map((m) => [m.id, m.is_default, m.aliases.length]), [['sure', true, 2], ['tales', false, 0]]);
  assert.deepEqual(await tokensOf(''), alone.sure);
  assert.deepEqual(await tokensOf('gpt-4o-mini'), alone.sure);
  assert.deepEqual(await tokensOf('tales'), alone.tales);
});

// ---- unload

await test('models: a model that is taken out finishes what it began', async () => {
  await unary(models, 'SetDefault', { id: 'tales' });
  const one = await running('sure');
  const unloaded = unary(models, 'Unload', { id: 'sure' });
  await until('requests are refused', 10000, async () => {
    const error = await unary(inference, 'Generate', { ...request, model: 'sure', max_tokens: 1 }).then(() => null, (e) => e);
    return error?.code === status.NOT_FOUND;
  });
  const { events, error } = await one.end, answer = await unloaded;
  assert.equal(error, null);
  assert.equal(events.at(-1).complete.usage.completion_tokens, LONG);
  assert.ok(answer.freed_bytes > 1e6 && answer.evicted >= 1, JSON.stringify(answer));
  assert.deepEqual(await ids(), ['tales']);
  assert.deepEqual(await series('sure'), []);
  assert.deepEqual(await tokensOf(''), alone.tales);
  await refused(unary(models, 'Unload', { id: 'sure' }), 'MODEL_NOT_FOUND');
});

await test('models: the counters of one that comes back go on', async () => {
  await load({ path: files.sure });
  const before = await metric(engine.admin, 'bitnet_tokens_generated_total', { model: 'sure' });
  assert.ok(before >= LONG, `${before}`);
  assert.deepEqual(await tokensOf('sure'), alone.sure);
  assert.equal(await metric(engine.admin, 'bitnet_tokens_generated_total', { model: 'sure' }), before + SHORT);
  await unary(models, 'Unload', { id: 'sure' });
});

await test('models: a client that goes away does not end what it began', async () => {
  const call = models.Load({ path: files.unsure, validation: quick });
  call.on('error', () => {});
  call.on('data', () => call.cancel());
  await until('the model is there', 60000, async () => (await list({ status: ['MODEL_STATUS_ACTIVE'] })).some((m) => m.id === 'unsure'));
  alone.unsure = await tokensOf('unsure');
  assert.notDeepEqual(alone.unsure, alone.tales);
  await unary(models, 'Unload', { id: 'unsure' });
});

// ---- swap

await test('models: a swap puts another file behind an id, and running requests finish on theirs', async () => {
  const long = { max_tokens: LONG, ignore_eos: true };
  const expected = await tokensOf('tales', long), one = await running('tales');
  const { progress, result } = await changed(models, 'Swap', { path: files.sure, id: 'tales', prompts: ['Once there was a fox'], validation: quick });
  assert.equal(result.status, 'SWAP_STATUS_COMPLETED');
  assert.match(result.swap_id, /^[0-9a-f-]{36}$/);
  assert.ok(result.total_ms > 0 && result.switch_ms > 0, JSON.stringify(result));
  assert.equal(result.previous.model.path, model);
  assert.equal(result.next.model.path, files.sure);
  assert.ok(progress.some((p) => p.phase === 'switching'), JSON.stringify(progress));
  assert.deepEqual(await tokensOf('tales'), alone.sure);
  const { events } = await one.end;
  assert.deepEqual(events.filter((e) => e.event === 'token').flatMap((e) => e.token.tokens.map((t) => t.id)), expected);
  assert.equal(await metric(engine.admin, 'bitnet_model_swaps_total', { result: 'completed' }), 1);
  assert.deepEqual((await list()).map((m) => [m.id, m.path]), [['tales', files.sure]]);
});

await test('models: a swap to what is not good changes nothing, and says why', async () => {
  for (const [file, code] of [[files.cut, 'MODEL_LOAD_FAILED'], [files.nan, 'MODEL_LOAD_FAILED'], [files.wrong, null], [strangers.stranger, 'AUTHORIZATION_FAILED']]) {
    const { result, error } = await change(models, 'Swap', { path: file, id: 'tales', validation: quick });
    assert.ok(error, file);
    if (code) assert.equal(result.error_code, code, `${file}: ${result.error_message}`);
    assert.ok(['SWAP_STATUS_FAILED', 'SWAP_STATUS_ROLLED_BACK'].includes(result.status));
    assert.deepEqual(await tokensOf('tales'), alone.sure);
  }
  await refused(stream(models.Swap({ path: files.copy, id: 'nobody' })), 'MODEL_NOT_FOUND');
  await refused(stream(models.Swap({ path: files.copy, id: '' })), 'VALIDATION_FAILED', { field: 'id' });
  await refused(stream(models.Swap({ path: files.copy, id: 'tales', prompts: Array(6).fill('x') })), 'VALIDATION_FAILED', { field: 'prompts' });
});

await test('models: one swap of an id at a time, and no unload meanwhile', async () => {
  const call = models.Swap({ path: files.copy, id: 'tales', validation: quick, strategy: 'SWAP_STRATEGY_BLUE_GREEN', watch_seconds: 2 }), first = stream(call);
  await new Promise((resolve) => call.once('data', resolve)); // or the other may come first
  assert.match((await change(models, 'Swap', { path: files.copy, id: 'tales', validation: quick })).error?.details, /running/);
  await refused(unary(models, 'Unload', { id: 'tales' }), 'CONFLICT');
  const { events, error } = await first;
  assert.equal(events.find((e) => e.event === 'result')?.result.status, 'SWAP_STATUS_COMPLETED', error?.details);
  assert.deepEqual(await tokensOf('tales'), alone.tales);
});

await test('models: the state file names what was last complete', async () => {
  assert.match(readFileSync(state, 'utf8'), new RegExp(files.copy.replace(/[.\\/]/g, '\\$&')));
  assert.deepEqual(await stop(engine.child), { code: 0, signal: null });
});

await test('models: one whose file is lost is listed as failed, and health says so', async () => {
  const start_ = async () => { engine = await startEngine(options); ({ inference, models, admin } = clients(engine.target)); };
  copyFileSync(files.unsure, path.join(inside, 'lost.gguf'));
  await start_();
  await load({ path: path.join(inside, 'lost.gguf') });
  await stop(engine.child);
  rmSync(path.join(inside, 'lost.gguf'));
  await start_();
  const [lost] = await list({ status: ['MODEL_STATUS_FAILED'] }), health = await unary(admin, 'Health');
  assert.equal(lost.id, 'lost');
  assert.ok(lost.message.length > 5, JSON.stringify(lost));
  assert.equal(health.status, 'HEALTH_STATUS_DEGRADED');
  assert.match(health.components.find((c) => c.name === 'model_manager').message, /lost/);
  assert.ok(await ready());
  await refused(unary(inference, 'Generate', { ...request, model: 'lost' }), 'MODEL_NOT_FOUND');
  await unary(models, 'Unload', { id: 'lost' });
  assert.equal((await unary(admin, 'Health')).status, 'HEALTH_STATUS_HEALTHY');
});

await test('models: a drain ends what is being changed, and nothing of it is remembered', async () => {
  const before = readFileSync(state, 'utf8'), call = models.Load({ path: files.slow, id: 'late' });
  const end = stream(call);
  await new Promise((resolve) => call.once('data', resolve));
  assert.deepEqual(await stop(engine.child), { code: 0, signal: null });
  assert.ok((await end).error);
  assert.equal(readFileSync(state, 'utf8'), before);
});

// ---- memory

await test('models: what does not fit is refused, or takes the place of what was unused for longest', async () => {
  const size = 30 << 20; // room for two models with 8 MiB of KV cache each, not for three
  const budget = ['--model-dirs', inside, '--memory-budget', `${size}`, '--kv-cache-size', '4M', '--max-sequences', '4', '--max-batch-tokens', '64'];
  engine = await startEngine(budget);
  ({ inference, models } = clients(engine.target));
  const [{ memory_bytes: one }] = await list();
  const fits = Math.floor(size / one);
  assert.ok(fits >= 1, `one takes ${one} of ${size}`);
  const more = Array.from({ length: fits - 1 }, (_, i) => `m${i}`);
  for (const id of more) await load({ path: files.copy, id });
  await refused(stream(models.Load({ path: files.copy, id: 'one-too-many' })), 'MEMORY_EXHAUSTED', { pattern: /expected|needs|bytes/ });
  assert.deepEqual(await ids(), [...more, 'tales']);
  await stop(engine.child);
  engine = await startEngine([...budget, '--evict']);
  ({ inference, models } = clients(engine.target));
  for (const id of more) await load({ path: files.copy, id });
  for (const id of [...more].reverse()) await tokensOf(id, { max_tokens: 1 }); // the last one was unused for longest
  const result = await change(models, 'Load', { path: files.copy, id: 'newcomer', validation: quick });
  if (more.length === 0) return await refused(Promise.resolve(result), 'MEMORY_EXHAUSTED'); // the default stays
  assert.equal(result.error, null, result.error?.details);
  assert.deepEqual(await ids(), [...more.slice(0, -1), 'newcomer', 'tales'].sort());
});

await test('models: no folders, no changes; options say what they expect', async () => {
  await stop(engine.child);
  engine = await startEngine();
  ({ models } = clients(engine.target));
  await refused(stream(models.Load({ path: files.copy })), 'AUTHORIZATION_FAILED', { pattern: /model-dirs/ });
  await stop(engine.child);
  const nothing = start('bitnet-engine', ['--state-file', path.join(dir, 'no-state')]);
  assert.equal((await nothing.ended).code, 1);
  assert.match(nothing.log(), /expected/);
  writeFileSync(path.join(dir, 'torn'), 'garbage\n');
  engine = await startEngine(['--state-file', path.join(dir, 'torn')]);
  assert.match(engine.child.log(), /torn|state/);
});

await done();
