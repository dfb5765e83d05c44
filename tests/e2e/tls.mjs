// TLS at the gateway: protocols and versions, mutual TLS, a new certificate under load, and TLS between gateway and engine.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { build, done, freePort, get, metric, model, sleep, start, stop, test, until } from './lib/harness.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-tls-'));
const file = (name) => path.join(dir, name);
const openssl = (...args) => execFileSync('openssl', args, { stdio: 'pipe' });
const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
const makeCa = (name) => openssl('req', '-x509', ...key, '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`), '-days', '2', '-subj', `/CN=${name}`);
const makeCert = (name, ca, cn = name) => {
  writeFileSync(file('ext'), `subjectAltName=DNS:localhost,DNS:engine.test,IP:127.0.0.1,URI:spiffe://bitnet.test/${name},URI:https://second.test/\n`);
  openssl('req', ...key, '-keyout', file(`${name}.key`), '-out', file('csr'), '-subj', `/CN=${cn}`);
  openssl('x509', '-req', '-in', file('csr'), '-CA', file(`${ca}.pem`), '-CAkey', file(`${ca}.key`), '-CAcreateserial', '-days', '2',
          '-extfile', file('ext'), '-out', file(`${name}.pem`));
};
makeCa('ca');
makeCa('other');
for (const [name, ca] of [['one', 'ca'], ['two', 'ca'], ['client', 'ca'], ['friend', 'ca'], ['stranger', 'other'], ['engine', 'ca']]) makeCert(name, ca);
const ca = execFileSync('cat', [file('ca.pem')]);
const pair = (name) => ({ cert: execFileSync('cat', [file(`${name}.pem`)]), key: execFileSync('cat', [file(`${name}.key`)]) });

const gateway = async (target, args) => {
  const port = await freePort(), plain = await freePort(), admin = await freePort();
  const child = start('bitnet-gateway', ['--engine', target, '--rate-limits', 'off', '--listen', `127.0.0.1:${port},http://127.0.0.1:${plain}`,
                                         '--admin-listen', `127.0.0.1:${admin}`, ...args]);
  await until('gateway live', 30000, async () => (await get(`http://127.0.0.1:${admin}/health/live`)).status === 200, child);
  return { child, port, plain, admin: `http://127.0.0.1:${admin}`, url: `https://localhost:${port}` };
};
const curl = (...args) => new Promise((resolve) => execFile('curl', ['-sS', '--max-time', '10', '--cacert', file('ca.pem'), '-o', '/dev/null', '-w',
  '%{http_code} %{http_version}', ...args], (error, out, err) => resolve({ code: error?.code ?? 0, out, err })));

copyFileSync(file('one.pem'), file('live.pem'));
copyFileSync(file('one.key'), file('live.key'));
const nobody = `127.0.0.1:${await freePort()}`;
const own = ['--rate-limits', 'off', '--tls-cert', file('live.pem'), '--tls-key', file('live.key')];
const server = await gateway(nobody, [...own, '--threads', '2', '--log-level', 'debug']);
const live = `${server.url}/health/live`;

await test('tls: ALPN gives HTTP/2 or HTTP/1.1, and a plain address stays plain', async () => {
  assert.deepEqual(await curl(live), { code: 0, out: '200 2', err: '' });
  assert.deepEqual(await curl('--http1.1', live), { code: 0, out: '200 1.1', err: '' });
  assert.deepEqual(await curl('--no-alpn', live), { code: 0, out: '200 1.1', err: '' });
  assert.equal((await curl(`http://127.0.0.1:${server.plain}/health/live`)).out, '200 1.1');
  assert.equal((await curl('--http2-prior-knowledge', `http://127.0.0.1:${server.plain}/health/live`)).out, '200 2');
  assert.notEqual((await curl(`http://127.0.0.1:${server.port}/health/live`)).code, 0);
});

await test('tls: healthcheck asks the admin port or a plain address, and says so where it is given another', async () => {
  const check = (url) => new Promise((resolve) => execFile(path.join(build, 'bitnet-gateway'), ['healthcheck', '--url', url], (error, out, err) => resolve({ code: error?.code ?? 0, err })));
  assert.deepEqual(await check(`${server.admin}/health/live`), { code: 0, err: '' });
  assert.deepEqual(await check(`http://127.0.0.1:${server.plain}/health/live`), { code: 0, err: '' });
  assert.equal((await check(`${server.admin}/health/ready`)).code, 1); // it has no engine
  const secure = await check(live);
  assert.equal(secure.code, 1);
  assert.match(secure.err, /it speaks no TLS: ask an address of --admin-listen/);
});

await test('tls: 1.2 with forward secrecy and 1.3; nothing older, weaker or renegotiated', async () => {
  const say = (input, ...args) => new Promise((resolve) => {
    const child = execFile('openssl', ['s_client', '-connect', `127.0.0.1:${server.port}`, '-CAfile', file('ca.pem'), ...args],
                           { timeout: 10000 }, (error, out, err) => resolve(out + err));
    child.stdin.on('error', () => {}).end(input);
  });
  const connect = (...args) => say('', ...args);
  assert.match(await connect('-tls1_3'), /TLSv1\.3, Cipher is TLS_AES/);
  const old = await connect('-tls1_2');
  assert.match(old, /TLSv1\.2, Cipher is ECDHE-/);
  assert.match(old, /Compression: NONE/);
  assert.match(await connect('-tls1_1', '-cipher', 'ALL:@SECLEVEL=0'), /Cipher is \(NONE\)|alert protocol version/);
  for (const cipher of ['AES128-GCM-SHA256', 'ECDHE-ECDSA-AES128-SHA256'])
    assert.match(await connect('-tls1_2', '-cipher', cipher), /alert handshake failure/, cipher);
  assert.match(await say('R\n', '-tls1_2'), /RENEGOTIATING[^]*no renegotiation/);
  assert.match(await connect('-alpn', 'spdy/3'), /alert no application protocol/);
  assert.match(server.child.log(), /"msg":"TLS failed"/);
});

await test('tls: tickets resume a session', async () => {
  const session = file('session');
  const connect = (...args) => execFileSync('sh', ['-c', `(printf 'GET /health/live HTTP/1.0\\r\\n\\r\\n'; sleep 1) | openssl s_client -quiet -no_ign_eof -connect 127.0.0.1:${server.port} -CAfile ${file('ca.pem')} ${args.join(' ')} 2>&1; true`]).toString();
  connect('-sess_out', session);
  const again = execFileSync('sh', ['-c', `openssl s_client -connect 127.0.0.1:${server.port} -CAfile ${file('ca.pem')} -sess_in ${session} </dev/null 2>&1; true`]).toString();
  assert.match(again, /Reused, TLSv1\.3/);
});

// Requests over both protocols, new connections among them, without a pause; how many there were and what failed.
const load = () => {
  const failed = [];
  let stopped = false, n = 0;
  const agent = new https.Agent({ keepAlive: true, ca });
  const h1 = (options) => new Promise((resolve) => https.get(live, { ca, ...options }, (response) => {
    if (response.statusCode !== 200) failed.push(response.statusCode);
    response.resume().on('end', resolve);
  }).on('error', (error) => { failed.push(error); resolve(); }));
  const session = http2.connect(server.url, { ca });
  session.on('error', (error) => failed.push(error));
  const h2 = () => new Promise((resolve) => {
    const stream = session.request({ ':path': '/health/live' });
    stream.on('response', (h) => { if (h[':status'] !== 200) failed.push(h[':status']); }).on('error', (error) => failed.push(error)).on('close', resolve).resume().end();
  });
  const workers = [() => h1({ agent }), () => h1({ agent: false }), () => h1({ agent: false }), h2].map(async (request) => {
    while (!stopped) { await request(); n++; await sleep(2); }
  });
  return async () => {
    stopped = true;
    await Promise.all(workers);
    agent.destroy();
    session.close();
    return { failed, n };
  };
};
const subject = () => new Promise((resolve, reject) => https.get(live, { ca, agent: false }, (response) => {
  resolve(response.socket.getPeerCertificate().subject.CN);
  response.resume();
}).on('error', reject));
// As tools do it: a new file takes the name of the old one.
const replace = (name, as) => { copyFileSync(file(name), file('new')); renameSync(file('new'), file(as)); };

await test('tls: a new certificate is taken under load, a broken one is not, and no request fails', async () => {
  const end = load();
  assert.equal(await subject(), 'one');
  replace('two.pem', 'live.pem'); // without its key
  await until('refusal in the log', 10000, async () => /certificate not taken, the old one stays/.test(server.child.log()));
  assert.match(server.child.log(), /live\.key: key values mismatch/);
  assert.equal(await subject(), 'one');
  replace('two.key', 'live.key');
  await until('new certificate', 10000, async () => (await subject()) === 'two');
  writeFileSync(file('live.pem'), 'no certificate\n');
  server.child.kill('SIGHUP');
  await until('second refusal', 10000, async () => server.child.log().split('certificate not taken').length > 2);
  assert.equal(await subject(), 'two');
  replace('one.pem', 'live.pem');
  replace('one.key', 'live.key');
  server.child.kill('SIGHUP');
  await until('old certificate again', 10000, async () => (await subject()) === 'one');
  const { failed, n } = await end();
  assert.deepEqual(failed, []);
  assert.ok(n > 20, `${n} requests`);
  assert.ok(await metric(server.admin, 'bitnet_tls_certificate_expiry_timestamp_seconds') > Date.now() / 1000 + 86400);
});

await test('tls: SIGTERM ends connections in good order', async () => {
  const session = http2.connect(server.url, { ca });
  const goaway = new Promise((resolve) => session.on('goaway', resolve));
  await new Promise((resolve) => session.once('connect', resolve));
  assert.deepEqual(await stop(server.child), { code: 0, signal: null });
  assert.equal(await goaway, http2.constants.NGHTTP2_NO_ERROR);
});

await test('tls: mutual TLS lets its own in and no others', async () => {
  const mutual = await gateway(nobody, [...own, '--tls-client-ca', file('ca.pem')]);
  const as = (name) => curl('--cert', file(`${name}.pem`), '--key', file(`${name}.key`), `${mutual.url}/health/live`);
  assert.equal((await as('client')).out, '200 2');
  assert.notEqual((await as('stranger')).code, 0);
  assert.notEqual((await curl(`${mutual.url}/health/live`)).code, 0);
  assert.equal((await curl(`http://127.0.0.1:${mutual.plain}/health/live`)).out, '200 1.1');
  await stop(mutual.child);
});

await test('tls: a certificate names its client in limits and log by option, and opens nothing that asks for a key', async () => {
  writeFileSync(file('keys'), execFileSync(path.join(build, 'bitnet-gateway'), ['make-key', 'app'], { encoding: 'utf8' }).split('\n')[1] + '\n');
  for (const [by, names] of [['cn', { client: 'client', friend: 'friend' }], ['uri', { client: 'spiffe://bitnet.test/client', friend: 'spiffe://bitnet.test/friend' }], ['none', {}]]) {
    const mutual = await gateway(nobody, ['--tls-cert', file('one.pem'), '--tls-key', file('one.key'), '--tls-client-ca', file('ca.pem'), '--tls-client-id', by,
                                          '--rate-limits', 'on', '--rate-limit-health', '3', '--api-keys', file('keys')]);
    const as = (name, to) => curl('--cert', file(`${name}.pem`), '--key', file(`${name}.key`), mutual.url + to);
    for (let i = 0; i < 3; i++) assert.equal((await as('client', '/health/live')).out, '200 2');
    assert.equal((await as('client', '/health/live')).out, '429 2');
    assert.equal((await as('friend', '/health/live')).out, by === 'none' ? '429 2' : '200 2'); // of its own, or of the same address
    assert.equal((await as('client', '/v1/stats')).out, '401 2');
    const log = mutual.child.log().split('\n').filter((line) => line.includes('"/health/live"')).map((line) => JSON.parse(line));
    const expected = by === 'none' ? [['127.0.0.1', 'anyone']] : [[names.client, 'certificate'], [names.friend, 'certificate']];
    for (const [client, auth] of expected) assert.ok(log.some((line) => line.client === client && line.auth === auth), `${by} ${client}: ${JSON.stringify(log.at(-1))}`);
    await stop(mutual.child);
  }
});

await test('tls: half a configuration is refused, and says what is missing', async () => {
  for (const [args, text] of [
    [['--tls-cert', file('one.pem')], /--tls-cert: expected --tls-key with it/],
    [['--tls-client-ca', file('ca.pem')], /--tls-client-ca: expected --tls-cert with it/],
    [['--engine-tls-cert', file('one.pem'), '--engine-tls-key', file('one.key')], /--engine-tls-cert: expected --engine-tls-ca with it/],
    [['--tls-cert', file('one.pem'), '--tls-key', file('two.key')], /two\.key: key values mismatch/],
    [['--tls-client-id', 'cn'], /--tls-client-id: expected --tls-client-ca with it/],
    [['--tls-cert', file('nothing'), '--tls-key', file('two.key')], /certificate .*nothing: /],
    [['--listen', `https://127.0.0.1:${await freePort()}`], /expected --tls-cert and --tls-key with it/],
  ]) {
    const child = start('bitnet-gateway', ['--listen', `127.0.0.1:${await freePort()}`, '--admin-listen', '', ...args]);
    assert.equal((await child.ended).code, 1);
    assert.match(child.log(), text);
  }
});

await test('tls: between gateway and engine, mutual: a wrong CA, name or client is not served', async () => {
  const port = await freePort(), admin = await freePort();
  const engine = start('bitnet-engine', ['--model', model, '--null-model', '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${admin}`,
    '--tls-cert', file('engine.pem'), '--tls-key', file('engine.key'), '--tls-client-ca', file('ca.pem')]);
  await until('engine ready', 30000, async () => (await get(`http://127.0.0.1:${admin}/health/ready`)).status === 200, engine);
  const files = (name, authority = 'ca') => ['--engine-tls-ca', file(`${authority}.pem`), '--engine-tls-cert', file(`${name}.pem`), '--engine-tls-key', file(`${name}.key`)];
  const cases = [
    [files('client'), true], [[...files('client'), '--engine-tls-name', 'engine.test', '--threads', '2'], true],
    [files('client', 'other'), false], [files('stranger'), false], [['--engine-tls-ca', file('ca.pem')], false],
    [[...files('client'), '--engine-tls-name', 'other.test'], false], [[], false],
  ];
  const gateways = await Promise.all(cases.map(([args]) => gateway(`127.0.0.1:${port}`, args)));
  const ready = (g) => get(`${g.admin}/health/ready`).then((answer) => answer.status === 200);
  await until('those that may are served', 20000, async () => (await Promise.all(gateways.map(ready))).filter(Boolean).length === 2);
  for (const [i, [, served]] of cases.entries()) assert.equal(await ready(gateways[i]), served, cases[i][0].join(' '));
  const answer = await get(`http://127.0.0.1:${gateways[0].plain}/v1/inference`, { method: 'POST', body: '{"prompt":"Once","max_tokens":2}', headers: { 'content-type': 'application/json' } });
  assert.equal(answer.status, 200);
  await Promise.all(gateways.map((g) => stop(g.child)));
  await stop(engine);
});

rmSync(dir, { recursive: true, force: true });
await done();
