// Many connections, slow ones and stalled ones, and the end under load. CONNECTIONS=1000 STEP_MS=10000 (`make connections`)
// is the full measure of open streams. timeout: 300
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { done, get, metric, sleep, startGateway, startPair, stop, test, until } from './lib/harness.mjs';

const n = Number(process.env.CONNECTIONS ?? 100), stepMs = Number(process.env.STEP_MS ?? 200);
const sanitized = !!process.env.SAN; // its allocator keeps what was freed: memory is not measured there
const rss = (child) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) * 1024;
const json = { 'content-type': 'application/json' };
const prompt = 'Once upon a time';

// A raw connection that collects what comes and knows when it ended.
const raw = (gateway) => {
  const socket = net.connect(gateway.port, gateway.host);
  socket.text = '';
  socket.on('error', () => {}).on('data', (data) => { socket.text += data; });
  socket.gone = new Promise((resolve) => socket.on('close', resolve));
  return socket;
};

// Opens a stream over either protocol; counts its events.
const openers = (gateway) => {
  const sessions = Array.from({ length: Math.ceil(n / 100) }, () => http2.connect(gateway.url));
  const body = JSON.stringify({ prompt, max_tokens: 60 });
  const count = (stream, s) => s.on('error', () => {}).on('data', (data) => { if (data.includes('event: token')) stream.tokens++; });
  return {
    close: () => sessions.forEach((s) => s.destroy()),
    h1() {
      const stream = { tokens: 0 };
      const request = http.request(`${gateway.url}/v1/inference/stream`, { method: 'POST', agent: false, headers: json }, (r) => count(stream, r));
      stream.destroy = () => request.destroy();
      request.on('error', () => {}).end(body);
      return stream;
    },
    h2(i) {
      const stream = { tokens: 0 };
      const request = sessions[i % sessions.length].request({ ':method': 'POST', ':path': '/v1/inference/stream', ...json });
      stream.destroy = () => request.destroy();
      count(stream, request).end(body);
      return stream;
    },
  };
};

