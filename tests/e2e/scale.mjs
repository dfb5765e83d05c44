// timeout: 240
// Engines and gateways in network namespaces of their own, found by name from a DNS server: throughput over their number, engines that come and go,
// one that is lost without a word, a partition that heals, the age of connections, and a restart of all of them in turn. Engines have the null
// model, whose speed is a matter of waiting. `make scale` (SCALE=full) has the full size, and there figures count: linear within 5 %, 10,000 requests.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { build, done, get, metric, model, sleep, start, startGateway, stop, test, until } from './lib/harness.mjs';
import { addNode, lab, names, plug, pull } from './lib/lab.mjs';
import { RetryingClient } from './lib/retries.mjs';

await lab('scale');

const FULL = process.env.SCALE === 'full';
const REQUESTS = FULL ? 10000 : 400, LOAD_S = FULL ? 10 : 0.5;
const STEP_US = 20000, SEQUENCES = 8, LINEAR = 0.05;
const KEEPALIVE_MS = 1000, KEEPALIVE_TIMEOUT_MS = 1000, LAME_DUCK_MS = FULL ? 500 : 300;

async function engine(node, ...extra) {
  const admin = `http://${node.ip}:9090`;
  const child = start('bitnet-engine', ['--model', model, '--null-model', '--listen', `${node.ip}:50051`, '--admin-listen', `${node.ip}:9090`, '--allow-insecure-public',
                                        ...extra], {}, node.through);
  await until('engine ready', 30000, async () => (await get(`${admin}/health/ready`)).status === 200, child);
  return { node, child, admin, served: () => metric(admin, 'bitnet_inference_requests_total') };
}
const up = (gateway, n) => until(`${n} engines serve`, 15000, async () => await metric(gateway.admin, 'bitnet_engine_up') === n, gateway.child);
const gatewayOf = async (name, ...extra) =>
  startGateway(`dns:///${name}:50051`, ['--engine-resolve-ms', '200', '--engine-keepalive-ms', String(KEEPALIVE_MS), '--engine-keepalive-timeout-ms', String(KEEPALIVE_TIMEOUT_MS),
                                        '--log-format', 'json', ...extra]);
const infer = async (gateway, extra = {}) => {
  const response = await fetch(`${gateway.url}/v1/inference`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ prompt: 'Once', max_tokens: 2, ...extra }) });
  return { status: response.status, text: await response.text() };
};
// Reads a stream to its end.
function stream(gateway, extra) {
  const s = { text: '' };
  let first;
  s.begun = new Promise((resolve) => { first = resolve; });
  s.ended = (async () => {
    const response = await fetch(`${gateway.url}/v1/inference/stream`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ prompt: 'Once', ...extra }) });
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      s.text += chunk;
      first();
    }
    s.endedAt = performance.now();
    return s;
  })();
  return s;
}
const load = (url, clients) => new Promise((resolve, reject) => {
  execFile(path.join(build, 'bitnet-load'), [`${url}/v1/completions`, '--clients', String(clients), '--duration', String(LOAD_S), '--warmup', FULL ? '1' : '0.2', '--max-tokens', '32', '--prompt-tokens', '8', '--json'],
           { timeout: 120000, maxBuffer: 1 << 26 }, (error, out, err) => (error ? reject(new Error(`${err}${out}`)) : resolve(JSON.parse(out).levels[0])));
});

const nodes = await Promise.all(Array.from({ length: 4 }, addNode));
const engines = await Promise.all(nodes.map((node) => engine(node, '--null-step-us', String(STEP_US), '--max-sequences', String(SEQUENCES))));
const ips = nodes.map((node) => node.ip);

