// The command line: its results, its identities over variants, its errors.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { build, done, model, root, test } from './lib/harness.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-tools-'));
const file = (name) => path.join(dir, name);
const bitnet = (args, input) => {
  const result = spawnSync(path.join(build, 'bitnet'), args, { input, maxBuffer: 1 << 28 });
  return { code: result.status, out: result.stdout.toString(), err: result.stderr.toString() };
};
const ok = (args, input) => {
  const result = bitnet(args, input);
  assert.equal(result.code, 0, result.err);
  return result.out;
};
const fails = (args, pattern, input) => {
  const result = bitnet(args, input);
  assert.ok(result.code === 1 || result.code === 2, `exit ${result.code}`);
  assert.match(result.err, pattern);
};

await test('tools: run continues a text, the same for a seed', () => {
  const args = ['run', '-m', model, '-p', 'Once upon a time', '-n', '30', '--seed', '4'];
  const text = ok(args);
  assert.ok(text.startsWith('Once upon a time') && text.length > 60);
  assert.equal(ok(args), text);
});

await test('tools: chat answers', () => {
  assert.ok(ok(['chat', '-m', model, '-n', '20', '--seed', '1'], 'Tell me a tale.\n').trim().length > 10);
});

await test('tools: tokenize there and back', () => {
  const text = 'Hello, world! Ünïcödé 🙂\n\n  x';
  const ids = ok(['tokenize', '--model', model, '--ids'], text);
  assert.match(ids, /^\d+( \d+)*\n$/);
  assert.equal(ok(['tokenize', '--model', model, '--decode'], ids), text);
});

await test('tools: logits are the same bytes for every variant, thread count and chunk', () => {
  const ids = ok(['tokenize', '--model', model, '--ids', '--add-special'], readFileSync(path.join(root, 'models/heldout.txt')).subarray(0, 1500));
  writeFileSync(file('ids'), ids + '5 6 7\n');
  const logits = (...extra) => {
    ok(['logits', '--model', model, '--tokens', file('ids'), '-o', file('logits'), ...extra]);
    return readFileSync(file('logits'));
  };
  const reference = logits('--isa', 'portable', '-t', '1');
  assert.equal(reference.length % (4096 * 4), 0);
  for (const extra of [[], ['-t', '1'], ['-t', '2'], ['-t', '3'], ['--chunk', '1'], ['--chunk', '33'], ['--isa', 'portable', '-t', '2']])
    assert.ok(logits(...extra).equals(reference), extra.join(' '));
});

await test('tools: held-out bits per byte match the recipe\'s within 1 % and are under 1.6', () => {
  const { bits_per_byte: ours } = JSON.parse(ok(['perplexity', '--model', model, '--file', path.join(root, 'models/heldout.txt'), '--ctx', '256', '--json']));
  const recipe = JSON.parse(readFileSync(path.join(root, 'models/eval.json'))).bits_per_byte;
  assert.ok(Math.abs(ours / recipe - 1) < 0.01, `${ours} against ${recipe}`);
  assert.ok(ours < 1.6);
});

await test('tools: compat-check says yes to the demo model and why not to others', () => {
  const report = JSON.parse(ok(['compat-check', model, '--json']));
  assert.equal(report.model.architecture, 'bitnet-b1.58');
  const bytes = readFileSync(model);
  writeFileSync(file('cut.gguf'), bytes.subarray(0, bytes.length - 1000));
  fails(['compat-check', file('cut.gguf')], /tensor|end/);
  writeFileSync(file('magic.gguf'), 'GGML' + 'x'.repeat(100));
  fails(['compat-check', file('magic.gguf')], /magic|GGUF/);
  fails(['compat-check', file('absent.gguf')], /absent/);
});

await test('tools: synth and bench', () => {
  ok(['synth', '--preset', 'tiny', '-o', file('tiny.gguf')]);
  const report = JSON.parse(ok(['bench', '--model', file('tiny.gguf'), '-p', '64', '-n', '8', '-b', '1,4', '-t', '2', '-r', '1', '--json']));
  assert.deepEqual(report.results.map((r) => r.test), ['pp64', 'tg8', 'tg8']);
  assert.ok(report.results.every((r) => r.tokens_per_second > 0) && report.peak_rss_bytes > 0);
  ok(['synth', '--preset', 'tiny', '-o', file('again.gguf')]);
  assert.ok(readFileSync(file('tiny.gguf')).equals(readFileSync(file('again.gguf'))), 'the same seed gives the same file');
});

await test('tools: wrong usage is told', () => {
  fails(['run'], /--model/);
  fails(['nothing'], /nothing/);
  fails(['run', '--model', model, '--temperature', 'hot', '-p', 'x'], /temperature/);
  fails(['logits', '--model', model, '-o', file('x')], /4095|range|expected/, '1 2 99999\n');
  fails(['tokenize', '--model', model, '--ids'], /UTF-8/, Buffer.from([0x41, 0xff]));
});

const golden = path.join(root, '../shared/data/golden');
if (!existsSync(golden)) {
  console.log('skip tools: reference logits (../shared is not there)');
} else {
  await test('tools: logits agree with the C++ reference', () => {
    ok(['logits', '--model', path.join(golden, 'tinyA.gguf'), '--tokens', path.join(golden, 'tinyA.seqs.txt'), '-o', file('golden')]);
    const bytes = readFileSync(file('golden'));
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    let at = 0;
    readFileSync(path.join(golden, 'tinyA.seqs.txt'), 'utf8').trim().split('\n').forEach((line, s) => {
      const rows = line.trim().split(/\s+/).length, ours = all.subarray(at, (at += rows * 1280));
      const name = path.join(golden, `tinyA.seq${s}.logits.f32`);
      if (!existsSync(name)) return;
      const raw = readFileSync(name), reference = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
      for (let row = 0; row < rows; row++) compare(ours.subarray(row * 1280, (row + 1) * 1280), reference.subarray(row * 1280, (row + 1) * 1280), s, row);
    });
  });
}

// The rules of the reference's README.
function compare(ours, reference, sequence, row) {
  let dot = 0, a2 = 0, b2 = 0, d2 = 0, worst = 0;
  ours.forEach((a, i) => {
    const b = reference[i];
    dot += a * b; a2 += a * a; b2 += b * b; d2 += (a - b) ** 2;
    worst = Math.max(worst, Math.abs(a - b));
  });
  const where = `sequence ${sequence} row ${row}`;
  if (sequence < 2) return assert.ok(worst <= 1e-4, `${where}: ${worst}`);
  assert.ok(dot / Math.sqrt(a2 * b2) >= 0.999, `${where}: cosine`);
  assert.ok(Math.sqrt(d2 / b2) <= 0.04, `${where}: rms`);
  const sorted = [...reference].sort((x, y) => y - x), rms = Math.sqrt(b2 / reference.length);
  if (sorted[0] - sorted[1] > 0.1 * rms) assert.equal(ours.indexOf(Math.max(...ours)), reference.indexOf(sorted[0]), where);
}

rmSync(dir, { recursive: true });
await done();
