// timeout: 240
// Three engines and two gateways on the demo model at 80 % of the load that they can take, while they are killed, paused, cut off, starved of disk, files
// and memory, and their clocks jump; an orchestrator starts again what ends. Clients retry as SDKs do. Every answer is compared with what its request gives
// alone. `make chaos` runs CHAOS_SECONDS (60 by default; 3600 for the record), counts availability and memory, and leaves CHAOS_OUT.json and .svg.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { done, haveModel, sleep, test, until } from './lib/harness.mjs';
import { Fleet, Pipe } from './lib/fleet.mjs';
import { addDisk, file, lab, mute, names, plug, pull } from './lib/lab.mjs';
import { RetryingClient } from './lib/retries.mjs';
import { picture } from './lib/svg.mjs';

await lab('chaos');
if (!haveModel) {
  console.log('skip chaos the demo model is not there');
  await done();
}

const REPORT = 'CHAOS_OUT' in process.env, OUT = process.env.CHAOS_OUT, SECONDS = Number(process.env.CHAOS_SECONDS ?? 4);
const SHARE = 0.8, AVAILABLE = 0.999, FLAT = 0.02, LONG_S = 240, N_REQUESTS = REPORT ? 24 : 12, REST_MS = REPORT ? 1500 : 200;
const FAKETIME = ['/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1', '/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1'].find(existsSync);

// ---- random choices ----

