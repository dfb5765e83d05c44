// Several engines behind one gateway: whose turn it is, what an engine's end does to running and to new requests, restarts in turn
// under load, names and sockets. Engines have the null model: what is tested is where requests go. timeout: 180
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import os from 'node:os';
import { done, freePort, get, metric, model, post, sleep, start, startGateway, stop, test, until } from './lib/harness.mjs';

const STEP = ['--null-step-us', '5000'];
const body = { prompt: 'Once upon a time', max_tokens: 4 };

// An engine that can be started again at the same place.
class Engine {
  constructor(listen, admin, extra) { Object.assign(this, { target: listen, admin: `http://127.0.0.1:${admin}`, adminPort: admin, extra }); }
  async up() {
    this.child = start('bitnet-engine', ['--model', model, '--null-model', '--listen', this.target, '--admin-listen', `127.0.0.1:${this.adminPort}`,
                                         ...this.extra]);
    await until('engine ready', 30000, async () => (await get(`${this.admin}/health/ready`)).status === 200, this.child);
    return this;
  }
  kill() { this.child.kill('SIGKILL'); return this.child.ended; }
  served() { return metric(this.admin, 'bitnet_inference_requests_total'); }
}
const engineAt = async (listen, ...extra) => new Engine(listen, await freePort(), extra).up();
const engine = async (...extra) => engineAt(`127.0.0.1:${await freePort()}`, ...extra);

const up = (gateway, n) => until(`${n} engines serve`, 15000, async () => await metric(gateway.admin, 'bitnet_engine_up') === n, gateway.child);
const gatewayOf = async (engines, ...extra) => {
  const gateway = await startGateway(engines.map((e) => e.target ?? e).join(','), extra);
  await up(gateway, engines.length);
  return gateway;
};
const infer = (gateway, extra = {}, options) => post(`${gateway.url}/v1/inference`, { ...body, ...extra }, options);
const retries = (gateway, reason) => metric(gateway.admin, 'bitnet_engine_retries_total', reason ? { reason } : {});

// A stream that is read to its end; `begun` when it has its first token, `text` once it is over.
function stream(gateway, extra) {
  const s = { text: '' };
  let first;
  s.begun = new Promise((resolve) => { first = resolve; });
  s.ended = (async () => {
    const response = await fetch(`${gateway.url}/v1/inference/stream`, { method: 'POST', body: JSON.stringify({ ...body, ...extra }),
                                                                              headers: { 'content-type': 'application/json' } });
    s.status = response.status;
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      s.text += chunk;
      first();
    }
    s.endedAt = performance.now();
  })();
  return s;
}

// How a number of requests each spread over engines.
async function spread(engines, run) {
  const before = await Promise.all(engines.map((e) => e.served()));
  await run();
  const after = await Promise.all(engines.map((e) => e.served()));
  return after.map((n, i) => n - before[i]);
}

await test('pool: an engine that is killed ends its streams, refuses at once, and is back when it is back', async () => {
  const e = await engine('--null-step-us', '20000'), gateway = await gatewayOf([e]);
  const streams = Array.from({ length: 50 }, () => stream(gateway, { max_tokens: 400 }));
  await Promise.all(streams.map((s) => s.begun));
  const killedAt = performance.now();
  await e.kill();
  await Promise.all(streams.map((s) => s.ended));
  for (const s of streams) assert.match(s.text.slice(-500), /event: error\nid: \d+\ndata: [^\n]*"code":"SERVICE_UNAVAILABLE"[^\n]*\n\n$/);
  const lastMs = Math.max(...streams.map((s) => s.endedAt)) - killedAt;
  const askedAt = performance.now();
  const refused = await infer(gateway);
  const refusedMs = performance.now() - askedAt;
  assert.equal(refused.status, 503);
  assert.equal(refused.json.error.code, 'SERVICE_UNAVAILABLE');
  assert.ok(Number(refused.headers.get('retry-after')) >= 1);
  assert.equal(await metric(gateway.admin, 'bitnet_engine_up', { target: e.target }), 0);
  assert.equal((await get(`${gateway.url}/health/ready`)).status, 503);
  await sleep(3000); // so that the pause between two connections has grown to its longest
  await e.up();
  const backAt = performance.now();
  await until('200 again', 5000, async () => (await infer(gateway)).status === 200);
  const backMs = performance.now() - backAt;
  console.log(`# last error event ${lastMs.toFixed(0)} ms after the kill, 503 in ${refusedMs.toFixed(1)} ms, 200 again in ${backMs.toFixed(0)} ms`);
  assert.ok(lastMs < 3000 && refusedMs < 1000, `${lastMs} ${refusedMs}`); // far below any timeout of a connection
  await Promise.all([stop(gateway.child), stop(e.child)]);
});

