// Models made of the bundled one by changing its bytes: good ones with other tokens, slow ones, wrong ones and broken ones.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { model } from './harness.mjs';

const ALIGN = 32, I2_S = 36, F32 = 0;
const align = (n) => Math.ceil(n / ALIGN) * ALIGN;
const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32LE(n); return b; };
const u64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b; };
const text = (s) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);

// A GGUF file in parts: its keys as bytes, by name, and its tensors with copies of their data.
function read(bytes) {
  let at = 24;
  const number = (n) => Number(n === 4 ? bytes.readUInt32LE((at += 4) - 4) : bytes.readBigUInt64LE((at += 8) - 8));
  const string = () => { const n = number(8); return bytes.toString('utf8', at, (at += n)); };
  const skip = (type) => {
    if (type === 8) string();
    else if (type === 9) for (let element = number(4), n = number(8); n > 0; n--) skip(element);
    else at += [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][type];
  };
  const keys = new Map(), tensors = [];
  for (let n = Number(bytes.readBigUInt64LE(16)); n > 0; n--) {
    const name = string(), from = at;
    skip(number(4));
    keys.set(name, bytes.subarray(from, at));
  }
  for (let n = Number(bytes.readBigUInt64LE(8)); n > 0; n--) {
    const name = string(), dims = Array.from({ length: number(4) }, () => number(8));
    tensors.push({ name, dims, type: number(4), offset: number(8) });
  }
  const data = align(at), ends = [...tensors.map((t) => t.offset), bytes.length - data].sort((a, b) => a - b);
  for (const t of tensors) t.data = Buffer.from(bytes.subarray(data + t.offset, data + ends.find((end) => end > t.offset)));
  return { keys, tensors };
}

function write({ keys, tensors }) {
  const head = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(keys.size)], body = [];
  for (const [name, value] of keys) head.push(text(name), value);
  let offset = 0;
  for (const t of tensors) {
    head.push(text(t.name), u32(t.dims.length), ...t.dims.map(u64), u32(t.type), u64(offset));
    body.push(t.data, Buffer.alloc(align(t.data.length) - t.data.length));
    offset += align(t.data.length);
  }
  const first = Buffer.concat(head);
  return Buffer.concat([first, Buffer.alloc(align(first.length) - first.length), ...body]);
}

const named = (parts, name) => parts.tensors.find((t) => t.name === name);
const nCodes = (t) => (t.dims[0] * t.dims[1]) / 4; // bytes of an I2_S tensor's codes; its scale is behind them

const changes = {
  // Another model as good: what it predicts is a little surer (or less sure) of itself, so that the same seed draws other tokens.
  tempered(parts, by) {
    const t = named(parts, 'output_norm.weight');
    for (let i = 0; i < t.data.length; i += 4) t.data.writeFloatLE(t.data.readFloatLE(i) * by, i);
  },
  // The same tokens, later: layers are added that add nothing, as their outputs are zero.
  slow(parts, nMore) {
    const key = 'bitnet-b1.58.block_count', value = Buffer.from(parts.keys.get(key)), layer = parts.tensors.filter((t) => t.name.startsWith('blk.0.'));
    const n = value.readUInt32LE(4);
    value.writeUInt32LE(n + nMore, 4);
    parts.keys.set(key, value);
    for (let i = 0; i < nMore; i++)
      for (const t of layer) {
        const data = Buffer.from(t.data);
        if (/attn_output|ffn_down/.test(t.name)) data.fill(0x55, 0, nCodes(t)); // four codes of zero a byte
        parts.tensors.push({ ...t, name: t.name.replace('blk.0.', `blk.${n + i}.`), data });
      }
  },
  // Fluent at best: the codes of every matrix of two layers are in the wrong places.
  wrong(parts) {
    for (const t of parts.tensors) if (t.type === I2_S && /^blk\.[23]\./.test(t.name)) t.data.subarray(0, nCodes(t)).reverse();
  },
  scaleIsNan(parts) {
    const t = named(parts, 'blk.1.attn_v.weight');
    t.data.writeFloatLE(NaN, nCodes(t));
  },
  normIsNan(parts) {
    const t = parts.tensors.find((x) => x.type === F32 && x.name.startsWith('blk.4.'));
    t.data.writeFloatLE(NaN, 0);
  },
  tensorIsMissing(parts) {
    parts.tensors = parts.tensors.filter((t) => t.name !== 'blk.5.ffn_up.weight');
  },
};

// Writes variants into a folder; returns their paths by name. `wanted`: name -> [change, argument], 'copy', 'truncated' or 'text'.
export function makeVariants(folder, wanted) {
  const bytes = readFileSync(model), paths = {};
  mkdirSync(folder, { recursive: true });
  for (const [name, how] of Object.entries(wanted)) {
    const [change, argument] = [how].flat(), to = (paths[name] = path.join(folder, `${name}.gguf`));
    if (change === 'copy') writeFileSync(to, bytes);
    else if (change === 'truncated') writeFileSync(to, bytes.subarray(0, Math.floor(bytes.length * 0.7)));
    else if (change === 'text') writeFileSync(to, 'this is no model\n');
    else {
      const parts = read(bytes);
      changes[change](parts, argument);
      writeFileSync(to, write(parts));
    }
  }
  return paths;
}
