// What live accuracy costs: two engines, one with the default share and one without, loaded in turns; medians of their throughput, and the share of
// the process's CPU time that its thread takes. A measurement (make accuracy-cost), not a test.
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
const rates = { with: [], without: [] };
for (const engine of Object.values(engines)) await load(engine);
const before = ticks(engines.with.child.pid);
let thread = 0, all = 0;
for (let round = 0; round < rounds; round++)
  for (const name of round % 2 ? ['with', 'without'] : ['without', 'with']) {
    const start = ticks(engines.with.child.pid);
    rates[name].push(await load(engines[name]));
    const end = ticks(engines.with.child.pid);
    if (name === 'with') {
      thread += end.thread - start.thread;
      all += end.all - start.all;
    }
  }
const compared = await metric(engines.with.admin, 'bitnet_accuracy_requests_total', { result: 'compared' });
const dropped = await metric(engines.with.admin, 'bitnet_accuracy_requests_total', { result: 'dropped' });
console.log(JSON.stringify({ clients, seconds, rounds, with: rates.with.map(Math.round), without: rates.without.map(Math.round) }));
console.log(`tokens/s: median ${median(rates.with).toFixed(1)} with, ${median(rates.without).toFixed(1)} without, ratio ` +
            `${(median(rates.with) / median(rates.without)).toFixed(4)}; CPU under load: ${(100 * thread / all).toFixed(2)} % of the process's`);
console.log(`requests: ${compared} compared, ${dropped} dropped; ratio ${await metric(engines.with.admin, 'bitnet_quantization_accuracy_ratio')}` +
            ` (${before.thread} ticks of the thread before)`);
await done();