await test('pool: a request that has no token yet goes to another engine when its own dies', async () => {
  const engines = [await engine(...STEP, '--max-sequences', '1'), await engine(...STEP, '--max-sequences', '1')];
  const gateway = await gatewayOf(engines);
  const hogs = [stream(gateway, { max_tokens: 700 }), stream(gateway, { max_tokens: 700 })];
  await Promise.all(hogs.map((s) => s.begun));
  const waiting = Array.from({ length: 20 }, (_, i) => (i % 2 ? infer(gateway) : stream(gateway)));
  await until('they wait', 10000, async () => await metric(engines[0].admin, 'bitnet_requests_waiting') === 10);
  await engines[0].kill();
  for (const w of waiting) {
    if (w.ended) await w.ended;
    const { status, text } = w.ended ? w : await w;
    assert.equal(status, 200, text);
    assert.doesNotMatch(text, /"error"/);
  }
  assert.equal(await retries(gateway), 10);
  await Promise.all(hogs.map((s) => s.ended));
  assert.equal(hogs.filter((s) => /event: error/.test(s.text)).length, 1); // a stream that has begun is not begun anew
  await Promise.all([stop(gateway.child), stop(engines[1].child)]);
});

const two = [await engine(...STEP), await engine(...STEP)];

await test('pool: round_robin gives each engine as many', async () => {
  const gateway = await gatewayOf(two);
  assert.deepEqual(await spread(two, async () => { for (let i = 0; i < 20; i++) assert.equal((await infer(gateway)).status, 200); }), [10, 10]);
  await stop(gateway.child);
});

await test('pool: least_load gives work to the engine that has less', async () => {
  const gateway = await gatewayOf(two, '--balance', 'least_load');
  const long = stream(gateway, { max_tokens: 400 });
  await long.begun;
  assert.equal(await metric(gateway.admin, 'bitnet_engine_requests_active'), 1);
  const n = await spread(two, async () => { for (let i = 0; i < 8; i++) await infer(gateway); });
  assert.deepEqual(n.sort((a, b) => a - b), [0, 8]);
  await long.ended;
  assert.equal(await metric(gateway.admin, 'bitnet_engine_requests_active'), 0);
  await stop(gateway.child);
});

await test('pool: affinity keeps a conversation at one engine and spreads the others', async () => {
  const gateway = await gatewayOf(two, '--affinity', 'prefix');
  const chat = (messages, extra = {}) => post(`${gateway.url}/v1/chat/completions`, { messages, max_tokens: 2, ...extra });
  for (const seed of [1, 2, 3]) {
    const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: `Tell me of ${seed}` }];
    const n = await spread(two, async () => {
      for (let turn = 0; turn < 4; turn++) {
        assert.equal((await chat(messages)).status, 200);
        messages.push({ role: 'assistant', content: 'so' }, { role: 'user', content: `and ${turn}?` });
      }
    });
    assert.deepEqual(n.sort(), [0, 4]);
  }
  const named = await spread(two, async () => {
    for (let i = 0; i < 4; i++) await chat([{ role: 'user', content: `${i}` }], { prompt_cache_key: 'one' });
  });
  assert.deepEqual(named.sort(), [0, 4]);
  const others = await spread(two, async () => { for (let i = 0; i < 40; i++) await infer(gateway, { prompt: `number ${i}` }); });
  assert.ok(Math.min(...others) >= 10, others.join(' '));
  await stop(gateway.child);
});

await test('pool: a refusal that all would repeat is not tried again; a full queue is, once', async () => {
  const full = await engine(...STEP, '--max-sequences', '1', '--queue-limit', '1');
  const gateway = await gatewayOf([full, two[0]]);
  const bad = await infer(gateway, { model: 'another' });
  assert.equal(bad.status, 404, bad.text);
  assert.equal(await retries(gateway), 0);
  const direct = await gatewayOf([full]);
  const held = [stream(direct, { max_tokens: 400 })];
  await held[0].begun;
  held.push(stream(direct, { max_tokens: 400 }));
  await until('it is full', 10000, async () => await metric(full.admin, 'bitnet_requests_active') === 2);
  for (let i = 0; i < 4; i++) assert.equal((await infer(gateway)).status, 200);
  assert.ok(await retries(gateway, 'queue_full') >= 1);
  const refused = await infer(direct);
  assert.equal(refused.status, 503);
  assert.equal(await retries(direct), 0);
  await Promise.all(held.map((s) => s.ended));
  await Promise.all([stop(gateway.child), stop(direct.child), stop(full.child)]);
});

