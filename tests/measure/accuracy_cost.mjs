// What live accuracy costs: two engines, one with the default share and one without, loaded in turns; medians of their throughput,
// and the CPU time of a token, which a machine with other work changes less. A measurement (make accuracy-cost), not a test.
import { execFile } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { build, done, metric, startEngine } from '../e2e/lib/harness.mjs';

const seconds = process.env.COST_SECONDS ?? '8', rounds = Number(process.env.COST_ROUNDS ?? 9);
const clients = process.env.COST_CLIENTS ?? '8';
const run = promisify(execFile);
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

// Tokens a second.
async function load(engine) {
  const { stdout } = await run(path.join(build, 'bitnet-load'), [`grpc://${engine.target}`, '--clients', clients, '--duration', seconds, '--prompts', '50',
                                                                '--max-tokens', '64', '--json'], { maxBuffer: 1 << 26 });
  return JSON.parse(stdout).levels[0].per_second.tokens;
}

// CPU ticks: of the thread, of all threads.
function ticks(pid) {
  const of = (file) => readFileSync(file, 'latin1').replace(/.*\) /, '').split(' ').slice(11, 13).reduce((a, b) => a + Number(b), 0);
  const tasks = readdirSync(`/proc/${pid}/task`).filter((t) => readFileSync(`/proc/${pid}/task/${t}/comm`, 'latin1').trim() === 'accuracy');
  return { thread: tasks.reduce((sum, t) => sum + of(`/proc/${pid}/task/${t}/stat`), 0), all: of(`/proc/${pid}/stat`) };
}

const engines = { with: await startEngine(), without: await startEngine(['--accuracy-share', '0']) };
const sums = { with: { rates: [], thread: 0, all: 0, tokens: 0 }, without: { rates: [], thread: 0, all: 0, tokens: 0 } };
const generated = (engine) => metric(engine.admin, 'bitnet_tokens_generated_total');

async function round(name) {
  const engine = engines[name], sum = sums[name], before = ticks(engine.child.pid), tokens = await generated(engine);
  sum.rates.push(await load(engine));
  const after = ticks(engine.child.pid);
  sum.thread += after.thread - before.thread;
  sum.all += after.all - before.all;
  sum.tokens += await generated(engine) - tokens;
}

for (const engine of Object.values(engines)) await load(engine);
for (let i = 0; i < rounds; i++) for (const name of i % 2 ? ['with', 'without'] : ['without', 'with']) await round(name);

const rate = (name) => median(sums[name].rates), cpu = (name) => 10 * sums[name].all / sums[name].tokens; // a tick is 10 ms
const requests = (result) => metric(engines.with.admin, 'bitnet_accuracy_requests_total', { result });
const same = await metric(engines.with.admin, 'bitnet_quantization_accuracy_ratio').catch(() => 'not known yet');
console.log(`${rounds} rounds of ${seconds} s, ${clients} clients; with live accuracy against without:`);
console.log(`  tokens/s       ${rate('with').toFixed(1)} against ${rate('without').toFixed(1)}, medians: ${(rate('with') / rate('without')).toFixed(4)}`);
console.log(`  CPU of a token ${cpu('with').toFixed(3)} against ${cpu('without').toFixed(3)} ms: ${(cpu('with') / cpu('without')).toFixed(4)}; ` +
            `${(100 * sums.with.thread / sums.with.all).toFixed(2)} % of it is the thread's`);
console.log(`  requests       ${await requests('compared')} compared, ${await requests('dropped')} dropped; tokens that were the same: ${same}`);
await done();
