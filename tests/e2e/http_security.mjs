// timeout: 300
// What clients with bad intent send, over raw sockets against the running gateway: every request is answered or its connection closed,
// nothing is taken for a second request, and at the end the process serves as before and has not grown.
import assert from 'node:assert/strict';
import zlib from 'node:zlib';
import { done, get, post, sleep, startGateway, startPair, stop, test, until } from './lib/harness.mjs';
import * as raw from './lib/raw.mjs';
import { END_HEADERS, END_STREAM, frame, literal, preface, request, type } from './lib/raw.mjs';

const { engine, gateway } = await startPair(['--null-model']);
const SANITIZED = Boolean(process.env.SAN), GROWTH_MIB = 24;
const settings = frame(type.SETTINGS, 0, 0);
const alive = async () => assert.equal((await get(`${gateway.url}/health/live`)).status, 200);
const reached = (path) => gateway.child.log().includes(`"${path}"`);

// Half of a head, then a byte a second, for as long as the server takes it; looked at again at the end.
const slow = await Promise.all(Array.from({ length: 20 }, async () => {
  const link = await raw.connect(gateway);
  link.socket.write('GET /health/live HTTP/1.1\r\nHost: a\r\nX: ');
  const drip = setInterval(() => { if (!link.socket.destroyed) link.socket.write('x'); }, 1000);
  link.closed.then(() => clearInterval(drip));
  return link;
}));

// ---- one request that two readers could take for two ----

