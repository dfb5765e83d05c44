// Bytes over sockets, for what no HTTP client would send: HTTP/1.1 answers read strictly, HTTP/2 frames by hand.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';

// A connection that gathers what comes. `closed` resolves when the other side has ended it, with or without a reset.
export async function connect({ host, port }) {
  const socket = net.connect({ host, port, allowHalfOpen: true });
  const link = { socket, chunks: [], ended: false, get bytes() { return Buffer.concat(link.chunks); } };
  link.closed = new Promise((resolve) => {
    socket.on('end', () => { link.ended = true; resolve(); }).on('close', resolve).on('error', resolve);
  });
  socket.on('data', (chunk) => { link.chunks.push(chunk); link.onData?.(); });
  await once(socket, 'connect');
  return link;
}

// Resolves when `ready(bytes)` is true of what came, or the other side has ended; fails after `ms`.
export function received(link, ready, ms = 20000) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`nothing more within ${ms} ms behind ${link.bytes.toString('latin1').slice(-300)}`)), ms);
    const done = () => { clearTimeout(timer); link.onData = undefined; resolve(link.bytes); };
    link.onData = () => { if (ready(link.bytes)) done(); };
    link.closed.then(done);
    link.onData();
  });
}

// Sends and waits until the server has closed; the answers.
export async function untilClosed(server, bytes, heads) {
  const link = await connect(server);
  link.socket.write(bytes);
  await received(link, () => false);
  link.socket.destroy();
  return parseAnswers(link.bytes, heads);
}

// Sends and waits for `n` whole answers; the connection stays open.
export async function answersTo(server, bytes, n, heads) {
  const link = await connect(server);
  link.socket.write(bytes);
  await received(link, (got) => { try { return parseAnswers(got, heads).length >= n; } catch (error) { if (error.cut) return false; throw error; } });
  link.socket.destroy();
  return parseAnswers(link.bytes, heads);
}

function cut(what) {
  throw Object.assign(new Error(`cut in ${what}`), { cut: true });
}

function parseChunks(bytes, at) {
  for (const parts = []; ;) {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0) cut('a chunk');
    const text = bytes.toString('latin1', at, end);
    assert.match(text, /^[0-9a-f]+$/);
    const size = parseInt(text, 16);
    if (bytes.length < end + 4 + size) cut('a chunk');
    assert.equal(bytes.toString('latin1', end + 2 + size, end + 4 + size), '\r\n');
    if (size === 0) return { body: Buffer.concat(parts), next: end + 4 };
    parts.push(bytes.subarray(end + 2, end + 2 + size));
    at = end + 4 + size;
  }
}

// All answers in the bytes, interim ones too. `heads` has the indices of answers to HEAD, which have no body.
export function parseAnswers(bytes, heads = []) {
  const answers = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf('\r\n\r\n', at);
    if (end < 0) cut('a head');
    const [line, ...fields] = bytes.toString('latin1', at, end).split('\r\n');
    const match = /^HTTP\/1\.1 ([1-5]\d\d) ([A-Z][\w -]*)$/.exec(line);
    assert.ok(match, `status line ${JSON.stringify(line)}`);
    const headers = {};
    for (const field of fields) {
      const [, name, value] = /^([a-z][a-z0-9-]*): ([\x20-\x7e]*)$/.exec(field) ?? assert.fail(`field ${JSON.stringify(field)}`);
      headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
    }
    const status = Number(match[1]), answer = { status, headers, body: Buffer.alloc(0) };
    at = end + 4;
    if (status >= 200 && status !== 204 && status !== 304 && !heads.includes(answers.length)) {
      if (headers['transfer-encoding'] === 'chunked') {
        ({ body: answer.body, next: at } = parseChunks(bytes, at));
      } else if ('content-length' in headers) {
        assert.match(headers['content-length'], /^\d+$/);
        if (bytes.length < at + Number(headers['content-length'])) cut('a body');
        answer.body = bytes.subarray(at, at += Number(headers['content-length']));
      } else {
        assert.equal(headers.connection, 'close', 'a body that ends with the connection');
        answer.body = bytes.subarray(at);
        at = bytes.length;
      }
    }
    answers.push(answer);
  }
  return answers;
}

// ---- HTTP/2 ----

export const type = { DATA: 0, HEADERS: 1, PRIORITY: 2, RST_STREAM: 3, SETTINGS: 4, PING: 6, GOAWAY: 7, WINDOW_UPDATE: 8, CONTINUATION: 9 };
export const END_STREAM = 1, END_HEADERS = 4;
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export function frame(kind, flags, stream, payload = '') {
  const data = Buffer.from(payload, 'latin1'), head = Buffer.alloc(9);
  head.writeUIntBE(data.length, 0, 3);
  head[3] = kind;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, data]);
}

// A literal without indexing (RFC 7541 section 6.2.2); lengths over 126 have the longer form.
const length = (n) => {
  if (n < 127) return Buffer.from([n]);
  const bytes = [127];
  for (n -= 127; n >= 128; n >>= 7) bytes.push((n & 127) | 128);
  return Buffer.from([...bytes, n]);
};
export const literal = (name, value, first = 0) =>
  Buffer.concat([Buffer.from([first]), length(name.length), Buffer.from(name, 'latin1'), length(value.length), Buffer.from(value, 'latin1')]);
export const get = (path, extra = {}) => Buffer.concat(Object.entries({ ':method': 'GET', ':scheme': 'http', ':authority': 'a', ':path': path, ...extra })
  .map(([name, value]) => literal(name, value)));
export const request = (stream, path, extra, flags = END_STREAM) => frame(type.HEADERS, flags | END_HEADERS, stream, get(path, extra));

export function frames(bytes) {
  const list = [];
  for (let at = 0; at + 9 <= bytes.length;) {
    const n = bytes.readUIntBE(at, 3);
    if (at + 9 + n > bytes.length) break;
    list.push({ type: bytes[at + 3], flags: bytes[at + 4], stream: bytes.readUInt32BE(at + 5), payload: bytes.subarray(at + 9, at + 9 + n) });
    at += 9 + n;
  }
  return list;
}

// ---- the process ----

export const rssMiB = (child) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;
