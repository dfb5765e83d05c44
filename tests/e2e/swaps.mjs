// timeout: 600
// STREAMS clients generate without a pause while one id is swapped SWAPS times, by every strategy, to models that are good, slow, wrong and broken.
// No request fails, what is not good is rolled back, each answer's tokens are those of one model from end to end, and memory comes back.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { done, haveModel, metric, model, sleep, startEngine, test, until } from './lib/harness.mjs';
import { change, changed, clients, unary } from './lib/rpc.mjs';
import { makeVariants } from './lib/variants.mjs';

const STREAMS = Number(process.env.STREAMS ?? 12), SWAPS = Number(process.env.SWAPS ?? 4), CHANNELS = 8;
const REST_MS = SWAPS >= 20 ? 0 : 500; // of a client between two requests: a short run leaves the loads some of the machine
const MEMORY = SWAPS >= 20 ? 1.05 : 1.3; // of the start, at the end; a short run is warm-up for the most part
if (!haveModel) {
  console.log('skip swaps the demo model is not there');
  await done();
}

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-swaps-'));
process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
const files = { tales: model, ...makeVariants(dir, { sure: ['tempered', 1.2], unsure: ['tempered', 0.85], slow: ['slow', 30], wrong: 'wrong', scrambled: 'scrambled', nan: 'scaleIsNan', cut: 'truncated' }) };
const strategies = ['SWAP_STRATEGY_ATOMIC', 'SWAP_STRATEGY_BLUE_GREEN', 'SWAP_STRATEGY_ROLLING'];
const validation = { timeout_seconds: 300, ...(SWAPS < 20 && { samples: 10 }) }; // as it comes, or in a hurry
const plan = ['sure', 'wrong', 'unsure', 'slow', 'tales', 'cut', 'scrambled', 'nan'], good = ['sure', 'unsure', 'tales'];

const engine = await startEngine(['--model-dirs', `${dir}:${path.dirname(model)}`, '--max-sequences', `${STREAMS + 8}`, '--queue-limit', `${4 * STREAMS}`,
                                  '--kv-cache-size', `${Math.max(8, Math.ceil(STREAMS / 3))}M`, '--log-level', 'warn']);