let state = Number(process.env.CHAOS_SEED ?? 1) >>> 0;
const random = () => { // mulberry32
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const between = (low, high) => low + Math.floor(random() * (high - low + 1));
const pick = (list) => list[between(0, list.length - 1)];
const shuffled = (list) => list.map((x) => [random(), x]).sort((a, b) => a[0] - b[0]).map(([, x]) => x);

// ---- the fleet; logs go to a small disk that can be full ----

process.env.TMPDIR = addDisk('disk', '16m');
const clockFile = file('clock');
const setClock = (offset) => writeFileSync(clockFile, `${offset}\n`);
setClock('+0');
const clock = FAKETIME ? { LD_PRELOAD: FAKETIME, FAKETIME_TIMESTAMP_FILE: clockFile, FAKETIME_CACHE_DURATION: '1', DONT_FAKE_MONOTONIC: '1' } : {};

const fleet = new Fleet();
const engineArgs = ['--threads', '1', '--kv-cache-size', '12M', '--max-sequences', '16', '--keepalive-ms', '2000', '--keepalive-timeout-ms', '1000', '--lame-duck-ms', '500'];
const gatewayArgs = ['--engine-resolve-ms', '500', '--engine-keepalive-ms', '1000', '--engine-keepalive-timeout-ms', '1000'];
// The first of each is never killed: it is the one whose memory and files are looked at from beginning to end.
const [e0, e1, e2] = [await fleet.engine('engine 0', engineArgs), await fleet.engine('engine 1', [...engineArgs, '--state-file', file('disk/engine1.state')]), await fleet.engine('engine 2', engineArgs, clock)];
const pipe = new Pipe('gateway1');
const g0 = await fleet.gateway('gateway 0', [...gatewayArgs, '--affinity', 'prefix']), g1 = await fleet.gateway('gateway 1', [...gatewayArgs, '--log-level', 'info'], { ...clock, LOG: pipe.path });
g1.log = pipe;
await Promise.all([e0, e1, e2].map((m) => m.up()));
await Promise.all([g0, g1].map((m) => m.up()));

// ---- what is asked ----

const openings = ['Once upon a time', 'The old king', 'In the forest there lived a', 'A fox said to the crow', 'There was once a poor miller who had', 'One day the youngest son went'];
const requests = Array.from({ length: N_REQUESTS }, (_, i) => ({
  streaming: i % 3 !== 0,
  body: { prompt: `${openings[i % openings.length]}${i % 4 ? '' : ` ${pick(openings)}`.repeat(6)}`, max_tokens: 8 + (i * 5) % 41, seed: i, temperature: [0, 0.7, 1.2][i % 3] },
}));
// The tokens and texts of an answer, whichever way it came.
function said({ streaming }, text) {
  if (!streaming) return JSON.parse(text).text;
  return text.split('\n').filter((line) => line.startsWith('data: ') && line.includes('"type":"token"')).map((line) => { const t = JSON.parse(line.slice(6)); return `${t.token_id}'${t.text}'`; }).join(';');
}

const client = new RetryingClient('http://gateways:8080', { timeoutMs: 10000 });
const references = new Map();
await test('chaos: each request is answered alone', async () => {
  for (const request of requests) {
    const answer = await client.ask(request.streaming, request.body);
    assert.ok(answer.ok, answer.text);
    references.set(request, said(request, answer.text));
    assert.ok(references.get(request)?.length > 0, answer.text);
  }
});

// ---- load ----

const began = { at: performance.now() };
const now = () => (performance.now() - began.at) / 1000;
const ended = [], lost = [], wrong = [];
async function one() {
  const request = pick(requests), t = now(), answer = await client.ask(request.streaming, request.body);
  const record = { t, seconds: now() - t, ok: answer.ok, tries: answer.tries };
  ended.push(record);
  if (!answer.ok) lost.push({ ...record, why: answer.why, status: answer.status, text: answer.text.slice(-200) });
  else if (said(request, answer.text) !== references.get(request)) wrong.push({ ...record, request: request.body, found: answer.text.slice(0, 2000), expected: references.get(request) });
}

async function calibrate(seconds) {
  const end = performance.now() + seconds * 1000, before = ended.length;
  await Promise.all(Array.from({ length: 16 }, async () => { while (performance.now() < end) await one(); }));
  return (ended.length - before) / seconds;
}
const peak = await calibrate(REPORT ? 10 : 1), rate = SHARE * peak;
client.agent.destroy();
await sleep(1000);
const survivors = { 'engine 0': e0, 'gateway 0': g0 };
const atRest = Object.fromEntries(Object.entries(survivors).map(([name, m]) => [name, m.look()]));
const calibrated = ended.splice(0).length;
const faultsBefore = lost.splice(0).length;
client.n_retries = 0;
client.reasons = {};
began.at = performance.now();

let loading = true, n_started = 0;
const inFlight = new Set();
const arrivals = (async () => { // Poisson
  for (let next = performance.now(); loading; next += (-Math.log(1 - random()) / rate) * 1000) {
    const wait = next - performance.now();
    if (wait > 0) await sleep(wait);
    if (!loading) break;
    n_started++;
    const request = one();
    inFlight.add(request);
    request.finally(() => inFlight.delete(request));
  }
})();

// ---- memory and files ----

const samples = [];
const sampler = setInterval(() => {
  for (const m of fleet.members) try { samples.push({ t: now(), name: m.name, ...m.look() }); } catch { /* it is not there now */ }
}, 1000);

// ---- what is done to them ----

const prlimit = (m, what) => execFileSync('prlimit', ['--pid', String(m.child.pid), what], { stdio: 'pipe' });
// Whether an HTTP/2 server says something on a new connection.
const greeted = (host, port) => new Promise((resolve) => {
  const socket = net.connect(port, host, () => socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0')).setTimeout(1000);
  const end = (yes) => () => { socket.destroy(); resolve(yes); };
  socket.once('data', end(true)).once('error', end(false)).once('close', end(false)).once('timeout', end(false));
});
const backAgain = (m) => until(`${m.name} is back`, 60000, async () => names.get(m.kind).includes(m.node.ip));
const pause = async (m, ms) => { const { child } = m; child.kill('SIGSTOP'); await sleep(ms); child.kill('SIGCONT'); };
const cut = async (m, ms) => { pull(m.node); await sleep(ms); plug(m.node); };
const long = REPORT ? 1 : 0.3; // a short run has short faults
const jump = async (offset) => { setClock(offset); await sleep(3000 * long); setClock('+0'); await sleep(1000 * long); };
const actions = {
  'engine killed': [() => pick([e1, e2]), async (m) => { await m.kill(); await backAgain(m); }],
  'gateway killed': [() => g1, async (m) => { await m.kill(); await backAgain(m); }],
  'engine restarted': [() => pick([e1, e2]), (m) => m.restart()],
  'gateway restarted': [() => g1, (m) => m.restart()],
  'engine paused': [() => pick([e0, e1, e2]), (m) => pause(m, between(500, 5000) * long)],
  'gateway paused': [() => pick([g0, g1]), (m) => pause(m, between(500, 3000) * long)],
  'engine cut off': [() => pick([e0, e1, e2]), (m) => cut(m, between(500, 8000) * long)],
  'gateway cut off': [() => pick([g0, g1]), (m) => cut(m, between(500, 4000) * long)],
  'engine flaps': [() => pick([e0, e1, e2]), async (m) => { for (let i = 0; i < 5; i++) { await cut(m, 200); await sleep(200); } }],
  'no answer from DNS': [() => undefined, async () => { mute.add('engines'); await sleep(3000 * long); mute.delete('engines'); }],
  'log not read': [() => g1, async () => { pipe.stall(); await sleep(3000 * long); pipe.go(); }],
  'disk full': [() => undefined, async () => {
    try { execFileSync('dd', ['if=/dev/zero', `of=${file('disk/fill')}`, 'bs=64k'], { stdio: 'ignore' }); } catch { /* that is how it ends */ }
    await sleep(2000 * long);
    await e1.restart(); // starts with a disk that is full
    rmSync(file('disk/fill'));
  }],
  'no more files': [() => pick([e0, e1, g0, g1]), async (m) => {
    const before = /open files\s+(\d+)\s+(\d+)/.exec(readFileSync(`/proc/${m.child.pid}/limits`, 'utf8')), port = m.kind === 'engines' ? 50051 : 8080;
    prlimit(m, `--nofile=${m.look().fds + 2}:${before[2]}`);
    const strangers = Array.from({ length: 8 }, () => net.connect(port, m.node.ip).on('error', () => {}));
    await sleep(3000 * long);
    strangers.forEach((s) => s.destroy());
    prlimit(m, `--nofile=${before[1]}:${before[2]}`);
    await until(`${m.name} takes connections again`, 10000, () => greeted(m.node.ip, port));
  }],
  'no more memory': [() => e2, async (m) => {
    const size = Number(/VmSize:\s+(\d+)/.exec(readFileSync(`/proc/${m.child.pid}/status`, 'utf8'))[1]) * 1024, { child } = m;
    m.expected = 'memory'; // it may end of it
    prlimit(m, `--as=${size + (1 << 20)}:unlimited`);
    await sleep(2000 * long);
    if (m.child === child && m.expected) { prlimit(m, '--as=unlimited:unlimited'); m.expected = undefined; }
    await backAgain(m);
  }],
  ...(FAKETIME && { 'clock an hour ahead': [() => undefined, () => jump('+1h')], 'clock a day back': [() => undefined, () => jump('-1d')] }),
};
if (!FAKETIME) console.log('skip chaos: clock jumps (libfaketime is not there)');

const events = [];
async function disturb() {
  for (;;) for (const name of shuffled(Object.keys(actions))) {
    if (now() > SECONDS - (REPORT ? 10 : 2)) return;
    const [choose, run] = actions[name], target = choose(), event = { t: now(), name, target: target?.name };
    if (target && !names.get(target.kind).includes(target.node.ip)) await backAgain(target);
    await run(target).catch((error) => { event.error = String(error).slice(0, 500); });
    event.seconds = now() - event.t;
    events.push(event);
    await sleep(REST_MS);
  }
}
await disturb();
if (now() < SECONDS) await sleep((SECONDS - now()) * 1000);
loading = false;
await arrivals;
await Promise.all(inFlight);
const lasted = now();
client.close();
clearInterval(sampler);
await Promise.all(fleet.members.map((m) => backAgain(m).catch(() => {})));
await until('nothing is left to do', 15000, async () => [e0, g0].every((m, i) => m.look().fds <= atRest[i ? 'gateway 0' : 'engine 0'].fds)).catch(() => {});
const afterwards = Object.fromEntries(Object.entries(survivors).map(([name, m]) => [name, m.look()]));

// ---- what came of it ----

const percentile = (list, q) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))] ?? 0;
const first = ended.filter((r) => r.ok && r.tries === 1).length, ok = ended.filter((r) => r.ok).length;
// Of each life of a process that was long enough: the median of its memory after a third, and at its end.
const lives = Object.values(samples.reduce((all, s) => { (all[`${s.name} ${s.pid}`] ??= []).push(s); return all; }, {})).filter((l) => l.length >= 30).map((l) => {
  const level = (from, to) => percentile(l.slice(Math.floor(from * l.length), Math.ceil(to * l.length)).map((s) => s.rss), 0.5), warm = level(1 / 3, 0.45), last = level(0.9, 1);
  return { name: l[0].name, seconds: l.length, warm, last, growth: (last - warm) / warm };
});
const summary = {
  seconds: lasted, peak_per_second: peak, rate_per_second: rate, requests: n_started, answered: ok, lost: lost.length, wrong: wrong.length,
  availability: ok / n_started, first_try: first / n_started, retries: client.n_retries, reasons: client.reasons,
  latency_ms: Object.fromEntries([0.5, 0.9, 0.99, 1].map((q) => [`p${q * 100}`, 1000 * percentile(ended.map((r) => r.seconds), q)])),
  disturbances: events.length, crashes: fleet.crashes.length, survivors: Object.fromEntries(Object.keys(survivors).map((name) => [name, { at_rest: atRest[name], afterwards: afterwards[name] }])), lives,
};
console.log(`# ${lasted.toFixed(0)} s at ${rate.toFixed(1)} requests/s (80 % of ${peak.toFixed(1)}), ${events.length} disturbances; ${n_started} requests, ${lost.length} lost, ${wrong.length} wrong`);
console.log(`# availability ${(100 * summary.availability).toFixed(3)} %, without a client's retry ${(100 * summary.first_try).toFixed(2)} %; retries for ${JSON.stringify(client.reasons)}`);
console.log(`# latency ${Object.entries(summary.latency_ms).map(([q, ms]) => `${q} ${ms.toFixed(0)} ms`).join(', ')}`);

