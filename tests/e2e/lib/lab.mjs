// A network of its own for a test: the test runs in a network namespace with a bridge and a DNS server, and gives programs nodes, namespaces on
// that bridge with an address of their own, whose cables can be pulled. Nothing of it can be seen from outside, and all of it goes with the test.
//
//   await lab('scale');                      first of all: from here on the test runs inside, or is skipped where that is not allowed
//   const node = await addNode();            node.ip, node.through for start()
//   names.set('engines', [node.ip]);         what the DNS server says, at once
//   pull(node); plug(node);
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import dgram from 'node:dgram';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const HUB = '10.77.0.1';
const INSIDE = 'BITNET_LAB';
const ip = (...args) => execFileSync('ip', args, { stdio: 'pipe' });

// By root, or else in a user namespace, where there is such a thing.
const ways = [['--net', '--mount'], ['--user', '--map-root-user', '--net', '--mount']];

export async function lab(name) {
  if (!process.env[INSIDE]) {
    const errors = [];
    const way = ways.find((flags) => {
      const tried = spawnSync('unshare', [...flags, 'sh', '-c', 'ip link set lo up && ip link add name hub type bridge && mount --bind /etc/hostname /etc/hostname']);
      errors.push(String(tried.error?.message ?? tried.stderr).trim());
      return tried.status === 0;
    });
    if (!way) {
      console.log(`skip ${name} namespaces of the network are not allowed here: ${errors[0]}`);
      process.exit(0);
    }
    // The pipe to its stdin ends when this process does, however it does.
    const inner = spawn('unshare', [...way, process.execPath, ...process.argv.slice(1)], { stdio: ['pipe', 'inherit', 'inherit'], env: { ...process.env, [INSIDE]: name } });
    const [code] = await new Promise((resolve) => inner.once('exit', (...how) => resolve(how)));
    process.exit(code ?? 1);
  }
  process.stdin.on('end', () => process.exit(1)).on('error', () => process.exit(1)).resume();
  process.stdin.unref();
  setUp();
  await serveNames();
}

const folder = process.env[INSIDE] ? mkdtempSync(path.join(os.tmpdir(), 'bitnet-lab-')) : undefined;
export const file = (name) => path.join(folder, name);
process.on('exit', () => {
  for (const mounted of disks) spawnSync('umount', ['-l', mounted]);
  if (folder) rmSync(folder, { recursive: true, force: true });
});

// A disk of its own, which can be full.
const disks = [];
export function addDisk(name, size) {
  mkdirSync(file(name));
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', file(name)]);
  disks.push(file(name));
  return file(name);
}

function setUp() {
  writeFileSync(file('resolv.conf'), `nameserver ${HUB}\noptions timeout:1 attempts:2\n`);
  execFileSync('mount', ['--bind', file('resolv.conf'), '/etc/resolv.conf']);
  ip('link', 'set', 'lo', 'up');
  ip('link', 'add', 'name', 'hub', 'type', 'bridge');
  ip('addr', 'add', `${HUB}/24`, 'dev', 'hub');
  ip('link', 'set', 'hub', 'up');
}

// ---- names ----

// Name -> addresses; each answer has them in another order, as round robin DNS does.
export const names = new Map();
// Names that are not answered, as if the server were lost.
export const mute = new Set();

// RFC 1035: answers A questions, and says of any other type that there is none.
function answer(query) {
  let at = 12;
  const labels = [];
  while (query[at]) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
    at += query[at] + 1;
  }
  const question = query.subarray(12, at + 5), name = labels.join('.').toLowerCase(), addresses = names.get(name);
  if (mute.has(name)) return undefined;
  const found = addresses && query.readUInt16BE(at + 1) === 1 ? addresses : [];
  if (found.length) addresses.push(addresses.shift());
  const head = Buffer.from(query.subarray(0, 12));
  head.writeUInt16BE(0x8580 | (addresses ? 0 : 3), 2); // an answer with authority; 3: no such name
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(found.length, 6);
  head.writeUInt32BE(0, 8);
  const records = found.map((a) => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...a.split('.').map(Number)]));
  return Buffer.concat([head, question, ...records]);
}

async function serveNames() {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (query, from) => {
    const told = answer(query);
    if (told) socket.send(told, from.port, from.address);
  });
  await new Promise((resolve, reject) => socket.once('error', reject).bind(53, '0.0.0.0', resolve));
  socket.unref();
}

// ---- nodes ----

let n_nodes = 0;
const withUs = ['setpriv', '--pdeathsig', 'KILL']; // whatever ends the test ends what it started

// A namespace lives as long as a process in it.
export async function addNode() {
  const i = n_nodes++, holder = spawn('unshare', ['--net', ...withUs, 'sh', '-c', 'ip link set lo up && echo up && exec sleep infinity'], { stdio: ['ignore', 'pipe', 'ignore'] });
  holder.unref();
  await new Promise((resolve, reject) => { holder.stdout.once('data', resolve); holder.once('exit', () => reject(new Error('no namespace for a node'))); });
  holder.removeAllListeners('exit');
  holder.stdout.unref();
  const node = { ip: `10.77.0.${10 + i}`, cable: `cable${i}`, through: ['nsenter', `--net=/proc/${holder.pid}/ns/net`, '--', ...withUs] };
  const inside = (...args) => execFileSync(node.through[0], [...node.through.slice(1), 'ip', ...args], { stdio: 'pipe' });
  ip('link', 'add', 'name', node.cable, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(holder.pid));
  ip('link', 'set', node.cable, 'master', 'hub', 'up');
  inside('addr', 'add', `${node.ip}/24`, 'dev', 'eth0');
  inside('link', 'set', 'eth0', 'up');
  return node;
}

// Packets of a pulled cable are lost without a word, in both directions.
export const pull = (node) => ip('link', 'set', node.cable, 'down');
export const plug = (node) => ip('link', 'set', node.cable, 'up');