await test('scale: 1, 2 and 4 engines behind one name', async () => {
  const rates = [];
  for (const n of [1, 2, 4]) {
    names.set('engines', ips.slice(0, n));
    const gateway = await gatewayOf('engines');
    await up(gateway, n);
    const before = await Promise.all(engines.map((e) => e.served()));
    const level = await load(gateway.url, 2 * SEQUENCES * n);
    const served = (await Promise.all(engines.map((e) => e.served()))).map((x, i) => x - before[i]);
    assert.equal(level.requests.failed + level.requests.refused, 0, JSON.stringify(level.requests));
    assert.ok(Math.max(...served.slice(0, n)) <= Math.min(...served.slice(0, n)) * 1.5 + SEQUENCES, served.join(' '));
    assert.equal(served.slice(n).reduce((a, b) => a + b, 0), 0);
    rates.push({ n, rate: level.per_second.tokens });
    await stop(gateway.child);
  }
  const shares = rates.map(({ n, rate }) => rate / (n * rates[0].rate));
  console.log(`# ${rates.map(({ n, rate }, i) => `${n} engines: ${rate.toFixed(0)} tokens/s (${(100 * shares[i]).toFixed(1)} % of linear)`).join(', ')}`);
  if (FULL) for (const share of shares) assert.ok(Math.abs(share - 1) <= LINEAR, shares.join(' '));
});

const [a, b, c, d] = engines;
names.set('pool', [a.node.ip, b.node.ip]);
const gateway = await gatewayOf('pool');
await up(gateway, 2);

await test('scale: an engine that comes into the name gets work, one that goes gets none and finishes what it has', async () => {
  names.set('pool', [a.node.ip, b.node.ip, c.node.ip]);
  await up(gateway, 3);
  const before = await c.served();
  for (let i = 0; i < 6; i++) assert.equal((await infer(gateway)).status, 200);
  assert.equal(await c.served() - before, 2);
  const then = await a.served(), running = Array.from({ length: 6 }, () => stream(gateway, { max_tokens: 100 }));
  await Promise.all(running.map((s) => s.begun));
  names.set('pool', [b.node.ip, c.node.ip]);
  await up(gateway, 2);
  for (let i = 0; i < 6; i++) assert.equal((await infer(gateway)).status, 200);
  for (const s of running) assert.match((await s.ended).text, /event: complete/);
  assert.equal(await a.served() - then, 2); // what it had
});

await test('scale: an engine lost without a word: its streams end within the keepalive limit, new requests go elsewhere, and it is used again when it is back', async () => {
  const streams = Array.from({ length: 8 }, () => stream(gateway, { max_tokens: 250 }));
  await Promise.all(streams.map((s) => s.begun));
  pull(b.node);
  const pulledAt = performance.now();
  const asked = await Promise.all(Array.from({ length: 8 }, () => infer(gateway)));
  const askedMs = performance.now() - pulledAt;
  assert.deepEqual(asked.map((r) => r.status), asked.map(() => 200)); // also those that met it
  const all = await Promise.all(streams.map((s) => s.ended)), lost = all.filter((s) => /event: error/.test(s.text));
  assert.equal(lost.length, 4);
  for (const s of lost) assert.match(s.text.slice(-600), /"code":"SERVICE_UNAVAILABLE"/);
  const lostMs = Math.max(...lost.map((s) => s.endedAt)) - pulledAt;
  console.log(`# keepalive ${KEEPALIVE_MS} + ${KEEPALIVE_TIMEOUT_MS} ms: streams ended after ${lostMs.toFixed(0)} ms, 8 new requests were answered within ${askedMs.toFixed(0)} ms`);
  if (FULL) assert.ok(lostMs < KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS + 1000, lostMs);
  await up(gateway, 1);
  const now = performance.now();
  for (let i = 0; i < 10; i++) assert.equal((await infer(gateway)).status, 200);
  console.log(`# once it is known: 10 requests in ${(performance.now() - now).toFixed(0)} ms`);
  plug(b.node);
  const pluggedAt = performance.now();
  await up(gateway, 2);
  console.log(`# the partition healed ${(performance.now() - pluggedAt).toFixed(0)} ms after the cable was back`);
  const before = await b.served();
  for (let i = 0; i < 4; i++) assert.equal((await infer(gateway)).status, 200);
  assert.equal(await b.served() - before, 2);
  await until('what the lost client had is given up', 20000, async () => (await metric(b.admin, 'bitnet_requests_active')) === 0);
});