const channels = Array.from({ length: CHANNELS }, () => clients(engine.target));
const { models, inference } = channels[0];
const rss = () => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${engine.child.pid}/status`, 'utf8'))[1]) / 1024;
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const percentile = (list, p) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * p))];

// ---- what each model says alone

const openings = ['Once upon a time', 'The old king', 'In the forest there lived a', 'A fox said to the crow', 'There was once a poor miller who had', 'One day the youngest son went'];
const requests = openings.flatMap((prompt, i) => [0, 1].map((k) => (
  { prompt, model: 'tales', max_tokens: (SWAPS < 20 ? 12 : 40) + 8 * ((2 * i + k) % 5), ignore_eos: true, sampling: { seed: 100 * i + k, temperature: k ? 0.8 : 1, top_k: 0, top_p: 1 } })));
const alone = {}; // by the fingerprint of what answers: one list of tokens a request
async function learn(name) {
  for (const [i, request] of requests.entries()) {
    const answer = await unary(inference, 'Generate', request);
    (alone[answer.system_fingerprint] ??= { name, tokens: [] }).tokens[i] = answer.choices[0].token_ids.join();
  }
}

await test('swaps: each good model has tokens of its own', async () => {
  await learn('tales');
  for (const name of ['sure', 'unsure', 'tales']) {
    await changed(models, 'Swap', { path: files[name], id: 'tales', validation });
    if (name !== 'tales') await learn(name);
  }
  const all = Object.values(alone);
  assert.deepEqual(all.map((m) => m.name), ['tales', 'sure', 'unsure']);
  assert.equal(new Set(all.map((m) => m.tokens.join('|'))).size, 3);
});

// ---- clients

let going = true, tokens = 0;
const failures = [], mixed = [], served = {}, gaps = { steady: [], changing: [] };
let gap = gaps.steady;

function once(client, i) {
  return new Promise((resolve) => {
    const got = [];
    let last = 0, fingerprint = '';
    client.inference.StreamGenerate(requests[i]).on('data', ({ event, token, complete }) => {
      const now = performance.now();
      if (event === 'token') {
        if (last) gap.push((now - last) / token.tokens.length);
        last = now;
        got.push(...token.tokens.map((t) => t.id));
        tokens += token.tokens.length;
        fingerprint ||= token.system_fingerprint;
      } else if (event === 'complete') {
        const whole = complete.usage.completion_tokens, from = alone[complete.system_fingerprint];
        const right = got.length === whole && complete.system_fingerprint === fingerprint && (!from || from.tokens[i] === got.join());
        if (!right || (!from && !Object.values(alone).some((m) => m.tokens[i] === got.join()))) mixed.push(`request ${i}, ${from?.name ?? 'a model not known'}: ${got}`);
        served[from?.name ?? 'other'] = (served[from?.name ?? 'other'] ?? 0) + 1;
      }
    }).on('error', (error) => { failures.push(error.message); resolve(); }).on('end', resolve);
  });
}

async function client(k) {
  for (let i = k; going; i++) {
    await once(channels[k % CHANNELS], i % requests.length);
    await sleep(REST_MS);
  }
}

// ---- the swaps

const began = Date.now(), loops = Array.from({ length: STREAMS }, (_, k) => client(k)), pauses = [];
await until('all streams run', 120000, async () => (await metric(engine.admin, 'bitnet_requests_running')) >= STREAMS * (REST_MS ? 0.3 : 0.9));
// Memory of an engine that was swapped in and has served for a while.
async function resident() {
  const list = [];
  await sleep(SWAPS >= 20 ? 15000 : 2000);
  for (let i = 0; i < 5; i++, await sleep(100)) list.push(rss());
  return median(list);
}
const start = await resident();
gap = gaps.changing;

let current = 'tales';
for (let i = 0; i < SWAPS; i++) {
  let name = plan[i % plan.length];
  if (name === current) name = good[(good.indexOf(name) + 1) % good.length];
  const strategy = strategies[i % strategies.length];
  await test(`swaps: ${i + 1}: ${strategies[i % 3].slice(14).toLowerCase()} to a model that is ${good.includes(name) ? 'good' : name}`, async () => {
    const { result, error } = await change(models, 'Swap', { path: files[name], id: 'tales', strategy, watch_seconds: SWAPS >= 20 ? 2 : 0.5, prompts: ['Once there was a fox'], validation });
    assert.ok(result, error?.details);
    const { status, error_message: why, switch_ms: pause } = result;
    console.log(`# ${name} ${strategies[i % 3].slice(14).toLowerCase()}: ${status.slice(12).toLowerCase()}, ${Math.round(result.total_ms)} ms ${why}`);
    if (pause > 0) pauses.push(pause);
    if (good.includes(name)) {
      assert.equal(status, 'SWAP_STATUS_COMPLETED', why);
      current = name;
    } else {
      assert.ok(['SWAP_STATUS_FAILED', 'SWAP_STATUS_ROLLED_BACK'].includes(status), `${status} ${JSON.stringify(result.checks)}`);
      assert.ok(why.length > 10 && error?.details === why, `${why}, ${error?.details}`);
    }
    assert.equal((await unary(models, 'Get', { id: 'tales' })).path, files[current]);
    assert.deepEqual(failures.slice(0, 3), []);
  });
}
await changed(models, 'Swap', { path: files[good.find((name) => name !== current)], id: 'tales', validation });
const { memory_bytes: one } = await unary(models, 'Get', { id: 'tales' }); // the metric is of all engines under the id
await until('what was swapped out has gone', 60000, async () => (await metric(engine.admin, 'bitnet_model_memory_usage_bytes', { model: 'tales' })) === one);
let end = await resident();
for (let i = 0; i < 5 && end > start * MEMORY; i++) end = await resident(); // it is hidden before its memory is given back
going = false;
await Promise.all(loops);

await test('swaps: no request failed', () => assert.deepEqual([failures.length, failures.slice(0, 5)], [0, []]));
await test('swaps: each answer is that of one model from end to end', () => assert.deepEqual([mixed.length, mixed.slice(0, 3)], [0, []]));
await test('swaps: memory is back', () => assert.ok(end <= start * MEMORY, `${start.toFixed(1)} MiB before, ${end.toFixed(1)} MiB after`));

const seconds = (Date.now() - began) / 1000, ms = (list, p) => percentile(list, p)?.toFixed(1);
console.log(`# ${STREAMS} streams, ${SWAPS} swaps, ${seconds.toFixed(0)} s, ${tokens} tokens; answers by model ${JSON.stringify(served)}`);
console.log(`# swap pause: at most ${Math.max(...pauses).toFixed(3)} ms; memory ${start.toFixed(1)} -> ${end.toFixed(1)} MiB`);
console.log(`# ms between tokens: before p50 ${ms(gaps.steady, 0.5)} p99 ${ms(gaps.steady, 0.99)}; during swaps p50 ${ms(gaps.changing, 0.5)} p99 ${ms(gaps.changing, 0.99)} max ${ms(gaps.changing, 1)}`);
await done();
