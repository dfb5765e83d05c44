// Several event loops at once: what they share counts exactly, and files of keys, certificates and metrics are read while
// requests run. `make test SAN=thread T=e2e/threads` looks for races.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { renameSync } from 'node:fs';
import { done, freePort, get, metric, post, sleep, start, startEngine, startGateway, stop, test, until } from './lib/harness.mjs';
import { bearer, file, makeKey, token } from './lib/tokens.mjs';

const secret = 'a secret of at least thirty-two bytes', { key, line } = makeKey('alice', 'model:read');
const keys = file('keys', `${line}\n`);
const tls = { cert: keys.replace(/keys$/, 'cert.pem'), key: keys.replace(/keys$/, 'key.pem') };
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', tls.key, '-out', tls.cert, '-days', '2',
                         '-subj', '/CN=localhost'], { stdio: 'pipe' });
const engine = await startEngine(['--max-sequences', '8']);
const loops = ['--threads', '4', '--rate-limits', 'on', '--api-keys', keys];
const ready = (gateway) => until('ready', 30000, async () => (await get(`${gateway.url}/health/ready`)).status === 200, gateway.child);
const h2load = (url, n, ...args) => new Promise((resolve, reject) => execFile('h2load', ['-n', n, '-c', 16, '-m', 4, ...args.flatMap((h) => ['-H', h]), url],
  (error, out) => { const [, ok, refused] = /status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx/.exec(out) ?? []; error ? reject(error) : resolve({ ok: +ok, refused: +refused }); }));

await test('threads: a limit is one for all loops', async () => {
  const gateway = await startGateway(engine.target, [...loops, '--rate-limit-stats', '50']);
  await ready(gateway);
  assert.deepEqual(await h2load(`${gateway.url}/v1/models`, 400, `authorization: Bearer ${key}`), { ok: 50, refused: 350 });
  assert.equal(await metric(gateway.admin, 'bitnet_admission_rejections_total', { reason: 'rate_limit' }), 350);
  assert.deepEqual(await stop(gateway.child), { code: 0, signal: null });
});

await test('threads: keys, certificate and metrics are read while requests of all kinds run', async () => {
  const [port, secure, admin] = [await freePort(), await freePort(), await freePort()];
  const gateway = { url: `http://127.0.0.1:${port}`, admin: `http://127.0.0.1:${admin}` };
  gateway.child = start('bitnet-gateway', ['--engine', engine.target, ...loops, '--rate-limit-stats', '0', '--rate-limit-inference', '0', '--rate-limit-health', '0', '--client-concurrency', '64',
                                           '--jwt-key', file('secret', secret), '--jwt-alg', 'HS256', '--tls-cert', tls.cert, '--tls-key', tls.key,
                                           '--listen', `${gateway.url},https://127.0.0.1:${secure}`, '--admin-listen', `127.0.0.1:${admin}`]);
  await ready(gateway);
  const rounds = [];
  const again = async (request) => {
    for (const me = rounds.push(0) - 1; rounds.some((n) => n < 15); rounds[me]++) await request();
  };
  const jwt = (i) => bearer(token({ alg: 'HS256', key: secret }, { sub: `client-${i}` }));
  const body = { prompt: 'Once upon a time', max_tokens: 3, seed: 7 };
  const expect = async (status, answer) => assert.equal((await answer).status, status);
  await Promise.all([
    again(() => expect(200, get(`${gateway.url}/v1/models`, { headers: jwt(rounds[0]) }))),
    again(() => expect(200, get(`${gateway.url}/health`, { headers: { authorization: `Bearer ${key}` } }))),
    again(() => expect(200, post(`${gateway.url}/v1/inference/stream`, body, { headers: jwt(0) }))),
    again(() => expect(200, post(`${gateway.url}/v1/inference`, body, { headers: { 'x-api-key': key } }))),
    again(() => expect(401, get(`${gateway.url}/v1/stats`, { headers: { authorization: 'Bearer a.b.c' } }))),
    again(() => expect(200, get(`${gateway.url}/openapi.json`))),
    again(async () => assert.deepEqual(await h2load(`https://127.0.0.1:${secure}/health/live`, 100), { ok: 100, refused: 0 })),
    again(() => expect(200, get(`${gateway.admin}/metrics`))),
    again(async () => { renameSync(file('new', `${line}\n# ${rounds[0]}\n`), keys); gateway.child.kill('SIGHUP'); await sleep(100); }),
  ]);
  await until('no request in flight', 10000, async () => (await metric(gateway.admin, 'bitnet_requests_active')) === 0);
  assert.deepEqual(await stop(gateway.child), { code: 0, signal: null });
});

await stop(engine.child);
await done();