await test('scale: connections that are ended by age, watches too, cost no request', async () => {
  await stop(d.child);
  const aged = await engine(d.node, '--null-step-us', '1000', '--max-connection-age-ms', '700', '--max-connection-age-grace-ms', '300');
  names.set('aged', [d.node.ip]);
  const old = await gatewayOf('aged');
  await up(old, 1);
  const end = performance.now() + (FULL ? 10000 : 2000);
  for (let n = 0; performance.now() < end; n++) assert.equal((await infer(old)).status, 200, `request ${n}`);
  assert.ok(!/"state":"down","before":"serving"/.test(old.child.log()), 'the engine was up all the time');
  await stop(old.child);
  await stop(aged.child);
});
await Promise.all([stop(gateway.child), ...[a, b, c].map((e) => stop(e.child))]);

// As an orchestrator does it: a new one is there before the old one goes, and the name follows.
await test('scale: all engines and gateways are restarted in turn under load, and no request of a client that retries fails', async () => {
  const spare = await Promise.all(Array.from({ length: 5 }, addNode));
  const settings = ['--null-step-us', '2000', '--lame-duck-ms', String(LAME_DUCK_MS)], restarts = 5;
  let running = await Promise.all([nodes[0], nodes[1], nodes[2]].map((node) => engine(node, ...settings)));
  names.set('engines', running.map((e) => e.node.ip));
  const gatewayIn = async (node) => {
    const child = start('bitnet-gateway', ['--engine', 'dns:///engines:50051', '--engine-resolve-ms', '200', '--listen', `${node.ip}:8080`, '--admin-listen', `${node.ip}:9091`,
                                           '--rate-limits', 'off', '--lame-duck-ms', String(LAME_DUCK_MS)], {}, node.through);
    await until('gateway ready', 15000, async () => (await get(`http://${node.ip}:9091/health/ready`)).status === 200, child);
    return { node, child };
  };
  const pairs = await Promise.all(spare.slice(0, 2).map(gatewayIn));
  names.set('gateways', pairs.map((g) => g.node.ip));
  const client = new RetryingClient('http://gateways:8080');
  let sent = 0, restarted = 0, all = false;
  const failed = [], clients = Array.from({ length: 16 }, async (_, i) => {
    while (sent < REQUESTS || !all) {
      sent++;
      const answer = await client.ask(i % 2 === 0, { prompt: `${i}`, max_tokens: 6, seed: i });
      if (!answer.ok) failed.push(`${answer.status} ${answer.text}`.slice(0, 300));
      if (sent > REQUESTS * 20) break;
    }
  });
  // Over the whole of the load.
  const turn = async () => { while (sent < (REQUESTS * restarted) / restarts) await sleep(20); };
  let free = nodes[3];
  for (const old of running.slice()) {
    await turn();
    const fresh = await engine(free, ...settings);
    running = [...running.filter((e) => e !== old), fresh];
    names.set('engines', running.map((e) => e.node.ip));
    assert.equal((await stop(old.child)).code, 0);
    free = old.node;
    restarted++;
  }
  const gone = pairs.slice();
  for (const [i, old] of gone.entries()) {
    await turn();
    pairs.splice(pairs.indexOf(old), 1);
    pairs.push(await gatewayIn(spare[2 + i]));
    names.set('gateways', pairs.map((g) => g.node.ip));
    await sleep(LAME_DUCK_MS); // as preStop does: the name is gone before the process is
    assert.equal((await stop(old.child)).code, 0);
    restarted++;
  }
  all = true;
  await Promise.all(clients);
  client.close();
  console.log(`# ${restarted} restarts, ${sent} requests, ${failed.length} failed; ${client.n_retries} tried again by the client: ${JSON.stringify(client.reasons)}`);
  assert.deepEqual(failed.slice(0, 3), []);
  assert.ok(sent >= REQUESTS);
  await Promise.all([...pairs, ...running].map((p) => stop(p.child)));
});

await done();
