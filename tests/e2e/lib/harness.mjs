// What the end-to-end tests share: a running engine and gateway on free loopback ports, and `test`, which prints one line a
// case for tests/run.sh. A file of tests ends with `await done()`.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync, readFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
export const build = path.resolve(root, process.env.BITNET_BUILD ?? 'build');
export const model = path.join(root, 'models/tales.gguf');
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const children = new Set();
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));

let failed = 0;
export async function test(name, run) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${name}`);
    console.log((String(error.stack ?? error) + (error.cause ? `\ncaused by ${error.cause.stack ?? error.cause}` : '')).replace(/^/gm, '  # '));
  }
}

// A port below those that the system hands out for connections, so that none of ours takes it before the program listens.
export async function freePort() {
  for (;;) {
    const port = 10000 + Math.floor(Math.random() * 20000);
    const server = net.createServer();
    const free = await new Promise((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)));
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

// Starts a program, by way of the command `through` if there is one; its log goes to a file that is shown when it does not come up.
export function start(program, args, env = {}, through = []) {
  const log = path.join(os.tmpdir(), `bitnet-e2e-${process.pid}-${path.basename(program)}-${children.size}.log`);
  const fd = openSync(log, 'w');
  const [command, ...rest] = [...through, path.join(build, program), ...args];
  const child = spawn(command, rest, { stdio: ['ignore', fd, fd], env: { ...process.env, ...env } });
  child.log = () => readFileSync(log, 'utf8');
  child.ended = once(child, 'exit').then(([code, signal]) => {
    children.delete(child);
    return { code, signal };
  });
  children.add(child);
  return child;
}

export async function stop(child, signal = 'SIGTERM') {
  if (child.exitCode === null && child.signalCode === null) child.kill(signal);
  return child.ended;
}

async function until(what, limitMs, probe, child) {
  for (const end = Date.now() + limitMs; Date.now() < end; await sleep(50)) {
    if (child && child.exitCode !== null) break;
    if (await probe().catch(() => false)) return;
  }
  throw new Error(`${what} within ${limitMs} ms\n${child?.log() ?? ''}`);
}
export { until };

export const get = async (url, options) => {
  const response = await fetch(url, options);
  const text = await response.text();
  let json;
  try { json = JSON.parse(text); } catch { /* not all answers are JSON */ }
  return { status: response.status, headers: response.headers, text, json };
};
export const post = (url, body, options = {}) =>
  get(url, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body),
             headers: { 'content-type': 'application/json', ...options.headers }, signal: options.signal });

const START_MS = process.env.SAN ? 120000 : 30000; // a load with a sanitizer, beside other work

export async function startEngine(extra = [], program = 'bitnet-engine') {
  const grpc = await freePort(), admin = await freePort();
  const child = start(program, ['--model', model, '--listen', `127.0.0.1:${grpc}`,
                                        '--admin-listen', `127.0.0.1:${admin}`, ...extra]);
  await until('engine ready', START_MS, async () => (await get(`http://127.0.0.1:${admin}/health/ready`)).status === 200, child);
  return { child, target: `127.0.0.1:${grpc}`, admin: `http://127.0.0.1:${admin}` };
}

export async function startGateway(target, extra = []) {
  const port = await freePort(), admin = await freePort();
  const child = start('bitnet-gateway', ['--engine', target, '--listen', `127.0.0.1:${port}`,
                                         '--admin-listen', `127.0.0.1:${admin}`, '--rate-limits', 'off', ...extra]);
  await until('gateway live', START_MS, async () => (await get(`http://127.0.0.1:${port}/health/live`)).status === 200, child);
  return { child, url: `http://127.0.0.1:${port}`, host: '127.0.0.1', port, admin: `http://127.0.0.1:${admin}` };
}

export async function startPair(engineArgs = [], gatewayArgs = []) {
  const engine = await startEngine(engineArgs);
  const gateway = await startGateway(engine.target, gatewayArgs);
  await until('pair ready', 30000, async () => (await get(`${gateway.url}/health/ready`)).status === 200, gateway.child);
  return { engine, gateway };
}

// One sample of a metrics page: the sum of the series of `name` whose labels contain all of `labels`.
export async function metric(adminUrl, name, labels = {}) {
  const { text } = await get(`${adminUrl}/metrics`);
  let sum = 0, found = false;
  for (const line of text.split('\n')) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match || match[1] !== name) continue;
    if (!Object.entries(labels).every(([key, value]) => (match[2] ?? '').includes(`${key}="${value}"`))) continue;
    sum += Number(match[3]);
    found = true;
  }
  if (!found) throw new Error(`no series ${name}${JSON.stringify(labels)} at ${adminUrl}/metrics`);
  return sum;
}

// Parses a Server-Sent Events text into [{event, id, data}].
export function parseEvents(text) {
  return text.split('\n\n').filter((block) => block && !block.startsWith(':')).map((block) => {
    const event = {};
    for (const line of block.split('\n')) {
      const at = line.indexOf(':');
      event[line.slice(0, at)] = line.slice(at + 1).trimStart();
    }
    return event;
  });
}

export const haveModel = existsSync(model);

export async function done() {
  await Promise.all([...children].map((child) => stop(child)));
  process.exit(failed ? 1 : 0);
}
