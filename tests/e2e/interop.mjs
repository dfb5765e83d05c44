// timeout: 300
// The clients and proxies that stand in front of the gateway elsewhere: curl and nghttp in every version of HTTP, nginx, haproxy, wrk and
// h2load. Tokens have to arrive one by one: in as many pieces, or nearly; what waits for the end would come in one.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { done, freePort, get, metric, startPair, stop, test, until } from './lib/harness.mjs';

const STEP_MS = 100, TOKENS = 12;
const { engine, gateway } = await startPair(['--null-model', '--null-step-us', String(STEP_MS * 1000), '--coalesce', 'off', '--speculation', 'off']);
const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-interop-'));
const file = (name, text) => { writeFileSync(path.join(dir, name), text); return path.join(dir, name); };
const body = JSON.stringify({ prompt: 'Once', max_tokens: TOKENS });
const bodyFile = file('body.json', body), shortFile = file('short.json', JSON.stringify({ prompt: 'Once', max_tokens: 1 }));
const run = (program, args) => new Promise((resolve) =>
  execFile(program, args, { maxBuffer: 1 << 26 }, (error, out, err) => resolve({ code: error?.code ?? 0, out, err })));

// Text that comes in pieces, from a program's output or a fetch: is it a whole stream, and in how many pieces were its tokens?
async function readStream(pieces) {
  let text = '', arrivals = 0;
  for await (const piece of pieces()) {
    text += piece;
    if (piece.includes('data: ')) arrivals++;
  }
  assert.equal((text.match(/event: token/g) ?? []).length, TOKENS, text);
  assert.match(text, /event: complete/);
  return arrivals;
}
// On a busy machine pieces may wait for who reads them, but not each time.
async function checkStream(pieces) {
  const arrivals = [];
  do arrivals.push(await readStream(pieces)); while (arrivals.at(-1) < TOKENS / 2 && arrivals.length < 5);
  assert.ok(arrivals.at(-1) >= TOKENS / 2, `${TOKENS} tokens in ${arrivals} pieces`);
}
const fromProgram = (program, args) => async function* () {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  for await (const chunk of child.stdout) yield chunk.toString();
};
const fromFetch = (url) => async function* () {
  const response = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
  assert.equal(response.status, 200);
  for await (const chunk of response.body) yield Buffer.from(chunk).toString();
};

// ---- proxies ----

const children = [];
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));
async function proxy(program, args, url) {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (chunk) => (log += chunk));
  children.push(child);
  await until(`${program} serves`, 20000, async () => (await get(`${url}/health/live`)).status === 200).catch((error) => { throw new Error(`${error.message} ${log}`); });
}