const tail = 'GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n';
const head = 'POST /v1/inference HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n';
const chunked = 'Transfer-Encoding: chunked\r\n';
const smuggled = {
  'CL.TE': `${head}Content-Length: ${5 + tail.length}\r\n${chunked}\r\n0\r\n\r\n${tail}`,
  'TE.CL': `${head}${chunked}Content-Length: 4\r\n\r\n24\r\n${tail}\r\n0\r\n\r\n`,
  'TE.TE, the second of another kind': `${head}${chunked}Transfer-Encoding: x\r\n\r\n0\r\n\r\n${tail}`,
  'TE.TE, twice': `${head}${chunked}${chunked}\r\n0\r\n\r\n${tail}`,
  'TE in a list': `${head}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE with a space before the colon': `${head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE behind a tab': `${head}Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n${tail}`,
  'TE behind a vertical tab': `${head}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE in a folded line': `${head}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE behind a lone CR': `${head}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE behind a lone LF': `${head}X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${tail}`,
  'TE of HTTP/1.0': `POST /v1/inference HTTP/1.0\r\n${chunked}\r\n0\r\n\r\n${tail}`,
  'two lengths': `${head}Content-Length: 0\r\nContent-Length: ${tail.length}\r\n\r\n${tail}`,
  'the same length twice': `${head}Content-Length: 0\r\nContent-Length: 0\r\n\r\n${tail}`,
  'lengths in a list': `${head}Content-Length: 0, 0\r\n\r\n${tail}`,
  'length with a sign': `${head}Content-Length: +0\r\n\r\n${tail}`,
  'length below zero': `${head}Content-Length: -1\r\n\r\n${tail}`,
  'length with a space inside': `${head}Content-Length: 0 1\r\n\r\n${tail}`,
  'length that overflows': `${head}Content-Length: 18446744073709551616\r\n\r\n${tail}`,
  'length in a folded line': `${head}Content-Length:\r\n 0\r\n\r\n${tail}`,
  'lone LFs': `${head}Content-Length: 0\n\n${tail}`,
  'NUL in a name': `${head}Content-Length\0: 0\r\n\r\n${tail}`,
  'NUL in a value': `${head}X: a\0b\r\n\r\n${tail}`,
  'chunk size that overflows': `${head}${chunked}\r\n10000000000000000\r\n\r\n${tail}`,
  'chunk size below zero': `${head}${chunked}\r\n-1\r\n\r\n${tail}`,
  'lone LF behind a chunk size': `${head}${chunked}\r\n0\n\r\n${tail}`,
  'lone CR behind a chunk size': `${head}${chunked}\r\n0\rX\r\n\r\n${tail}`,
  'lone LF at the end of a body': `${head}${chunked}\r\n0\r\n\n${tail}`,
  'lone CR at the end of a body': `${head}${chunked}\r\n0\r\n\r${tail}`,
  'lone LF in a chunk extension': `${head}${chunked}\r\n0;a\nb\r\n\r\n${tail}`,
  'chunk longer than it says': `${head}${chunked}\r\n1\r\n{}\r\n0\r\n\r\n${tail}`,
  'length as a trailer': `${head}${chunked}\r\n0\r\nContent-Length: 5\r\n\r\n${tail}`,
  'folded trailer': `${head}${chunked}\r\n0\r\nX: y\r\n z\r\n\r\n${tail}`,
  'no Host': `GET /health/live HTTP/1.1\r\n\r\n${tail}`,
  'two Hosts': `GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n${tail}`,
  'Host with a path': `GET /health/live HTTP/1.1\r\nHost: a/b\r\n\r\n${tail}`,
  'Host with a list': `GET /health/live HTTP/1.1\r\nHost: a,b\r\n\r\n${tail}`,
  'absolute target with a user': `GET http://u@a/health/live HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'target of another scheme': `GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'CONNECT': `CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'no method': ` /health/live HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'method that nobody knows': `BREW /health/live HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'spaces between the parts': `GET  /health/live HTTP/1.1\r\nHost: a\r\n\r\n${tail}`,
  'HTTP/1.2': `GET /health/live HTTP/1.2\r\nHost: a\r\n\r\n${tail}`,
  'HTTP/0.9': `GET /health/live\r\n\r\n${tail}`,
  'bytes of TLS': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n' + tail,
};
for (const [name, bytes] of Object.entries(smuggled))
  await test(`security: ${name} is one request, refused`, async () => {
    const answers = await raw.untilClosed(gateway, Buffer.from(bytes, 'latin1'));
    assert.deepEqual(answers.map((a) => a.status), [400]);
    assert.equal(answers[0].headers.connection, 'close');
    const { error } = JSON.parse(answers[0].body);
    assert.equal(error.code, 'INVALID_REQUEST');
    assert.ok(error.message.length > 10 && error.request_id);
  });
await test('security: nothing was smuggled', () => assert.ok(!reached('/smuggled')));

await test('security: heads, fields and bodies have their bounds', async () => {
  const long = 'x'.repeat(20000);
  const cases = [
    [`GET /${long} HTTP/1.1\r\nHost: a\r\n\r\n`, 431],
    [`GET / HTTP/1.1\r\nHost: a\r\nX: ${long}\r\n\r\n`, 431],
    [`GET / HTTP/1.1\r\nHost: a\r\n${long}`, 431],
    [`GET / HTTP/1.1\r\nHost: a\r\n${'X: y\r\n'.repeat(100)}\r\n`, 431],
    [`${head}${chunked}\r\n0\r\n${'X: y\r\n'.repeat(3000)}\r\n`, 431],
    [`${head}Content-Length: 1048577\r\n\r\n`, 413],
    [`${head}${chunked}\r\n100001\r\n${'x'.repeat(1048577)}`, 413],
    [`${head}${chunked}\r\n${`1;${'x'.repeat(9000)}\r\nx\r\n`.repeat(1000)}`, 413],
    [`${head}Expect: a-present\r\nContent-Length: 2\r\n\r\n{}`, 417],
  ];
  for (const [bytes, status] of cases) {
    const [answer, ...more] = await raw.untilClosed(gateway, bytes);
    assert.equal(answer?.status, status, bytes.slice(0, 60));
    assert.equal(more.length, 0);
    assert.ok(JSON.parse(answer.body).error.message);
  }
});

// ---- what is not refused ----

await test('http: pipelined requests are answered in order, however they are cut', async () => {
  const body = JSON.stringify({ prompt: 'a', max_tokens: 2 });
  const bytes = Array.from({ length: 30 }, (_, i) => i % 3
    ? `GET /health/live HTTP/1.1\r\nHost: a\r\nX-Request-Id: r${i}\r\n\r\n`
    : `${head}X-Request-Id: r${i}\r\nContent-Length: ${body.length}\r\n\r\n${body}`).join('');
  const link = await raw.connect(gateway);
  link.socket.setNoDelay();
  for (let at = 0; at < bytes.length; at += 700) {
    link.socket.write(bytes.slice(at, at + 700));
    await new Promise(setImmediate);
  }
  await raw.received(link, (got) => { try { return raw.parseAnswers(got).length >= 30; } catch { return false; } });
  link.socket.destroy();
  const answers = raw.parseAnswers(link.bytes);
  assert.deepEqual(answers.map((a) => a.headers['x-request-id']), Array.from({ length: 30 }, (_, i) => `r${i}`));
  assert.ok(answers.every((a) => a.status === 200 && !a.headers.connection));
});

await test('http: HTTP/1.0 closes, unless it asks for keep-alive; its streams end with the connection', async () => {
  const [closed] = await raw.untilClosed(gateway, 'GET /health/live HTTP/1.0\r\n\r\n');
  assert.equal(closed.headers.connection, 'close');
  const kept = await raw.answersTo(gateway, 'GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n'.repeat(3), 3);
  assert.deepEqual(kept.map((a) => a.headers.connection), ['keep-alive', 'keep-alive', 'keep-alive']);
  const body = JSON.stringify({ prompt: 'a', max_tokens: 5 });
  const [stream] = await raw.untilClosed(gateway, `POST /v1/inference/stream HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  assert.equal(stream.headers['transfer-encoding'], undefined);
  assert.match(stream.body.toString(), /event: complete\n.*\n\n$/s);
});

