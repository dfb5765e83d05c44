// Engines and gateways on nodes of the lab, looked after as an orchestrator does it: what ends is started again, and only who is ready is in the
// name of its kind. An end that nobody caused is remembered in `crashes`.
import { openSync, readSync, writeSync, closeSync, readFileSync, readdirSync, constants } from 'node:fs';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { get, model, sleep, start, stop, until } from './harness.mjs';
import { addNode, file, names } from './lab.mjs';

const RESTART_MS = 300, READY_MS = 60000;

export class Member {
  ends = [];         // {why, code, signal}
  lives = 0;
  expected = undefined; // why its next end is no crash
  constructor(fleet, kind, node, name, args, env = {}) { Object.assign(this, { fleet, kind, node, name, args, env }); }
  get admin() { return `http://${this.node.ip}:${this.kind === 'engines' ? 9090 : 9091}`; }

  async up() {
    const program = this.kind === 'engines' ? 'bitnet-engine' : 'bitnet-gateway';
    this.lives++;
    this.child = start(program, this.args, this.env, [...this.node.through, ...(this.log ? ['sh', '-c', 'exec "$@" 2>"$LOG"', 'sh'] : [])]);
    this.child.ended.then((how) => this.#down(this.child, how));
    await until(`${this.name} ready`, READY_MS, async () => (await get(`${this.admin}/health/ready`, { signal: AbortSignal.timeout(2000) })).status === 200, this.child);
    this.fleet.publish(this, true);
  }
  async #down(child, { code, signal }) {
    this.fleet.publish(this, false);
    const why = this.expected;
    this.expected = undefined;
    this.ends.push({ why, code, signal });
    if (!why) this.fleet.crashes.push({ name: this.name, code, signal, log: child.log().slice(-3000) });
    if (this.fleet.closing || why === 'restart') return;
    await sleep(RESTART_MS);
    await this.up().catch((error) => this.fleet.crashes.push({ name: this.name, log: String(error).slice(0, 2000) }));
  }
  kill(signal = 'SIGKILL', why = 'kill') { this.expected = why; this.child.kill(signal); return this.child.ended; }
  async restart() {
    this.fleet.publish(this, false);
    this.expected = 'restart';
    const how = await stop(this.child);
    if (how.code !== 0) this.fleet.crashes.push({ name: this.name, ...how, log: this.child.log().slice(-3000) });
    await this.up();
  }
  // Its resident memory in MiB, what of that is its own, and how many files it has open.
  look() {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8'), mib = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)[1]) / 1024;
    return { pid: this.child.pid, rss: mib('VmRSS'), own: mib('RssAnon'), fds: readdirSync(`/proc/${this.child.pid}/fd`).length };
  }
}

export class Fleet {
  members = [];
  crashes = [];
  closing = false;
  async add(kind, name, args, env) {
    const node = await addNode();
    const member = new Member(this, kind, node, name, args(node), env);
    this.members.push(member);
    return member;
  }
  engine(name, extra, env) {
    return this.add('engines', name, (node) => ['--model', model, '--listen', `${node.ip}:50051`, '--admin-listen', `${node.ip}:9090`, '--allow-insecure-public', '--log-level', 'warn', ...extra], env);
  }
  gateway(name, extra, env) {
    return this.add('gateways', name, (node) => ['--engine', 'dns:///engines:50051', '--listen', `${node.ip}:8080`, '--admin-listen', `${node.ip}:9091`, '--rate-limits', 'off', '--log-level', 'warn', ...extra], env);
  }
  publish(member, ready) {
    const others = (names.get(member.kind) ?? []).filter((ip) => ip !== member.node.ip);
    names.set(member.kind, ready ? [...others, member.node.ip] : others);
  }
  async close() {
    this.closing = true;
    await Promise.all(this.members.map((m) => { m.expected = 'end'; m.child.kill('SIGCONT'); return stop(m.child); }));
  }
}

// The log of a program as a pipe whose reader may stand still.
export class Pipe {
  constructor(name) {
    this.path = file(`${name}.fifo`);
    execFileSync('mkfifo', [this.path]);
    this.fd = openSync(this.path, constants.O_RDWR | constants.O_NONBLOCK);
    this.timer = setInterval(() => this.#drain(), 20).unref();
    this.text = '';
  }
  #drain() {
    const part = Buffer.alloc(65536);
    for (;;) {
      try { this.text = (this.text + part.toString('latin1', 0, readSync(this.fd, part))).slice(-4000); } catch { return; }
    }
  }
  // The pipe is full at once, and stays so.
  stall() {
    clearInterval(this.timer);
    for (const n_bytes of [4096, 1]) for (;;) try { writeSync(this.fd, Buffer.alloc(n_bytes, 10)); } catch { break; }
  }
  go() { this.timer = setInterval(() => this.#drain(), 20).unref(); }
  close() { clearInterval(this.timer); closeSync(this.fd); }
}
