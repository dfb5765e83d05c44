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
const at = (list, share) => [...list].sort((a, b) => a - b)[Math.floor(list.length * share)], median = (list) => at(list, 0.5);
// The median of how much each round's figure is above the one without a collector, in per cent, and its standard error, from the quartiles.
function change(list, base) {
  const ratios = list.map((x, i) => 100 * x / base[i] - 100), error = 1.25 * (at(ratios, 0.75) - at(ratios, 0.25)) / 1.35 / Math.sqrt(ratios.length);
  return `${median(ratios).toFixed(2)} % +- ${error.toFixed(2)}`;
}

const pairs = {};
for (const [kind, endpoint] of Object.entries(kinds)) pairs[kind] = await pair(endpoint);
const shuffled = (list) => list.map((item) => [Math.random(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
for (let round = 0; round < ROUNDS; round++)
  for (const kind of shuffled(Object.keys(kinds))) { // in no fixed order, as what a collector has left to do falls into the next one's time
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
      console.log(`# ${kind.padEnd(4)} ${median(p.rates).toFixed(0)} requests/s (${change(p.rates, pairs.off.rates)}), ` +
        `CPU ${median(p.cpus).toFixed(1)} us a request (${change(p.cpus, pairs.off.cpus)}), ` +
        `memory ${p.rss[Math.min(1, ROUNDS - 1)].toFixed(1)} -> ${p.rss.at(-1).toFixed(1)} MB, ` +
        `spans exported ${await sum(p, 'bitnet_trace_spans_exported_total')}, dropped ${await sum(p, 'bitnet_trace_spans_dropped_total')}`);
  });

for (const p of Object.values(pairs)) {
  await stop(p.gateway, 'SIGKILL');
  await stop(p.engine, 'SIGKILL');
}
await done();
