// timeout: 300
// kill -9 of the engine while a model is loaded, swapped or taken out, KILLS times: the state file is whole each time, and the restart serves what it
// names: what was there before, or, once the change was complete, what is there after.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { done, haveModel, model, startEngine, test } from './lib/harness.mjs';
import { clients, stream, unary } from './lib/rpc.mjs';
import { makeVariants } from './lib/variants.mjs';

const KILLS = Number(process.env.KILLS ?? 6);
if (!haveModel) {
  console.log('skip restart the demo model is not there');
  await done();
}

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-restart-')), state = path.join(dir, 'state', 'models');
process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
const files = makeVariants(path.join(dir, 'models'), { sure: ['tempered', 1.2], unsure: ['tempered', 0.85] });
makeVariants(path.dirname(state), {});
const start = () => startEngine(['--model-dirs', path.dirname(files.sure), '--state-file', state, '--kv-cache-size', '8M', '--log-level', 'warn']);
let engine = await start(), api = clients(engine.target);

const request = { prompt: 'Once upon a time', max_tokens: 24, sampling: { seed: 7, temperature: 1 } };
const tokensOf = async (name) => (await unary(api.inference, 'Generate', { ...request, model: name })).choices[0].token_ids.join();
const serving = async () => Object.fromEntries((await unary(api.models, 'List')).models.filter((m) => m.status === 'MODEL_STATUS_ACTIVE').map((m) => [m.id, m.path]));
// What the state file says: path by id. It ends with a line that only a whole file has.
function remembered() {
  const text = readFileSync(state, 'utf8'), lines = text.split('\n');
  assert.match(text, /^bitnet-models 1\n[^]*\nend [0-9a-f]{16}\n$/);
  const named = {};
  lines.forEach((line, i) => { if (line.startsWith('model ')) named[line.slice(6)] = lines.slice(i).find((l) => l.startsWith('path ')).slice(5); });
  return named;
}

const alone = {}; // a file's own tokens
for (const file of [model, ...Object.values(files)]) {
  if (file !== model) assert.equal((await stream(api.models.Swap({ path: file, id: 'tales', validation: { samples: 10 } }))).error, null);
  alone[file] = await tokensOf('tales');
}
assert.equal(new Set(Object.values(alone)).size, 3);

// ---- kills

const phases = { Load: ['checking', 'loading', 'validating', 'end'], Swap: ['checking', 'loading', 'validating', 'switching', 'watching', 'draining', 'end'], Unload: ['soon'] };
const moments = Object.entries(phases).flatMap(([what, list]) => list.map((phase) => [what, phase]));
const strategies = ['SWAP_STRATEGY_ATOMIC', 'SWAP_STRATEGY_BLUE_GREEN', 'SWAP_STRATEGY_ROLLING'];
const seen = {}, sorted = (o) => JSON.stringify(Object.entries(o).sort());

// Kills the engine when the change comes to a phase, or has ended; returns where that was and whether the client knew that it was complete.
async function killDuring(what, phase, asked) {
  let at = null, complete = false;
  const kill = (where) => {
    if (at) return;
    at = where;
    setTimeout(() => engine.child.kill('SIGKILL'), Math.random() < 0.5 ? 0 : Math.random() * 30);
  };
  if (what === 'Unload') {
    unary(api.models, 'Unload', asked).then(() => { complete = true; }, () => {});
    kill('soon');
  } else {
    const call = api.models[what](asked);
    call.on('data', ({ event, progress, result }) => {
      complete ||= event === 'result' && !result.error_code;
      if (event === 'progress' ? progress.phase === phase : true) kill(event === 'progress' ? progress.phase : 'end');
    }).on('error', () => kill('end')).on('end', () => kill('end'));
  }
  const { signal } = await engine.child.ended;
  assert.equal(signal, 'SIGKILL', engine.child.log());
  return { at, complete };
}

for (let i = 0; i < KILLS; i++) {
  if (engine.child.exitCode !== null || engine.child.signalCode) api = clients((engine = await start()).target); // the case before failed
  let [what, phase] = moments[KILLS < moments.length ? Math.floor(((i + 0.5) * moments.length) / KILLS) : i % moments.length];
  const before = await serving(), extra = 'extra' in before;
  if (what === 'Load' && extra) what = 'Unload';
  else if (what === 'Unload' && !extra) what = 'Load';
  await test(`restart: ${i + 1}: ${what.toLowerCase()}, killed at ${phase}`, async () => {
    const target = before.tales === files.sure ? files.unsure : files.sure;
    const asked = what === 'Swap' ? { path: target, id: 'tales', strategy: strategies[i % 3], watch_seconds: 0.3, validation: { samples: 10 } } : what === 'Load' ? { path: target, id: 'extra', validation: { samples: 10 } } : { id: 'extra' };
    const after = { ...before };
    if (what === 'Swap') after.tales = target;
    if (what === 'Load') after.extra = target;
    if (what === 'Unload') delete after.extra;
    const { at, complete } = await killDuring(what, phase, asked);
    seen[`${what} ${at}`] = (seen[`${what} ${at}`] ?? 0) + 1;
    const named = remembered();
    if (complete) assert.deepEqual(named, after);
    else assert.ok([before, after].some((s) => sorted(s) === sorted(named)), JSON.stringify(named));
    engine = await start();
    api = clients(engine.target);
    assert.deepEqual(await serving(), named);
    for (const [id, file] of Object.entries(named)) assert.equal(await tokensOf(id), alone[file], id);
    assert.equal((await unary(api.models, 'Get', {})).id, 'tales');
    assert.deepEqual(readdirSync(path.dirname(state)).filter((f) => !f.startsWith('models')), [], 'nothing but the state file, and what a write that did not end leaves');
  });
}
console.log(`# killed at: ${Object.entries(seen).map(([where, n]) => `${where} ${n}`).join(', ')}`);
await done();