const ports = { nginx: await freePort(), old: await freePort(), haproxy: await freePort(), h2: await freePort() };
const upstream = `${gateway.host}:${gateway.port}`;
mkdirSync(path.join(dir, 'logs'));
const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${dir}/${name};`).join(' ');
const nginx = file('nginx.conf', `
daemon off; master_process off; pid ${dir}/nginx.pid; error_log stderr;
events { worker_connections 64; }
http {
  access_log off; ${temp}
  upstream gateway { server ${upstream}; keepalive 4; }
  server { listen 127.0.0.1:${ports.nginx}; location / { proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; } }
  server { listen 127.0.0.1:${ports.old}; location / { proxy_pass http://gateway; } }
}`);
// Without http-no-delay haproxy holds small pieces back for a fifth of a second.
const haproxy = file('haproxy.cfg', `
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen http1
  option http-no-delay
  bind 127.0.0.1:${ports.haproxy}
  server gateway ${upstream}
listen http2
  option http-no-delay
  bind 127.0.0.1:${ports.h2}
  server gateway ${upstream} proto h2
`);
await proxy('nginx', ['-p', dir, '-c', nginx], `http://127.0.0.1:${ports.nginx}`);
await proxy('haproxy', ['-db', '-f', haproxy], `http://127.0.0.1:${ports.h2}`);

const proxies = { 'nginx, HTTP/1.1': ports.nginx, 'nginx, HTTP/1.0': ports.old, 'haproxy, HTTP/1.1': ports.haproxy, 'haproxy, HTTP/2': ports.h2 };

// ---- streams, all at once ----

const versions = { '--http1.0': '1.1', '--http1.1': '1.1', '--http2': '1.1', '--http2-prior-knowledge': '2' };
const curl = (version, data) => ['-s', '-S', version, '-H', 'Content-Type: application/json', '--data-binary', `@${data}`];
const stream = `${gateway.url}/v1/inference/stream`;
const streams = {
  ...Object.fromEntries(Object.keys(versions).map((version) => [`curl ${version}`, fromProgram('curl', ['-N', ...curl(version, bodyFile), stream])])),
  nghttp: fromProgram('stdbuf', ['-o0', 'nghttp', '-H:method: POST', '-H', 'content-type: application/json', '-d', bodyFile, stream]),
  ...Object.fromEntries(Object.entries(proxies).map(([name, port]) => [`a client through ${name}`, fromFetch(`http://127.0.0.1:${port}/v1/inference/stream`)])),
};
const checks = Object.entries(streams).map(([name, pieces]) => [name, checkStream(pieces).then(() => undefined, (error) => error)]);
for (const [name, check] of checks)
  await test(`interop: ${name} gets tokens one by one`, async () => { const error = await check; if (error) throw error; });

// ---- whole answers ----

for (const [version, seen] of Object.entries(versions))
  await test(`interop: curl ${version}: POST, HEAD, gzip`, async () => {
    const { code, out, err } = await run('curl', [...curl(version, shortFile), '-w', '\n%{http_code} %{http_version}', `${gateway.url}/v1/inference`]);
    assert.equal(code, 0, err);
    const [answer, status] = out.split('\n');
    assert.equal(status, `200 ${seen}`);
    assert.equal(JSON.parse(answer).tokens_generated, 1);
    const head = await run('curl', ['-s', '-S', version, '-I', `${gateway.url}/health/live`]);
    assert.equal(head.code, 0, head.err);
    assert.match(head.out, /^HTTP\/\S+ 200[^]*^date: .* GMT\r$/im);
    const packed = await run('curl', ['-s', '-S', version, '--compressed', '-D', '-', `${gateway.admin}/metrics`]);
    assert.match(packed.out, /content-encoding: gzip\r\n[^]*\r\n\r\n# HELP/);
  });

await test('interop: curl sends a large body after 100 Continue, and hears 413 before it has sent one that is too large', async () => {
  const send = async (size) => (await run('curl', ['-s', '-S', '--http1.1', '-H', 'Content-Type: application/json', '-H', 'Expect: 100-continue', '-o', '/dev/null',
    '--data-binary', `@${file('large.json', JSON.stringify({ prompt: 'a'.repeat(size) }))}`, '-w', '%{http_code} %{size_upload}', `${gateway.url}/v1/inference`])).out.split(' ');
  assert.deepEqual(await send(500000), ['400', '500013']); // the prompt is too long
  assert.deepEqual(await send(3000000), ['413', '0']);
});

for (const [name, port] of Object.entries(proxies)) {
  const url = `http://127.0.0.1:${port}`;
  await test(`interop: through ${name}: errors arrive as they are, and a client that leaves frees its sequence`, async () => {
    const { status, json } = await get(`${url}/v1/inference`, { method: 'POST', body: '{"prompt":1}', headers: { 'content-type': 'application/json' } });
    assert.equal(status, 400);
    assert.equal(json.error.param, 'prompt');
    const leaving = new AbortController();
    const response = await fetch(`${url}/v1/inference/stream`, { method: 'POST', body: JSON.stringify({ prompt: 'a', max_tokens: 1000 }), headers: { 'content-type': 'application/json' }, signal: leaving.signal });
    await response.body.getReader().read();
    leaving.abort();
    await until('the sequence is freed', 20000, async () => await metric(engine.admin, 'bitnet_requests_running') === 0);
  });
}

// ---- load ----

await test('interop: wrk: every answer is 200', async () => {
  const { code, out, err } = await run('wrk', ['-t', '1', '-c', '8', '-d', '1s', `${gateway.url}/health/live`]);
  assert.equal(code, 0, err);
  assert.ok(Number(/(\d+) requests in/.exec(out)[1]) > 0);
  assert.doesNotMatch(out, /Non-2xx|Socket errors/, out);
});
for (const [name, args, n] of [['GET', [`${gateway.url}/health/live`], 2000], ['POST', ['-d', shortFile, '-H', 'content-type: application/json', `${gateway.url}/v1/inference`], 128],
  ['HTTP/1.1', ['--h1', `${gateway.url}/health/live`], 500]])
  await test(`interop: h2load, ${name}: every answer is 200`, async () => {
    const { code, out, err } = await run('h2load', ['-n', String(n), '-c', '4', '-m', '16', ...args]);
    assert.equal(code, 0, err);
    assert.match(out, new RegExp(`status codes: ${n} 2xx, 0 3xx, 0 4xx, 0 5xx`), out);
  });

await stop(gateway.child);
await stop(engine.child);
rmSync(dir, { recursive: true });
await done();
