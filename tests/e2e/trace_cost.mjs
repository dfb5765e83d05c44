// timeout: 200
// What tracing costs: the same load on pairs without a collector, with one, with one that is dead (nobody listens) and with one that is slow (an
// answer takes 3 s, or 0.1 s in a short run), in turns; null model, so that nothing hides the cost, or with TRACE_MODEL=demo the demo's. `same` is a second pair without: how far two that
// are alike differ. TRACE_ROUNDS of TRACE_SECONDS each (1 of 0.5 by default, for the counts and the memory alone) make the figures that
// `make trace-cost` prints: requests a second and CPU time a request against the pair without.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Collector } from './lib/collector.mjs';
import { build, done, freePort, get, metric, model, start, stop, test, until } from './lib/harness.mjs';

const WHAT = process.env.TRACE_MODEL === 'demo' ? [] : ['--null-model'], ROUNDS = Number(process.env.TRACE_ROUNDS ?? 1), SECONDS = process.env.TRACE_SECONDS ?? '0.5';
const version = start('bitnet-engine', ['--version']);
await version.ended;
if (!version.log().includes('opentelemetry')) {
  console.log('skip trace_cost: built without the feature opentelemetry');
  process.exit(0);
}

const take = await new Collector().listen(), slow = await new Collector().listen();
take.take = (call, callback) => callback(null, {}); // counts nothing: it shares the machine
slow.take = (call, callback) => setTimeout(() => callback(null, {}), ROUNDS > 1 ? 3000 : 100);
const kinds = { off: undefined, ...(ROUNDS > 1 ? { same: undefined } : {}), on: take.endpoint, dead: `http://127.0.0.1:${await freePort()}`, slow: slow.endpoint };

async function pair(endpoint) {
  const env = endpoint ? { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_BSP_SCHEDULE_DELAY: '200' } : {};
  const [g, ga, e, ea] = await Promise.all([0, 1, 2, 3].map(freePort));
  const engine = start('bitnet-engine', ['--model', model, ...WHAT, '--listen', `127.0.0.1:${e}`, '--admin-listen', `127.0.0.1:${ea}`, '--log-level', 'warn'], env);
  await until('engine ready', 30000, async () => (await get(`http://127.0.0.1:${ea}/health/ready`)).status === 200, engine);
  const gateway = start('bitnet-gateway', ['--engine', `127.0.0.1:${e}`, '--listen', `127.0.0.1:${g}`, '--admin-listen', `127.0.0.1:${ga}`, '--rate-limits', 'off',
                                           '--log-level', 'warn'], env);
  await until('pair ready', 30000, async () => (await get(`http://127.0.0.1:${g}/health/ready`)).status === 200, gateway);
  return { engine, gateway, url: `http://127.0.0.1:${g}/v1/completions`, admins: [`http://127.0.0.1:${ea}`, `http://127.0.0.1:${ga}`], completed: 0, failed: 0, rates: [], cpus: [], rss: [] };
}
const rss = (child) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;
const sum = async (p, name) => (await Promise.all(p.admins.map((a) => metric(a, name)))).reduce((a, b) => a + b);
const load = (url) => new Promise((resolve, reject) => execFile(path.join(build, 'bitnet-load'),
  [url, '--clients', '16', '--duration', SECONDS, '--max-tokens', '32', '--prompt-tokens', '16', '--json'], { maxBuffer: 1 << 26 },
  (error, out, err) => (out ? resolve(JSON.parse(out)) : reject(new Error(err)))));
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

const pairs = {};
for (const [kind, endpoint] of Object.entries(kinds)) pairs[kind] = await pair(endpoint);
let order = Object.keys(kinds);
for (let round = 0; round < ROUNDS; round++, order = [...order.slice(1), order[0]])
  for (const kind of order) {
    const p = pairs[kind], cpu = await sum(p, 'bitnet_process_cpu_seconds_total');
    const result = await load(p.url), level = result.levels[0];
    p.completed += level.requests.completed;
    p.rates.push(level.per_second.requests);
    p.failed += level.requests.failed + level.requests.interrupted + level.requests.refused;
    p.cpus.push((await sum(p, 'bitnet_process_cpu_seconds_total') - cpu) * 1e6 / level.requests.completed);
    p.rss.push(rss(p.engine) + rss(p.gateway));
  }

await until('spans are exported', 20000, async () => await sum(pairs.slow, 'bitnet_trace_spans_exported_total') > 0);
for (const kind of Object.keys(kinds))
  await test(`trace_cost: collector ${kind}: no request fails, and memory has a bound`, async () => {
    const p = pairs[kind];
    assert.ok(p.completed > 0);
    assert.equal(p.failed + await sum(p, 'bitnet_errors_total'), 0);
    assert.equal(await sum(p, 'bitnet_trace_spans_exported_total') > 0, ['on', 'slow'].includes(kind));
    assert.ok(Math.max(...p.rss) - pairs.off.rss.at(-1) < 64, `${p.rss} MB against ${pairs.off.rss}`);
    if (ROUNDS > 1)
      console.log(`# ${kind.padEnd(4)} ${median(p.rates).toFixed(0)} requests/s (${(100 * median(p.rates.map((r, i) => r / pairs.off.rates[i])) - 100).toFixed(2)} %), ` +
        `CPU ${median(p.cpus).toFixed(1)} us a request (${(100 * median(p.cpus.map((c, i) => c / pairs.off.cpus[i])) - 100).toFixed(2)} %), ` +
        `memory ${p.rss[Math.min(1, ROUNDS - 1)].toFixed(1)} -> ${p.rss.at(-1).toFixed(1)} MB, ` +
        `spans exported ${await sum(p, 'bitnet_trace_spans_exported_total')}, dropped ${await sum(p, 'bitnet_trace_spans_dropped_total')}`);
  });

for (const p of Object.values(pairs)) {
  await stop(p.gateway, 'SIGKILL');
  await stop(p.engine, 'SIGKILL');
}
await done();
