// Checkpoints of Hugging Face's form for the tests of `bitnet convert`: a reader of GGUF files and a writer of safetensors.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

// Keys (name -> value, arrays included) and tensors (name -> { dims, type, data }) of a GGUF file.
export function readGguf(bytes) {
  let at = 4;
  const u32 = () => bytes.readUInt32LE((at += 4) - 4);
  const u64 = () => Number(bytes.readBigUInt64LE((at += 8) - 8));
  const string = () => {
    const n = u64();
    at += n;
    return bytes.toString('utf8', at - n, at);
  };
  const value = (type) => {
    switch (type) {
      case 4: return u32();
      case 5: return bytes.readInt32LE((at += 4) - 4);
      case 6: return bytes.readFloatLE((at += 4) - 4);
      case 7: return bytes[at++] === 1;
      case 8: return string();
      case 9: {
        const element = u32(), n = u64();
        return Array.from({ length: n }, () => value(element));
      }
      default: throw new Error(`key type ${type}`);
    }
  };
  u32();
  const nTensors = u64(), nKeys = u64(), keys = {}, infos = [], tensors = {};
  for (let i = 0; i < nKeys; i++) {
    const name = string();
    keys[name] = value(u32());
  }
  for (let i = 0; i < nTensors; i++) {
    const name = string(), dims = Array.from({ length: u32() }, u64);
    infos.push({ name, dims, type: u32(), offset: u64() });
  }
  const start = Math.ceil(at / 32) * 32;
  for (const { name, dims, type, offset } of infos) {
    const n = dims.reduce((a, b) => a * b, 1), size = { 0: 4 * n, 1: 2 * n, 36: n / 4 + 32 }[type];
    tensors[name] = { dims, type, data: bytes.subarray(start + offset, start + offset + size) };
  }
  return { keys, tensors };
}

// Codes 0, 1, 2 of an I2_S tensor, row-major, and its scale.
export function codesOf({ dims, data }) {
  const n = dims[0] * dims[1], codes = new Uint8Array(n);
  for (let e = 0; e < n; e++) codes[e] = (data[Math.floor(e / 128) * 32 + (e % 32)] >> (6 - 2 * Math.floor((e % 128) / 32))) & 3;
  return { codes, scale: data.readFloatLE(n / 4) };
}

// transformers' packing of four quarters of the rows in a byte.
export function packRows(codes, rows, cols) {
  const quarter = rows / 4, out = Buffer.alloc(quarter * cols);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < cols; c++) out[(r % quarter) * cols + c] |= codes[r * cols + c] << (2 * Math.floor(r / quarter));
  return out;
}

export const f32 = (...values) => Buffer.from(Float32Array.from(values).buffer);
// The high half of each f32, which must lose nothing.
export function bf16(values) {
  const all = Buffer.from(Float32Array.from(values).buffer), out = Buffer.alloc(values.length * 2);
  for (let i = 0; i < values.length; i++) {
    if (all.readUInt16LE(4 * i)) throw new Error(`${values[i]} is no bf16 number`);
    out.writeUInt16LE(all.readUInt16LE(4 * i + 2), 2 * i);
  }
  return out;
}

// Tensors: [name, dtype, shape, bytes].
export function safetensors(tensors) {
  const header = { __metadata__: { format: 'pt' } };
  let at = 0;
  for (const [name, dtype, shape, data] of tensors) header[name] = { dtype, shape, data_offsets: [at, (at += data.length)] };
  const json = Buffer.from(JSON.stringify(header)), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...tensors.map((t) => t[3])]);
}

// Writes a folder; files: name -> bytes, text, or an object that becomes JSON.
export function writeFolder(folder, files) {
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(files))
    writeFileSync(path.join(folder, name), typeof content === 'string' || Buffer.isBuffer(content) ? content : JSON.stringify(content));
  return folder;
}
