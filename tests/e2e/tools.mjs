// The command line: its results, its identities over variants, its errors. timeout: 240
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
  for (const type of ['f16', 'int8']) {
    const reference = logits('--kv-type', type, '--isa', 'portable', '-t', '1');
    assert.equal(reference.length % (4096 * 4), 0);
    for (const extra of [[], ['-t', '1'], ['-t', '2'], ['-t', '3'], ['--chunk', '1'], ['--chunk', '33'], ['--isa', 'portable', '-t', '2'], ['--isa', 'avx2'], ['--isa', 'avx512'],
      ...['i2s', 'tl1', 'tl2'].flatMap((format) => [[], ['-t', '2', '--chunk', '1']].map((more) => ['--quantization', format, ...more]))])
      if (extra[0] !== '--isa' || process.arch === 'x64' || extra[1] === 'portable')
        assert.ok(logits('--kv-type', type, ...extra).equals(reference), [type, ...extra].join(' '));
  }
});

await test('tools: held-out bits per byte match the recipe\'s within 1 % and are under 1.6; an int8 KV cache changes perplexity by under 1 %', () => {
  const perplexity = (...extra) => JSON.parse(ok(['perplexity', '--model', model, '--file', path.join(root, 'models/heldout.txt'), '--ctx', '256', '--json', ...extra]));
  const { bits_per_byte: ours, perplexity: f16 } = perplexity();
  const recipe = JSON.parse(readFileSync(path.join(root, 'models/eval.json'))).bits_per_byte;
  assert.ok(Math.abs(ours / recipe - 1) < 0.01, `${ours} against ${recipe}`);
  assert.ok(ours < 1.6);
  const { perplexity: int8 } = perplexity('--kv-type', 'int8');
  assert.ok(int8 !== f16 && Math.abs(int8 / f16 - 1) < 0.01, `int8 KV cache: ${int8} against ${f16}`);
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

await test('tools: synth', () => {
  ok(['synth', '--preset', 'tiny', '-o', file('tiny.gguf')]);
  ok(['synth', '--preset', 'tiny', '-o', file('again.gguf')]);
  assert.ok(readFileSync(file('tiny.gguf')).equals(readFileSync(file('again.gguf'))), 'the same seed gives the same file');
});

await test('tools: bench measures all combinations, as JSON and as a table', () => {
  const args = ['bench', '-m', model, '-p', '64,32', '-n', '8', '-b', '1,4', '-d', '0,40', '-t', '1,2', '-r', '2', '--sampling', 'greedy,none', '--quantization', 'auto,i2s'];
  const report = JSON.parse(ok([...args, '--json']));
  assert.deepEqual(report.loads.map((l) => [l.threads, l.quantization_asked]), [[1, 'auto'], [1, 'i2s'], [2, 'auto'], [2, 'i2s']]);
  for (const load of report.loads)
    for (const key of ['load_seconds', 'weight_bytes', 'peak_rss_bytes', 'read_bytes_per_second', 'int8_multiply_adds_per_second'])
      assert.ok(load[key] > 0, key);
  assert.equal(report.model.id, 'tales');
  assert.ok(report.machine.name && report.machine.cpus > 0);
  assert.equal(report.results.length, 4 * (2 + 2 * 2 * 2));
  assert.deepEqual(report.results.slice(0, 4).map((r) => [r.test, r.batch, r.depth, r.sampling]),
    [['pp64', 1, 0, 'greedy'], ['pp32', 1, 0, 'greedy'], ['tg8', 1, 0, 'greedy'], ['tg8', 1, 0, 'none']]);
  for (const r of report.results) {
    assert.ok(r.min > 0 && r.min <= r.tokens_per_second && r.tokens_per_second <= r.max && r.runs === 2, r.test);
    for (const key of ['bytes_per_step', 'read_share', 'multiply_adds_per_step', 'int8_share']) assert.ok(r[key] > 0, `${r.test} ${key}`);
  }
  // A token drawn greedily reads the screen of the head, all logits read all of it; a longer context has more to read.
  const bytes = (sampling, depth) => report.results.find((r) => r.test === 'tg8' && r.batch === 1 && r.sampling === sampling && r.depth === depth).bytes_per_step;
  assert.ok(bytes('greedy', 0) < bytes('none', 0) && bytes('none', 0) < bytes('none', 40));
  const table = ok(['bench', '-m', model, '-p', '16', '-n', '4', '-t', '1', '-r', '1']);
  assert.match(table, /^tales .*\n\n1 threads, .* limits: .*\ntest .*\npp16 .* %\ntg4 .* %\npeak resident memory \d+ MB\n$/);
});

await test('tools: bench leaves out what the context has no room for, and refuses bad lists', () => {
  const some = bitnet(['bench', '-m', model, '-p', '0', '-n', '4', '-d', '0,100000', '-r', '1', '--json']);
  assert.equal(some.code, 0);
  assert.deepEqual(JSON.parse(some.out).results.map((r) => r.depth), [0]);
  assert.match(some.err, /100000 is left out: the model's context has 2048 tokens/);
  fails(['bench', '-m', model, '-p', '100000', '-n', '0', '-r', '1'], /nothing was measured/);
  fails(['bench', '-m', model, '-b', '1,0'], /--batch: expected/);
  fails(['bench', '-m', model, '--sampling', 'warm'], /--sampling: expected/);
});

await test('tools: benchmark-compare keeps baselines and fails on what is slower', () => {
  const folder = file('state'), args = ['benchmark-compare', '-m', model, '--quick', '-r', '2', '-t', '1', '--baseline-dir', folder];
  const compare = (...extra) => bitnet([...args, ...extra]);
  assert.equal(compare('--baseline', 'latest').code, 2, 'there is none yet');
  assert.equal(compare('--save', 'first').code, 0);
  const saved = JSON.parse(readFileSync(path.join(folder, 'first.json')));
  // Times are not for tests to judge, so what differs here differs by more than any noise.
  const doctor = (name, change) => {
    const report = structuredClone(saved);
    change(report);
    writeFileSync(file(name), JSON.stringify(report));
    return file(name);
  };
  const scaled = (factor) => (report) => report.results.forEach((r) => ['tokens_per_second', 'min', 'max'].forEach((key) => (r[key] *= factor)));
  const same = compare('--baseline', 'latest', '--threshold', '95%', '--json');
  assert.equal(same.code, 0, same.err);
  const parsed = JSON.parse(same.out);
  assert.ok(parsed.compared === saved.results.length && parsed.slower === 0 && parsed.figures.every((f) => f.verdict !== 'new' && f.ratio > 0));
  const slower = compare('--baseline', doctor('fast.json', scaled(100)), '--save', 'second', '--json');
  assert.equal(slower.code, 1, slower.err);
  assert.ok(JSON.parse(slower.out).figures.every((f) => f.verdict === 'slower'));
  assert.ok(!existsSync(path.join(folder, 'second.json')), 'what is slower becomes no baseline');
  const faster = compare('--baseline', doctor('slow.json', scaled(0.01)), '--save', 'second');
  assert.equal(faster.code, 0, faster.err);
  assert.match(faster.out, /faster\n[^]*0 of 4 figures slower[^]*saved as second/);
  assert.ok(existsSync(path.join(folder, 'second.json')));

  const refused = (name, change, pattern) => {
    const result = compare('--baseline', doctor(name, change));
    assert.equal(result.code, 2);
    assert.match(result.err, pattern);
  };
  refused('machine.json', (r) => (r.machine.name = 'Abacus'), /machine: Abacus in the baseline/);
  refused('model.json', (r) => (r.model.id = 'other'), /model: other in the baseline, tales now/);
  refused('threads.json', (r) => (r.loads[0].threads = 7), /threads: 7 in the baseline, 1 now/);
  refused('tests.json', (r) => r.results.forEach((f) => (f.depth = 999)), /none of the figures/);
  refused('bad.json', (r) => delete r.results[1].min, /"min" of results\[1\]/);
  writeFileSync(file('cut.json'), readFileSync(path.join(folder, 'first.json')).subarray(0, 400));
  assert.equal(compare('--baseline', file('cut.json')).code, 2);
  assert.equal(compare('--baseline', doctor('other.json', (r) => { r.machine.name = 'Abacus'; r.loads[0].threads = 7; scaled(0.01)(r); }), '--force').code, 0);
  assert.equal(compare('--threshold', 'some').code, 2);
  assert.equal(compare('--save', '../x').code, 2);
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
