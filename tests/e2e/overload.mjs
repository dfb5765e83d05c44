// timeout: 300
// Ten times what the engine can serve, in an open loop. The peak is measured first, in closed loops; then: every refusal says when to come back,
// nothing fails, nothing is held at the end. OVERLOAD_SECONDS of load (2 by default, for the counts alone) make the figures that `make overload`
// prints: goodput as a share of the peak, latency of refusals, first tokens against what the queue's limit in time (OVERLOAD_WAIT_MS) allows, memory. OVERLOAD_MODEL is
// another model than the demo's, OVERLOAD_TOKENS the length of its answers.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { build, done, haveModel, metric, startEngine, startGateway, stop, test, until } from './lib/harness.mjs';

const SECONDS = Number(process.env.OVERLOAD_SECONDS ?? 2), REPORT = 'OVERLOAD_SECONDS' in process.env;
const TOKENS = process.env.OVERLOAD_TOKENS ?? '64', MODEL = process.env.OVERLOAD_MODEL;
const QUEUE = 64, SEQUENCES = 32, FACTOR = 10;
const WAIT_MS = Number(process.env.OVERLOAD_WAIT_MS ?? (REPORT ? 2000 : 60000)); // the queue's limit in time
const KV_CACHE = '24M'; // all of it is in use, and so resident, before the overload
const LEAST_RATE = 300; // of a short run on a machine so busy that it finds no peak

if (!haveModel) {
  console.log('skip overload the demo model is not there');
  await done();
}

// With a pinned engine the client stays off the CPU that computes, as one on another machine does.
const load = (args, limitS, pinned) => new Promise((resolve) => {
  const program = path.join(build, 'bitnet-load'), others = `1-${cpus().length - 1}`;
  const child = execFile(pinned ? 'taskset' : program, [...(pinned ? ['-c', others, program] : []), ...args, '--json', '--allow-refused', '--prompt-tokens', '16', '--max-tokens', TOKENS],
    { timeout: limitS * 1000, maxBuffer: 1 << 26 }, (error, out, err) => resolve({ code: child.exitCode, err, json: out ? JSON.parse(out) : undefined }));
});
// Its own memory: pages of the mapped model come and go as the system likes.
const rss = (child) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;
const ms = (x) => `${x.toFixed(x < 10 ? 2 : 1)} ms`;

async function overload(name, engineArgs, throughGateway) {
  const engine = await startEngine(['--queue-limit', String(QUEUE), '--queue-wait-ms', String(WAIT_MS), '--max-sequences', String(SEQUENCES), ...engineArgs,
                                    ...(MODEL ? ['--model', MODEL] : ['--kv-cache-size', KV_CACHE])]);
  const gateway = throughGateway ? await startGateway(engine.target) : undefined;
  const url = gateway ? `${gateway.url}/v1/completions` : `grpc://${engine.target}`;
  const level = Math.max(1, SECONDS / 2), warmup = Math.max(0.5, SECONDS / 6);
  const common = [url, ...(gateway ? [] : ['--ignore-eos']), '--warmup', String(warmup)];
  const pinned = engineArgs.includes('--pin');
  let peak, over, grown;

  await test(`overload: ${name}: the peak, in closed loops without refusals`, async () => {
    const { code, json, err } = await load([...common, '--clients', [16, 32, 48].map(String).join(), '--duration', String(level)], 60 + 4 * level, pinned);
    assert.equal(code, 0, err + JSON.stringify(json));
    assert.ok(json.levels.every((l) => l.requests.refused === 0 && l.requests.failed === 0), JSON.stringify(json.levels.map((l) => l.requests)));
    peak = json.levels.reduce((a, b) => (b.per_second.requests > a.per_second.requests ? b : a));
    assert.ok(json.levels.some((l) => l.requests.completed > 0));
  });
  if (!peak) return;

  const rejectedBefore = await metric(engine.admin, 'bitnet_admission_rejections_total');
  const samples = [];
  const sampler = setInterval(() => samples.push(rss(engine.child)), 100);
  await test(`overload: ${name}: at ${FACTOR} times the peak requests are answered or told when to come back`, async () => {
    const { code, json, err } = await load([...common, '--rate', Math.max(FACTOR * peak.per_second.requests, REPORT ? 1 : LEAST_RATE).toFixed(3), '--duration', String(SECONDS)], 120 + 2 * SECONDS, pinned);
    assert.equal(code, 0, err + JSON.stringify(json));
    [over] = json.levels;
    const { requests } = over;
    assert.equal(requests.failed, 0, JSON.stringify(over.errors));
    assert.ok(requests.refused > 0 && requests.completed > 0, JSON.stringify(requests));
    assert.equal(requests.refused_with_retry, requests.refused);
    assert.equal(await metric(engine.admin, 'bitnet_admission_rejections_total') - rejectedBefore, requests.refused);
  });
  clearInterval(sampler);
  await test(`overload: ${name}: nothing is held at the end`, async () => {
    for (const name of ['bitnet_requests_active', 'bitnet_requests_waiting', 'bitnet_queue_depth'])
      await until(`${name} is 0`, 10000, async () => (await metric(engine.admin, name)) === 0);
    assert.equal(await metric(engine.admin, 'bitnet_kv_cache_blocks', { state: 'used' }), 0);
  });
  if (over && REPORT) {
    const third = samples[Math.floor(samples.length / 3)], last = samples.at(-1);
    grown = (100 * (last - third)) / third;
    const rate = peak.per_second.requests, ttft = over.time_to_first_token_ms, refusal = over.refusal_ms;
    // Nobody waits longer in the queue; then its prompt waits among those of the others, at the peak in the same way.
    const bound = WAIT_MS + peak.time_to_first_token_ms.max;
    console.log(`# ${name}: peak ${rate.toFixed(1)} requests/s, ${peak.per_second.tokens.toFixed(0)} tokens/s, ${peak.load} clients`);
    console.log(`#   offered ${(FACTOR * rate).toFixed(0)}/s: ${over.per_second.requests.toFixed(1)} requests/s answered, ${((100 * over.per_second.requests) / rate).toFixed(1)} % of the peak; tokens ${((100 * over.per_second.tokens) / peak.per_second.tokens).toFixed(1)} %`);
    console.log(`#   ${over.requests.refused} refused: p50 ${ms(refusal.p50)}, p99 ${ms(refusal.p99)}, max ${ms(refusal.max)}; ${over.requests.refused_with_retry} with the time to retry`);
    console.log(`#   first token: p50 ${ms(ttft.p50)}, p99 ${ms(ttft.p99)}, max ${ms(ttft.max)}; the queue's limit allows ${ms(bound)}`);
    console.log(`#   engine: ${third.toFixed(1)} MiB after a third, ${last.toFixed(1)} at the end (${grown.toFixed(2)} %)`);
  }
  if (gateway) await stop(gateway.child);
  await stop(engine.child);
}

if (REPORT) {
  if (cpus().length > 1) await overload('gRPC, 1 pinned thread', ['--threads', '1', '--pin'], false);
  await overload('gRPC, 1 thread', ['--threads', '1'], false);
  await overload('gRPC, 2 threads', ['--threads', '2'], false);
  await overload('gRPC, 2 threads that give way', ['--threads', '2', '--idle-priority'], false);
  await overload('REST, 1 thread', ['--threads', '1'], true);
} else {
  await overload('gRPC', [], false);
  await overload('REST', [], true);
}
await done();