{
  const { engine, gateway } = await startPair(['--null-model', '--null-step-us', String(stepMs * 1000), '--max-sequences', String(n + 8),
    '--queue-limit', String(4 * n), '--kv-cache-size', '1G', '--max-batch-tokens', '16384', '--target-itl-ms', '60000'], ['--threads', '2']);
  for (const protocol of ['h1', 'h2'])
    await test(`connections: ${n} open streams over ${protocol} cost under 64 KB each`, async () => {
      const open = openers(gateway), before = rss(gateway.child), streams = [];
      for (let i = 0; i < n; i++) {
        streams.push(open[protocol](i));
        if (i % 50 === 49) await sleep(20);
      }
      await until('a token on each stream', 30 * stepMs + 60000, async () => streams.every((s) => s.tokens > 0));
      assert.equal(await metric(gateway.admin, 'bitnet_requests_active'), n); // of both loops
      const growth = rss(gateway.child) - before;
      console.log(`# ${n} streams over ${protocol}: ${(growth / 1048576).toFixed(1)} MB, ${(growth / 1024 / n).toFixed(1)} KB each`);
      if (!sanitized) assert.ok(growth < n * 65536, `${growth} bytes`);
      streams.forEach((s) => s.destroy());
      open.close();
      await until('all gone', 20000, async () => (await metric(gateway.admin, 'bitnet_requests_active')) === 0);
      await until('sequences free', 20 * stepMs + 20000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
    });
  await stop(gateway.child);
  await stop(engine.child);
}

const { engine, gateway } = await startPair(['--null-model', '--max-sequences', '256', '--kv-cache-size', '1G', '--coalesce', 'off'],
  ['--threads', '2', '--write-timeout-ms', '2000', '--head-timeout-ms', '500', '--body-timeout-ms', '1000', '--min-rate', '1K',
   '--max-connections-per-address', '40', '--max-streams', '20']);
const idle = (of = gateway) => until('nothing active', 30000, async () => (await metric(of.admin, 'bitnet_requests_active')) === 0);
const large = { model: 'null-model', prompt, max_tokens: 480, n: 4, logprobs: 5, stream: true }; // megabytes

const stalled = async ({ engine, gateway }, request, path = '/v1/completions') => {
  const body = JSON.stringify(request), sockets = [];
  let before;
  for (let i = 0; i < 20; i++) {
    if (i === 4) before = rss(gateway.child); // what all streams share is there
    const socket = raw(gateway);
    socket.write(`POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    await once(socket, 'data');
    socket.pause();
    sockets.push(socket);
  }
  let growth = 0; // at most, until the first of them is ended
  while ((await metric(gateway.admin, 'bitnet_requests_active')) === sockets.length) {
    growth = Math.max(growth, rss(gateway.child) - before);
    await sleep(50);
  }
  console.log(`# a stalled reader of ${request.n} choices: ${(growth / 1024 / 16).toFixed(1)} KB`);
  if (!sanitized) assert.ok(growth < 16 * 131072, `${growth} bytes`);
  await idle(gateway);
  await until('sequences free', 10000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
  assert.ok(sockets.every((s) => !s.text.includes('[DONE]')));
  sockets.forEach((s) => s.destroy());
};
await test('connections: stalled HTTP/1.1 readers hold under 128 KB and are ended', () => stalled({ engine, gateway }, large));
{
  const pair = await startPair(['--null-model', '--max-sequences', '256', '--kv-cache-size', '1G'], ['--threads', '2', '--write-timeout-ms', '2000']);
  const { prompt: content, logprobs, ...chat } = large;
  await test('connections: so they do with messages that coalesce, eight choices and all alternatives', () =>
    stalled(pair, { ...chat, messages: [{ role: 'user', content }], n: 8, logprobs: true, top_logprobs: 20 }, '/v1/chat/completions'));
  await stop(pair.gateway.child);
  await stop(pair.engine.child);
}

await test('connections: an HTTP/2 stream that its window stalls is ended alone', async () => {
  const session = http2.connect(gateway.url, { settings: { initialWindowSize: 16384 } });
  await once(session, 'connect');
  session.setLocalWindowSize(1 << 24); // of the connection
  const stalled = session.request({ ':method': 'POST', ':path': '/v1/completions', ...json });
  stalled.end(JSON.stringify(large));
  await once(stalled, 'response');
  const ended = new Promise((resolve) => stalled.on('error', () => {}).on('close', () => resolve(stalled.rstCode)));
  const other = async () => {
    const stream = session.request({ ':method': 'POST', ':path': '/v1/completions', ...json });
    let text = '';
    stream.on('data', (data) => { text += data; }).end(JSON.stringify({ ...large, n: 1, max_tokens: 50 }));
    await once(stream, 'end');
    return text;
  };
  let code;
  ended.then((c) => { code = c; });
  const limit = Date.now() + 20000;
  while (code === undefined && Date.now() < limit) assert.match(await other(), /\[DONE\]/);
  assert.equal(code, http2.constants.NGHTTP2_CANCEL);
  assert.match(await other(), /\[DONE\]/);
  session.close();
  await idle();
});

await test('connections: an HTTP/2 reader that stops reading is ended', async () => {
  let upstream; // stands between, and stops reading
  const proxy = net.createServer((client) => {
    upstream = net.connect(gateway.port, gateway.host);
    client.on('error', () => {}).pipe(upstream.on('error', () => {})).pipe(client);
  }).listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const session = http2.connect(`http://127.0.0.1:${proxy.address().port}`, { settings: { initialWindowSize: 1 << 24 } });
  session.on('error', () => {});
  await once(session, 'connect');
  session.setLocalWindowSize(1 << 24);
  const stream = session.request({ ':method': 'POST', ':path': '/v1/completions', ...json });
  stream.on('error', () => {}).end(JSON.stringify(large));
  await once(stream, 'response');
  upstream.unpipe().pause();
  await idle();
  session.destroy();
  upstream.destroy();
  proxy.close();
});

await test('connections: a head or body that trickles is answered 408, one that moves is not', async () => {
  const trickle = async (start, piece, everyMs) => {
    const socket = raw(gateway);
    socket.write(start);
    const timer = setInterval(() => socket.write(piece), everyMs);
    await Promise.race([socket.gone, sleep(8000)]);
    clearInterval(timer);
    socket.destroy();
    return socket.text;
  };
  const post = 'POST /v1/inference HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ';
  const [head, body, silent, moves] = await Promise.all([
    trickle('GET /health/live HTTP/1.1\r\nHost: a\r\n', 'x', 100),
    trickle(`${post}100000\r\n\r\n`, 'x', 100),
    trickle('', '', 1000),
    trickle(`${post}${JSON.stringify({ prompt, max_tokens: 2 }).length + 9000}\r\nConnection: close\r\n\r\n${JSON.stringify({ prompt, max_tokens: 2 })}`,
            ' '.repeat(300), 100),
  ]);
  assert.match(head, /^HTTP\/1\.1 408 /);
  assert.match(body, /^HTTP\/1\.1 408 /);
  assert.equal(silent, '');
  assert.match(moves, /^HTTP\/1\.1 200 /); // three seconds, at three times the least rate
});

await test('connections: beyond the limit of an address they are turned away, until one ends', async () => {
  const none = () => until('no connections', 15000, async () => (await metric(gateway.admin, 'bitnet_connections_active', { server: 'main' })) === 0);
  await none();
  const sockets = Array.from({ length: 60 }, () => raw(gateway));
  for (const socket of sockets) socket.write('GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n');
  await until('answers and refusals', 5000, async () => sockets.filter((s) => s.text).length === 40 && sockets.filter((s) => s.destroyed).length >= 20);
  assert.equal(await metric(gateway.admin, 'bitnet_connections_refused_total', { server: 'main' }), 20);
  sockets.forEach((s) => s.destroy());
  await none();
  assert.equal((await get(`${gateway.url}/health/live`)).status, 200);
});

await test('connections: beyond the limit of all they wait and are served', async () => {
  const small = await startGateway(engine.target, ['--max-connections', '3', '--threads', '2']);
  const sockets = Array.from({ length: 6 }, () => raw(small));
  for (const socket of sockets) socket.write('GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n');
  for (const end = Date.now() + 10000; sockets.some((s) => !s.text) && Date.now() < end; await sleep(20))
    sockets.filter((s) => s.text).forEach((s) => s.destroy());
  assert.ok(sockets.every((s) => s.text.startsWith('HTTP/1.1 200 ')));
  await stop(small.child);
});

await test('connections: SIGTERM under load loses no request', async () => {
  const own = await startGateway(engine.target, ['--threads', '2', '--lame-duck-ms', '10000']); // however slow the machine
  const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });
  const body = JSON.stringify({ prompt, max_tokens: 200 });
  const lost = [];
  let served = 0, stopping = false;
  const h1 = () => new Promise((resolve) => {
    const request = http.request(`${own.url}/v1/inference/stream`, { method: 'POST', agent, headers: json }, (response) => {
      let text = '';
      response.on('data', (data) => { text += data; }).on('error', (error) => { lost.push(error); resolve(true); })
        .on('end', () => { text.includes('event: complete') ? served++ : lost.push(text); resolve(true); });
    });
    request.on('error', (error) => { if (!stopping || error.code !== 'ECONNREFUSED') lost.push(error); resolve(false); }).end(body);
  });
  const session = http2.connect(own.url);
  session.on('error', (error) => lost.push(error));
  const h2 = () => new Promise((resolve) => {
    if (session.closed || session.destroyed) { resolve(false); return; }
    const stream = session.request({ ':method': 'POST', ':path': '/v1/inference/stream', ...json });
    let text = '';
    stream.on('data', (data) => { text += data; }).on('error', () => {}).on('close', () => {
      const refused = stopping && stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM; // not begun: good for another server
      if (text.includes('event: complete')) served++;
      else if (!refused) lost.push(`h2 ${stream.rstCode} ${text}`);
      resolve(true);
    }).end(body);
  });
  const clients = [...Array(12).fill(h1), ...Array(6).fill(h2)].map(async (request) => { while (await request()); });
  await until('answers', 20000, async () => served >= 20);
  stopping = true;
  const before = served; // the load goes on for as long as it is let
  assert.deepEqual(await stop(own.child), { code: 0, signal: null });
  await Promise.all(clients);
  assert.deepEqual(lost, []);
  assert.ok(before > 0 && served > before, `${before} before, ${served} in all`);
  agent.destroy();
});

assert.deepEqual(await stop(gateway.child), { code: 0, signal: null });
await done();