await test('http: a client that waits for 100 gets it, one that has sent the body does not', async () => {
  const body = JSON.stringify({ prompt: 'a', max_tokens: 1 });
  const link = await raw.connect(gateway);
  link.socket.write(`${head}Expect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n`);
  await raw.received(link, (got) => got.length > 0);
  assert.equal(link.bytes.toString(), 'HTTP/1.1 100 Continue\r\n\r\n');
  link.socket.write(body);
  await raw.received(link, (got) => { try { return raw.parseAnswers(got).length === 2; } catch { return false; } });
  link.socket.destroy();
  const at_once = await raw.answersTo(gateway, `${head}Expect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n${body}`, 1);
  assert.deepEqual(at_once.map((a) => a.status), [200]);
});

await test('http: HEAD says what GET does, without the body; OPTIONS says what there is', async () => {
  for (const path of ['/health/live', '/v1/models', '/nothing', '/v1/inference']) {
    const [plain] = await raw.answersTo(gateway, `GET ${path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: i\r\n\r\n`, 1);
    const [headed] = await raw.answersTo(gateway, `HEAD ${path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: i\r\n\r\n`, 1, [0]);
    assert.equal(headed.status, plain.status);
    assert.deepEqual(Object.keys(headed.headers), Object.keys(plain.headers));
    assert.ok(Math.abs(new Date(plain.headers.date) - Date.now()) < 60000);
    assert.equal(headed.body.length, 0);
  }
  const options = await raw.answersTo(gateway, 'OPTIONS /v1/inference HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n', 2);
  assert.deepEqual(options.map((a) => a.status), [204, 204]);
  assert.equal(options[0].headers.allow, 'POST, OPTIONS');
  assert.match(options[1].headers.allow, /GET.*POST.*OPTIONS/);
});

await test('http: offers to upgrade are ignored, absolute targets understood', async () => {
  const answers = await raw.answersTo(gateway,
    'GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n'
    + 'GET http://a:80/health/live HTTP/1.1\r\nHost: a:80\r\n\r\n', 2);
  assert.deepEqual(answers.map((a) => a.status), [200, 200]);
});