for (const l of lives.filter((life) => life.name in survivors)) console.log(`# ${l.name}: ${l.seconds} s, ${l.warm.toFixed(1)} MiB after a third, ${l.last.toFixed(1)} at the end (${(100 * l.growth).toFixed(2)} %)`);
for (const name of Object.keys(survivors)) console.log(`# ${name}: ${atRest[name].fds} files before, ${afterwards[name].fds} after`);

if (REPORT) {
  const seconds = Math.ceil(lasted), width = Math.max(1, Math.round(seconds / 240)), bins = Array.from({ length: Math.floor(lasted / width) }, (_, i) => ended.filter((r) => Math.floor(r.t / width) === i));
  const over = (value, all = true) => bins.map((list, i) => ({ t: i * width, v: all || list.length ? value(list) : undefined })).filter((p) => p.v !== undefined);
  const memory = (name) => samples.filter((s) => s.name === name).filter((_, i) => i % width === 0).map((s) => ({ t: s.t, v: s.rss }));
  writeFileSync(`${OUT}.json`, JSON.stringify({ summary, events, lost, wrong, crashes: fleet.crashes, samples }, null, 1));
  writeFileSync(`${OUT}.svg`, picture({
    title: `Chaos: ${(100 * summary.availability).toFixed(3)} % of ${n_started} requests answered, ${wrong.length} wrong, over ${seconds} s`,
    subtitle: `three engines and two gateways at ${rate.toFixed(1)} requests/s, 80 % of their peak; ${events.length} disturbances, ${client.n_retries} retries by clients`,
    seconds, events, panels: [
      { title: 'requests a second', series: [{ label: 'answered', values: over((l) => l.filter((r) => r.ok).length / width) }, { label: 'lost', values: over((l) => l.filter((r) => !r.ok).length / width) },
                                            { label: 'tried again', values: over((l) => l.filter((r) => r.tries > 1).length / width) }] },
      { title: 'latency, ms', log: true, series: [{ label: 'p50', values: over((l) => 1000 * percentile(l.map((r) => r.seconds), 0.5), false) }, { label: 'p99', values: over((l) => 1000 * percentile(l.map((r) => r.seconds), 0.99), false) }] },
      { title: 'memory of those never killed, MiB', series: Object.keys(survivors).map((name) => ({ label: name, values: memory(name) })) },
    ] }));
  console.log(`# ${OUT}.json ${OUT}.svg`);
}