await test('pool: with hedging an engine that stands still costs no request', async () => {
  const still = await engine(...STEP), gateway = await gatewayOf([still, two[0]], '--hedge-ms', '100');
  still.child.kill('SIGSTOP');
  const answers = await Promise.all(Array.from({ length: 10 }, () => infer(gateway)));
  assert.deepEqual(answers.map((a) => a.status), answers.map(() => 200));
  assert.ok(await retries(gateway, 'hedge') >= 5); // every second one, and those that the machine made slow
  still.child.kill('SIGCONT');
  await stop(gateway.child);
  await stop(still.child);
});

await test('pool: statistics, devices and models are of both engines', async () => {
  const gateway = await gatewayOf(two);
  const stats = async (from) => (await get(`${from.url}/v1/stats?include_details=true`)).json;
  const before = await stats(gateway), alone = [];
  for (let i = 0; i < 6; i++) assert.equal((await infer(gateway)).status, 200);
  for (const e of two) {
    const one = await gatewayOf([e]);
    const [s, d, m] = [await stats(one), (await get(`${one.url}/v1/devices`)).json, (await get(`${one.url}/v1/models`)).json];
    alone.push({ s, d, m });
    await stop(one.child);
  }
  const both = await stats(gateway), sum = (f) => alone.reduce((n, a) => n + f(a), 0);
  assert.equal(both.server_stats.total_requests - before.server_stats.total_requests, 6);
  for (const f of [(s) => s.server_stats.total_requests, (s) => s.server_stats.successful_requests, (s) => s.inference_stats.total_tokens_generated,
                   (s) => s.device_stats.cpu_inference_count, (s) => Object.values(s.inference_stats.quantization_distribution).reduce((a, b) => a + b)])
    assert.equal(f(both), sum((a) => f(a.s)), `${f}`);
  const mean = sum((a) => a.s.server_stats.avg_response_time_ms * a.s.server_stats.total_requests) / both.server_stats.total_requests;
  assert.ok(Math.abs(both.server_stats.avg_response_time_ms - mean) < 0.01 * mean, `${both.server_stats.avg_response_time_ms} ${mean}`);
  assert.ok(both.server_stats.uptime_seconds >= Math.max(...alone.map((a) => a.s.server_stats.uptime_seconds)));

  const devices = (await get(`${gateway.url}/v1/devices`)).json;
  assert.deepEqual(devices.fallback_order, alone.flatMap((a, i) => a.d.fallback_order.map((id) => `${i}/${id}`)));
  assert.deepEqual(devices.devices.map((d) => d.id), devices.fallback_order);

  const models = (await get(`${gateway.url}/v1/models`)).json, [listed] = models.models, id = alone[0].m.data[0].id;
  assert.deepEqual([models.total_count, models.active_count, models.data.length, listed.id], [1, 1, 1, id]);
  assert.equal(listed.performance_metrics.total_requests, sum((a) => a.m.models[0].performance_metrics.total_requests));
  assert.ok(Math.abs(listed.resource_usage.memory_usage_mb - sum((a) => a.m.models[0].resource_usage.memory_usage_mb)) < 0.1);
  const spelt = await get(`${gateway.url}/v1/models/${encodeURIComponent(id.replace('-', '/'))}`);
  assert.equal(spelt.json.id, id, spelt.text);
  const none = await get(`${gateway.url}/v1/models/none`);
  assert.equal(none.status, 404);
  assert.deepEqual([none.json.error.message, none.json.error.param], [`there is no model "none"; "${id}" is served`, 'model']);

  two[1].child.kill('SIGSTOP'); // asked, and silent: the other's answer is the answer
  await until('it stands still', 5000, async () => / T /.test(readFileSync(`/proc/${two[1].child.pid}/stat`, 'utf8')));
  const half = await stats(gateway);
  two[1].child.kill('SIGCONT');
  assert.equal(half.server_stats.total_requests, alone[0].s.server_stats.total_requests);
  await stop(gateway.child);
});