await test('http: gzip for those who ask, and never for a stream', async () => {
  const admin = { host: '127.0.0.1', port: Number(new URL(gateway.admin).port) };
  const ask = async (accept, method = 'GET') => (await raw.answersTo(admin, `${method} /metrics HTTP/1.1\r\nHost: a\r\n${accept}\r\n`, 1, method === 'HEAD' ? [0] : []))[0];
  const plain = await ask('');
  assert.equal(plain.headers['content-encoding'], undefined);
  assert.equal(plain.headers.vary, 'accept-encoding');
  const packed = await ask('Accept-Encoding: br;q=1.0, gzip;q=0.8, *;q=0.1\r\n');
  assert.equal(packed.headers['content-encoding'], 'gzip');
  assert.ok(packed.body.length < plain.body.length / 2);
  assert.match(zlib.gunzipSync(packed.body).toString(), /^# HELP/);
  assert.equal((await ask('Accept-Encoding: gzip;q=0\r\n')).headers['content-encoding'], undefined);
  assert.equal((await ask('Accept-Encoding: gzip\r\n', 'HEAD')).headers['content-encoding'], 'gzip');
  const body = { prompt: 'a', max_tokens: 200 };
  const stream = await fetch(`${gateway.url}/v1/inference/stream`, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json', 'accept-encoding': 'gzip' } });
  assert.equal(stream.headers.get('content-encoding'), null);
  assert.ok((await stream.text()).length > 2000);
});

// ---- paths ----

await test('security: no path leads to a file', async () => {
  const up = ['/../../../../etc/passwd', '/..%2f..%2f..%2fetc%2fpasswd', '/%2e%2e/%2e%2e/etc/passwd', '/.%2e/etc/passwd', '//etc/passwd', '/./etc/passwd',
    '/v1/models/../../etc/passwd', '/v1/models/..%2f..%2fetc%2fpasswd', '/v1/models/%2e%2e', '/v1/models/..', '/v1/models/%2fetc%2fpasswd', '/v1/models/..%5c..%5cetc',
    '/%252e%252e%252fetc%252fpasswd', '/..;/etc/passwd', '/%c0%ae%c0%ae/etc/passwd', '/playground.html/../../../etc/passwd', '/v1/models/a%00.gguf', '/v1/models/%', '/v1/models/%zz'];
  for (const path of up) {
    const [answer] = await raw.answersTo(gateway, `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`, 1);
    assert.equal(answer.status, 404, path);
    assert.doesNotMatch(answer.body.toString(), /root:/);
  }
});

// ---- JSON ----

const json = {
  'arrays in arrays': ['['.repeat(100000), 400],
  'objects in objects': ['{"a":'.repeat(50000), 400],
  'depth in a field': [`{"prompt":"a","stop_sequences":${'['.repeat(1000)}${']'.repeat(1000)}}`, 400],
  'a million keys': [`{${Array.from({ length: 1e6 }, (_, i) => `"${i}":0`).join()}}`, 413],
  'a hundred thousand keys': [`{${Array.from({ length: 1e5 }, (_, i) => `"${i}":0`).join()}}`, 400],
  'values without names': [`{"prompt":[${'0,'.repeat(4e5)}0]}`, 400],
  'an integer of many digits': [`{"prompt":"a","seed":${'9'.repeat(1e5)}}`, 400],
  'a number beyond all bounds': ['{"prompt":"a","temperature":1e999}', 400],
  'a number with a long fraction': [`{"prompt":"a","temperature":0.${'3'.repeat(1e5)}9e999999999}`, 400],
  'a long string': [`{"prompt":"${'a'.repeat(9e5)}"}`, 400],
  'a long key': [`{"${'k'.repeat(9e5)}":1,"prompt":"a"}`, 400, 200],
  'a key twice': ['{"prompt":"a","prompt":"b"}', 400],
  'NUL in a string': ['{"prompt":"a\\u0000b"}', 400],
  'half a surrogate pair': ['{"prompt":"\\ud800"}', 400],
  'NaN': ['{"prompt":"a","temperature":NaN}', 400],
  'a comment': ['{"prompt":"a"/* */}', 400],
  'a second value': ['{"prompt":"a"}{"prompt":"b"}', 400],
  'nothing': ['', 400],
  'a lone quote': ['"', 400],
};
// The OpenAI API ignores fields that it does not know.
for (const [name, [body, status, openai]] of Object.entries(json))
  await test(`security: JSON with ${name} is ${status}, on both APIs`, async () => {
    for (const [path, expected] of [['/v1/inference', status], ['/v1/completions', openai ?? status]]) {
      const answer = await post(gateway.url + path, body);
      assert.equal(answer.status, expected, answer.text);
      assert.ok(answer.text.length < 8192 && (expected === 200 || answer.json.error.message));
    }
  });

await test('security: invalid UTF-8 is 400 wherever it stands', async () => {
  for (const bytes of [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0x80]])
    for (const [front, back] of [['{"prompt":"', '"}'], ['{"prompt":"a","', '":1}'], ['{"prompt":"a","stop_sequences":["', '"]}']]) {
      const body = Buffer.concat([Buffer.from(front), Buffer.from(bytes), Buffer.from(back)]);
      const { status, json: answer } = await get(`${gateway.url}/v1/inference`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
      assert.equal(status, 400);
      assert.equal(answer.error.code, 'INVALID_REQUEST');
    }
});

// ---- memory ----

await test('security: bodies that many clients send slowly fill no more than they may', async () => {
  const small = await startGateway(engine.target, ['--max-request-memory', '1M']);
  const links = await Promise.all(Array.from({ length: 200 }, async () => {
    const link = await raw.connect(small);
    link.socket.write(`${head}Content-Length: 20000\r\n\r\n${' '.repeat(16000)}`);
    return link;
  }));
  await until('there is no room', 20000, async () => links.some((link) => link.bytes.length > 0));
  const refused = await raw.untilClosed(small, 'GET /health/live HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n' + `${head}Content-Length: 20000\r\n\r\n${' '.repeat(16000)}`);
  assert.deepEqual([refused.at(-1).status, refused.at(-1).headers['retry-after'], JSON.parse(refused.at(-1).body).error.code], [503, '1', 'SERVICE_UNAVAILABLE']);
  assert.equal((await get(`${small.admin}/health/live`)).status, 200);
  for (const link of links) link.socket.destroy();
  await until('there is room again', 20000, async () => (await post(`${small.url}/v1/inference`, { prompt: 'a', max_tokens: 1 })).status === 200);
  assert.deepEqual(await stop(small.child), { code: 0, signal: null });
});

// ---- HTTP/2 floods ----

// Sends piece by piece until the server has had enough; what came back is thrown away or left unread.
async function flood(pieces, { read = true } = {}) {
  const link = await raw.connect(gateway);
  if (!read) link.socket.pause();
  link.socket.write(Buffer.concat([preface, settings]));
  for (const piece of pieces) {
    if (link.ended || link.socket.destroyed || link.socket.errored) break;
    if (link.socket.write(piece)) continue;
    const goes_on = await Promise.race([new Promise((resolve) => link.socket.once('drain', () => resolve(true))), link.closed, sleep(read ? 10000 : 500)]);
    if (!goes_on) break; // it has ended or reads no more
  }
  return { link };
}
const repeat = function* (n, make) { for (let i = 0; i < n; i++) yield make(i); };
const INFERENCE = { ':method': 'POST' };

await test('security: rapid reset ends the connection, and memory stays', async () => {
  await alive();
  const before = raw.rssMiB(gateway.child), resets = frame(type.RST_STREAM, 0, 1, '\0\0\0\x08');
  for (let round = 0; round < 5; round++) {
    const { link } = await flood(repeat(200, (i) => Buffer.concat([...repeat(50, (j) => {
      const id = 2 * (50 * i + j) + 1, reset = Buffer.from(resets);
      reset.writeUInt32BE(id, 5);
      return Buffer.concat([request(id, '/health/ready'), reset]);
    })])));
    await raw.received(link, () => false);
    link.socket.destroy();
  }
  if (!SANITIZED) assert.ok(raw.rssMiB(gateway.child) - before < GROWTH_MIB);
  await alive();
});

await test('security: resets that the server is made to send end the connection too', async () => {
  const { link } = await flood(repeat(200, (i) => Buffer.concat([...repeat(50, (j) => {
    const id = 2 * (50 * i + j) + 1;
    return Buffer.concat([request(id, '/v1/inference', INFERENCE, 0), frame(type.WINDOW_UPDATE, 0, id, '\x7f\xff\xff\xff')]);
  })])));
  await raw.received(link, () => false);
  link.socket.destroy();
  await alive();
});

const floods = {
  'endless CONTINUATION': [true, [frame(type.HEADERS, END_STREAM, 1), ...repeat(10000, () => frame(type.CONTINUATION, 0, 1, literal('x', 'y')))]],
  'SETTINGS without end': [false, repeat(2000, () => Buffer.concat(Array(1000).fill(settings)))],
  'PING without end': [false, repeat(2000, () => Buffer.concat(Array(1000).fill(frame(type.PING, 0, 0, '12345678'))))],
  'window updates of zero': [true, repeat(10, () => frame(type.WINDOW_UPDATE, 0, 0, '\0\0\0\0'))],
  'a window beyond its bound': [true, repeat(10, () => frame(type.WINDOW_UPDATE, 0, 0, '\x7f\xff\xff\xff'))],
  'streams that are refused, unread': [false, repeat(2000, (i) => Buffer.concat([...repeat(100, (j) => request(2 * (100 * i + j) + 1, '/v1/inference', INFERENCE, 0))]))],
};
for (const [name, [closes, pieces]] of Object.entries(floods))
  await test(`security: ${name}: ${closes ? 'the connection ends' : 'it is closed or read no more'}, and memory stays`, async () => {
    const before = raw.rssMiB(gateway.child);
    const { link } = await flood(pieces, { read: closes });
    if (closes) await raw.received(link, () => false);
    await alive();
    if (!SANITIZED) assert.ok(raw.rssMiB(gateway.child) - before < GROWTH_MIB, `${before} to ${raw.rssMiB(gateway.child)} MiB`);
    link.socket.destroy();
  });

await test('security: a few bytes that stand for megabytes of fields are not decoded to their end', async () => {
  const bomb = Buffer.concat([raw.get('/health/live'), literal('x', 'v'.repeat(3900), 0x40), Buffer.alloc(12000, 0x80 | 62)]); // 12,000 references to 3,900 bytes
  const before = raw.rssMiB(gateway.child);
  const link = await raw.connect(gateway);
  link.socket.write(Buffer.concat([preface, settings, ...repeat(50, (i) => frame(type.HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, bomb)), request(201, '/health/live')]));
  await raw.received(link, (got) => raw.frames(got).some((f) => f.stream === 201 && f.flags & END_STREAM));
  const resets = raw.frames(link.bytes).filter((f) => f.type === type.RST_STREAM);
  assert.equal(resets.length, 50);
  if (!SANITIZED) assert.ok(raw.rssMiB(gateway.child) - before < GROWTH_MIB);
  link.socket.destroy();
});

// ---- the end ----

await test('security: heads that never end are closed, however they drip', async () => {
  await until('all slow connections are over', 30000, async () => slow.every((link) => link.ended || link.socket.destroyed));
  for (const link of slow) {
    assert.ok(raw.parseAnswers(link.bytes).every((a) => a.status === 408));
    link.socket.destroy();
  }
});

await test('security: the gateway serves as before, holds nothing, and ends with 0', async () => {
  const { status, json: answer } = await post(`${gateway.url}/v1/inference`, { prompt: 'a', max_tokens: 3 });
  assert.equal(status, 200);
  assert.equal(answer.tokens_generated, 3);
  const { text } = await get(`${gateway.admin}/metrics`);
  assert.match(text, /^bitnet_requests_active 0$/m);
  assert.deepEqual(await stop(gateway.child), { code: 0, signal: null });
  assert.doesNotMatch(gateway.child.log(), /Sanitizer/);
});
await stop(engine.child);
await done();