await test('chaos: no answer is another than the same request alone gives', () => assert.deepEqual(wrong.slice(0, 3), []));
await test('chaos: no process ended but by what was done to it', () => assert.deepEqual(fleet.crashes.slice(0, 3), []));
await test('chaos: every disturbance was done, and what was to come back did', () => {
  assert.ok(events.length > 0);
  assert.deepEqual(events.filter((e) => e.error).slice(0, 3), []);
});
await test('chaos: files are closed', () => {
  for (const name of Object.keys(survivors)) assert.ok(afterwards[name].fds <= atRest[name].fds + 4, `${name}: ${atRest[name].fds} ${afterwards[name].fds}`);
});
await test('chaos: the load was carried', () => {
  assert.equal(faultsBefore, 0, `${calibrated} requests without chaos`);
  assert.equal(ended.length, n_started);
  if (REPORT) assert.ok(summary.availability >= AVAILABLE, JSON.stringify({ ...summary, lost: lost.slice(0, 5) }));
});
if (REPORT && !process.env.SAN && SECONDS >= 300)
  await test(`chaos: memory is flat within ${100 * FLAT} % in each life of ${LONG_S} s or more`, () => assert.deepEqual(lives.filter((l) => l.growth > FLAT && l.seconds >= LONG_S), []));

await fleet.close();
pipe.close();
await done();