await test('pool: health is degraded while one of two is down, and ready', async () => {
  const gone = await engine(...STEP), gateway = await gatewayOf([gone, two[0]]);
  assert.equal((await get(`${gateway.url}/health`)).json.status, 'healthy');
  await gone.kill();
  await up(gateway, 1);
  const health = await get(`${gateway.url}/health`);
  assert.equal(health.json.status, 'degraded');
  assert.deepEqual(health.json.components.execution_router, { status: 'degraded', message: '1 of 2 engines do not answer' });
  assert.equal((await get(`${gateway.url}/health/ready`)).json.status, 'ready');
  await stop(gateway.child);
});

await test('pool: both engines restarted in turn under load, and no request fails', async () => {
  const gateway = await gatewayOf(two);
  let go = true, n = 0;
  const failures = [];
  const clients = Array.from({ length: 8 }, async (_, i) => {
    while (go) {
      const s = i % 2 ? stream(gateway, { max_tokens: 30 }) : null;
      if (s) await s.ended.catch((error) => { s.text += `"error" ${error}`; });
      const a = s ?? await infer(gateway, { max_tokens: 30 });
      n++;
      if (a.status !== 200 || /"error"|event: error/.test(a.text)) failures.push(`${a.status} ${a.text.slice(-300)}`);
    }
  });
  for (const e of two) {
    await sleep(500);
    assert.equal((await stop(e.child)).code, 0);
    await e.up();
    await up(gateway, 2);
  }
  await sleep(500);
  go = false;
  await Promise.all(clients);
  console.log(`# ${n} requests, ${failures.length} failed, ${await retries(gateway)} tried again`);
  assert.deepEqual(failures.slice(0, 3), []);
  assert.ok(n > 50);
  await stop(gateway.child);
});

await test('pool: names and sockets', async () => {
  const socket = path.join(os.tmpdir(), `bitnet-pool-${process.pid}.sock`);
  const local = await engineAt(`unix:${socket}`);
  const port = two[0].target.split(':')[1];
  for (const target of [`dns:///localhost:${port}`, `unix:${socket}`, `localhost:${port}`, `ipv4:${two[0].target}`]) {
    const gateway = await startGateway(target);
    await up(gateway, 1);
    assert.equal((await infer(gateway)).status, 200, target);
    assert.equal((await get(`${gateway.url}/health`)).json.status, 'healthy', target);
    await stop(gateway.child);
  }
  await stop(local.child);
});

await test('pool: a fault in the options is told', async () => {
  for (const target of ['', '127.0.0.1', 'dns:///', 'unix:', '127.0.0.1:1,127.0.0.1:1']) {
    const child = start('bitnet-gateway', ['--engine', target, '--listen', '127.0.0.1:0', '--admin-listen', '']);
    assert.equal((await child.ended).code, 1, target);
    assert.match(child.log(), /bitnet-gateway: --engine: (expected HOST:PORT, .* found ".*"|127.0.0.1:1 is named twice)/);
  }
  const child = start('bitnet-gateway', ['--engine', 'dns:///localhost:1', '--engine-tls-ca', '/nowhere.pem', '--listen', '127.0.0.1:0', '--admin-listen', '']);
  assert.equal((await child.ended).code, 1);
  assert.match(child.log(), /engine-tls: .*\/nowhere.pem/);
});

await test('pool: TLS to an engine that knows its clients', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-pool-'));
  const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'ignore' });
  const newkey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1'];
  openssl('req', '-x509', ...newkey, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=ca');
  openssl('req', ...newkey, '-keyout', 'e.key', '-out', 'e.csr', '-subj', '/CN=engine');
  writeFileSync(path.join(dir, 'names'), 'subjectAltName=DNS:localhost');
  openssl('x509', '-req', '-in', 'e.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-days', '1', '-extfile', 'names', '-out', 'e.pem');
  const [ca, cert, key] = ['ca.pem', 'e.pem', 'e.key'].map((name) => path.join(dir, name));
  const secure = await engine('--tls-cert', cert, '--tls-key', key, '--tls-client-ca', ca);
  const target = `dns:///localhost:${secure.target.split(':')[1]}`;
  const gateway = await gatewayOf([target], '--engine-tls-ca', ca, '--engine-tls-cert', cert, '--engine-tls-key', key);
  assert.equal((await infer(gateway)).status, 200);
  await stop(gateway.child);
  const unknown = await startGateway(target, ['--engine-tls-ca', ca]); // the engine asks for a certificate
  await until('the engine is known to be down', 10000, async () => /"state":"down"/.test(unknown.child.log()));
  assert.equal((await infer(unknown)).status, 503);
  await Promise.all([stop(unknown.child), stop(secure.child)]);
  rmSync(dir, { recursive: true });
});

await done();
