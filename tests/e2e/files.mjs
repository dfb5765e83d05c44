// Files: checkpoints converted, types changed, the same weights in every packing. timeout: 240
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { bf16, codesOf, f32, packRows, readGguf, safetensors, writeFolder } from './lib/checkpoint.mjs';
import { build, done, model, sleep, test } from './lib/harness.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-files-'));
const file = (name) => path.join(dir, name);
const bitnet = (...args) => {
  const result = spawnSync(path.join(build, 'bitnet'), args, { maxBuffer: 1 << 28 });
  return { code: result.status, out: result.stdout.toString(), err: result.stderr.toString() };
};
const ok = (...args) => {
  const result = bitnet(...args);
  assert.equal(result.code, 0, result.err);
  return result.out;
};
const fails = (pattern, ...args) => {
  const result = bitnet(...args);
  assert.ok(result.code === 1 || result.code === 2, `exit ${result.code}`);
  assert.match(result.err, pattern);
};
const bytes = (name) => readFileSync(file(name));

// ---- convert: the bundled model taken apart into a checkpoint

const tales = readGguf(readFileSync(model));
const HF = {
  attn_norm: 'input_layernorm', ffn_norm: 'post_attention_layernorm', attn_sub_norm: 'self_attn.attn_sub_norm', ffn_sub_norm: 'mlp.ffn_sub_norm',
  attn_q: 'self_attn.q_proj', attn_k: 'self_attn.k_proj', attn_v: 'self_attn.v_proj', attn_output: 'self_attn.o_proj',
  ffn_gate: 'mlp.gate_proj', ffn_up: 'mlp.up_proj', ffn_down: 'mlp.down_proj',
};
const hfName = (name) => {
  const [, layer, kind] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  if (name === 'token_embd.weight') return 'model.embed_tokens.weight';
  return kind ? `model.layers.${layer}.${HF[kind]}.weight` : 'model.norm.weight';
};
// Ternary tensors by `ternary`: [name, dtype, shape, bytes] of each.
const tensorsOf = (ternary, skip = () => false) =>
  Object.entries(tales.tensors).filter(([name]) => !skip(name)).flatMap(([name, t]) => {
    const [cols, rows] = t.dims;
    if (t.type === 36) return ternary(hfName(name), codesOf(t), rows, cols);
    return [[hfName(name), t.type === 0 ? 'F32' : 'F16', t.type === 0 ? [cols] : [rows, cols], t.data]];
  });
const packed = (name, { codes, scale }, rows, cols) => [
  [name, 'U8', [rows / 4, cols], packRows(codes, rows, cols)],
  [`${name}_scale`, 'BF16', [1], bf16([scale])],
];
const master = (name, { codes, scale }, rows, cols) => [[name, 'BF16', [rows, cols], bf16(Array.from(codes, (c) => (c - 1) * scale))]];

const keys = tales.keys, arch = 'bitnet-b1.58.';
const config = {
  architectures: ['BitNetForCausalLM'], hidden_act: 'relu2', hidden_size: 384, intermediate_size: 1024, num_hidden_layers: 6,
  num_attention_heads: 6, num_key_value_heads: 2, vocab_size: 4096, max_position_embeddings: 2048, rms_norm_eps: 1e-5, rope_theta: 500000,
  tie_word_embeddings: true, rope_scaling: null,
  quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' },
};
assert.equal(keys[`${arch}embedding_length`], config.hidden_size);
const tokens = keys['tokenizer.ggml.tokens'], kinds = keys['tokenizer.ggml.token_type'];
const SPLIT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const tokenizer = {
  version: '1.0',
  added_tokens: tokens.flatMap((content, id) => (kinds[id] === 3 ? [{ id, content, special: true }] : [])),
  pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: SPLIT } }, { type: 'ByteLevel', use_regex: false }] },
  model: {
    type: 'BPE', vocab: Object.fromEntries(tokens.flatMap((text, id) => (kinds[id] === 3 ? [] : [[text, id]]))),
    merges: keys['tokenizer.ggml.merges'].map((m) => m.split(' ')),
  },
};
const tokenizerConfig = {
  add_bos_token: true, bos_token: '<|begin_of_text|>', eos_token: { content: '<|end_of_text|>' }, pad_token: '<|pad|>',
  chat_template: keys['tokenizer.chat_template'],
};
const checkpoint = (name, weights, changes = {}) =>
  writeFolder(file(name), { 'config.json': config, 'tokenizer.json': tokenizer, 'tokenizer_config.json': tokenizerConfig, ...weights, ...changes });
const one = (tensors) => ({ 'model.safetensors': safetensors(tensors) });
const about = ['--name', 'tales', '--license', 'apache-2.0', '--description', 'Small ternary model of English children\'s tales'];

await test('convert: packed weights give the recipe\'s file, byte for byte', () => {
  ok('convert', checkpoint('packed', one(tensorsOf(packed))), file('packed.gguf'), ...about);
  assert.ok(bytes('packed.gguf').equals(readFileSync(model)));
});

await test('convert: so do weights that are ternary in bf16, in several files', () => {
  const all = tensorsOf(master), half = all.length >> 1;
  const folder = checkpoint('master', {
    'model-00001-of-00002.safetensors': safetensors(all.slice(half)), 'model-00002-of-00002.safetensors': safetensors(all.slice(0, half)),
  });
  ok('convert', folder, file('master.gguf'), ...about);
  assert.ok(bytes('master.gguf').equals(readFileSync(model)));
});

await test('convert: master weights are rounded to the mean of their sizes', () => {
  const name = 'model.layers.2.self_attn.v_proj.weight';
  let values;
  const mixed = (n, c, rows, cols) => {
    if (n !== name) return packed(n, c, rows, cols);
    values = Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * 1.7) * (1 + (i % 7)) * 0.01);
    return [[n, 'F32', [rows, cols], Buffer.from(values.buffer)]];
  };
  ok('convert', checkpoint('mean', one(tensorsOf(mixed))), file('mean.gguf'));
  const { codes, scale } = codesOf(readGguf(bytes('mean.gguf')).tensors['blk.2.attn_v.weight']);
  assert.equal(scale, Math.fround(values.reduce((sum, v) => sum + Math.abs(v), 0) / values.length));
  values.forEach((v, i) => assert.equal(codes[i] - 1, Math.max(-1, Math.min(1, Math.round(v / scale))) + 0));
});

await test('convert: Llama models are divided by weight_scale, and rows of heads that are rotated change places', () => {
  const norms = (name) => /sub_norm/.test(name);
  const scaled = (name, { codes }, rows, cols) => [
    [name, 'U8', [rows / 4, cols], packRows(codes, rows, cols)], [`${name}_scale`, 'F32', [1], f32(4)],
  ];
  const head = ['lm_head.weight', 'F16', [4096, 384], tales.tensors['token_embd.weight'].data];
  ok('convert', checkpoint('llama', one([...tensorsOf(scaled, norms), head]), {
    'config.json': { ...config, architectures: ['LlamaForCausalLM'], hidden_act: 'silu', tie_word_embeddings: false,
      quantization_config: { quant_method: 'bitnet' } },
  }), file('llama.gguf'));
  const { tensors } = readGguf(bytes('llama.gguf')), cols = 384;
  for (const kind of ['attn_q', 'attn_k', 'attn_v']) {
    const before = codesOf(tales.tensors[`blk.1.${kind}.weight`]).codes, { codes, scale } = codesOf(tensors[`blk.1.${kind}.weight`]);
    assert.equal(scale, 0.25);
    for (let r = 0; r < codes.length / cols; r++) {
      const i = r % 64, from = kind === 'attn_v' ? r : r - i + (i % 2) * 32 + (i >> 1);
      assert.deepEqual(codes.subarray(r * cols, (r + 1) * cols), before.subarray(from * cols, (from + 1) * cols), `${kind} ${r}`);
    }
  }
  assert.ok(tensors['output.weight']);
  assert.match(ok('compat-check', file('llama.gguf')), /can be served[^]*architecture  llama/);
});

await test('convert: 1bitLLM\'s names, and a tokenizer that falls back on bytes', () => {
  const rename = (t) => [t[0].replace('attn_sub_norm', 'inner_attn_ln').replace('ffn_sub_norm', 'ffn_layernorm'), ...t.slice(1)];
  const vocab = { '<unk>': 0, '<s>': 1, '</s>': 2 };
  for (let b = 0; b < 256; b++) vocab[`<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`] = 3 + b;
  for (const text of ['▁', 'a', 'b', 'c', '▁a', 'bc', '▁abc']) vocab[text] = Object.keys(vocab).length;
  const spm = {
    added_tokens: [0, 1, 2].map((id) => ({ id, content: Object.keys(vocab)[id], special: true })),
    model: { type: 'BPE', byte_fallback: true, unk_token: '<unk>', vocab, merges: ['b c', '▁ a', '▁a bc'] },
  };
  ok('convert', checkpoint('large', one(tensorsOf(master).map(rename)), {
    'config.json': { ...config, architectures: ['BitnetForCausalLM'], hidden_act: 'silu', bos_token_id: 1, eos_token_id: [2, 9], rope_theta: 10000 },
    'tokenizer.json': spm, 'tokenizer_config.json': {}, 'chat_template.jinja': '{{ messages }}',
  }), file('large.gguf'));
  const { keys: k } = readGguf(bytes('large.gguf'));
  assert.equal(k['general.architecture'], 'bitnet');
  assert.equal(k['tokenizer.ggml.model'], 'llama');
  assert.equal(k['tokenizer.ggml.tokens'][300], '[PAD300]');
  assert.deepEqual(['b', 'bc', '▁a', '▁abc'].map((t) => k['tokenizer.ggml.scores'][vocab[t]]), [-4, 0, -1, -2]);
  assert.deepEqual([k['tokenizer.ggml.bos_token_id'], k['tokenizer.ggml.eos_token_id'], k['tokenizer.chat_template']], [1, 2, '{{ messages }}']);
  assert.equal(ok('tokenize', '--model', file('large.gguf'), '--ids', 'a').length > 0, true);
});

await test('convert: Qwen3 with a norm before each projection, and how it pools', () => {
  ok('synth', '--preset', 'tiny-qwen3', '--layers', '2', '--pooling', 'last', '-o', file('qwen.gguf'));
  const made = readGguf(bytes('qwen.gguf')), texts = made.keys['tokenizer.ggml.tokens'], types = made.keys['tokenizer.ggml.token_type'];
  const projections = { attn_q: 'self_attn.q_proj', attn_k: 'self_attn.k_proj', attn_v: 'self_attn.v_proj', attn_output: 'self_attn.o_proj', ffn_gate: 'mlp.gate_proj', ffn_up: 'mlp.up_proj', ffn_down: 'mlp.down_proj' };
  const names = { ...HF, attn_q_norm: 'self_attn.q_norm', attn_k_norm: 'self_attn.k_norm' };
  for (const [ours, theirs] of Object.entries(projections)) names[`${ours}_norm_in`] = `${theirs}.norm`;
  const from = (name) => ({ 'token_embd.weight': 'embed_tokens.weight', 'output_norm.weight': 'norm.weight' })[name] ??
    name.replace(/^blk\.(\d+)\.(\w+)\.weight$/, (_, layer, kind) => `layers.${layer}.${names[kind]}.weight`);
  const means = {};
  const tensors = Object.entries(made.tensors).map(([name, t]) => {
    const [cols, rows] = t.dims;
    if (t.type !== 36) return [from(name), t.type === 0 ? 'F32' : 'F16', t.type === 0 ? [cols] : [rows, cols], t.data];
    const { codes } = codesOf(t); // ternary values of size 0.25: such layers round them to their mean size all the same
    means[name] = Math.fround((0.25 * codes.reduce((sum, c) => sum + (c !== 1), 0)) / codes.length);
    return [from(name), 'F32', [rows, cols], Buffer.from(Float32Array.from(codes, (c) => (c - 1) * 0.25).buffer)];
  });
  const changes = {
    'config.json': {
      architectures: ['Qwen3Model'], model_type: 'qwen3', hidden_act: 'silu', hidden_size: 256, intermediate_size: 768, num_hidden_layers: 2, num_attention_heads: 4,
      num_key_value_heads: 2, head_dim: 128, vocab_size: 1280, max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 1000000, tie_word_embeddings: true,
    },
    'tokenizer.json': {
      added_tokens: texts.flatMap((content, id) => (types[id] === 3 ? [{ id, content, special: true }] : [])),
      pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: SPLIT.replace('{1,3}', '') } }, { type: 'ByteLevel', use_regex: false }] },
      post_processor: { type: 'Sequence', processors: [{ type: 'ByteLevel' }, { type: 'TemplateProcessing', single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: texts[1025], type_id: 0 } }] }] },
      model: { type: 'BPE', vocab: Object.fromEntries(texts.flatMap((text, id) => (types[id] === 3 ? [] : [[text, id]]))), merges: [] },
    },
    'tokenizer_config.json': { add_bos_token: false, eos_token: texts[1033] }, // ends a turn, not a text
  };
  const folder = checkpoint('qwen', one(tensors), changes), pooling = (mode) => writeFileSync(path.join(folder, '1_Pooling/config.json'), JSON.stringify({ [`pooling_mode_${mode}`]: true }));
  mkdirSync(path.join(folder, '1_Pooling'));
  pooling('max_tokens');
  fails(/1_Pooling\/config.json: expected pooling_mode_mean_tokens, _cls_token or _lasttoken/, 'convert', folder, file('refused.gguf'));
  pooling('lasttoken');
  ok('convert', folder, file('back.gguf'));
  const back = readGguf(bytes('back.gguf'));
  assert.deepEqual(Object.keys(back.tensors).sort(), Object.keys(made.tensors).sort());
  for (const [name, t] of Object.entries(made.tensors)) {
    if (t.type !== 36) { assert.ok(back.tensors[name].data.equals(t.data), name); continue; }
    const { codes, scale } = codesOf(back.tensors[name]);
    assert.deepEqual(codes, codesOf(t).codes, name);
    assert.equal(scale, means[name], name);
  }
  const same = ['pooling_type', 'attention.key_length', 'attention.value_length', 'attention.head_count_kv', 'rope.freq_base'].map((key) => `qwen3.${key}`);
  for (const key of ['general.architecture', 'tokenizer.ggml.pre', 'tokenizer.ggml.add_eos_token', 'tokenizer.ggml.add_bos_token', 'tokenizer.ggml.eos_token_id', ...same])
    assert.deepEqual(back.keys[key], made.keys[key], key);
  assert.match(ok('compat-check', file('back.gguf')), /can be served[^]*embeddings    pooled by/);
  assert.match(ok('tokenize', '--model', file('back.gguf'), '--ids', '--add-special', '--file', file('qwen/tokenizer_config.json')), /\b1025\s*$/);
  fails(/q_proj.norm.weight is missing/, 'convert', checkpoint('short', one(tensors.filter((t) => t[0] !== 'layers.1.self_attn.q_proj.norm.weight')), changes), file('refused.gguf'));
});

await test('convert: what cannot be converted is refused by name', () => {
  const all = tensorsOf(packed), weights = one(all), out = file('refused.gguf');
  const without = (name) => one(all.filter((t) => t[0] !== name));
  const changed = (name, change) => one(all.map((t) => (t[0] === name ? change(t) : t)));
  const q = 'model.layers.3.self_attn.q_proj.weight';
  const cases = [
    [/q_proj.weight is missing/, without(q)],
    [/q_proj.weight: expected its weight_scale beside it/, without(`${q}_scale`)],
    [/q_proj.weight: expected codes 0, 1 and 2, found 3 at row 96, column 5/, changed(q, (t) => [...t.slice(0, 3), Buffer.from(t[3]).fill(0x0c, 5, 6)])],
    [/q_proj.weight: expected 96 x 384, found/, changed(q, (t) => [t[0], t[1], [384, 96], t[3]])],
    [/weight_scale|positive scale, found/, changed(`${q}_scale`, (t) => [...t.slice(0, 3), bf16([-1])])],
    [/norm.weight: expected finite weights, found/, changed('model.norm.weight', (t) => [...t.slice(0, 3), Buffer.alloc(1536, 0xff)])],
    [/such as model.layers.0.self_attn.q_proj.bias/, one([...all, ['model.layers.0.self_attn.q_proj.bias', 'F32', [384], Buffer.alloc(1536)]])],
    [/expected BitNetForCausalLM, BitnetForCausalLM or LlamaForCausalLM, or model_type qwen3, found Qwen2/, weights, { 'config.json': { ...config, architectures: ['Qwen2'] } }],
    [/num_hidden_layers: expected a whole number/, weights, { 'config.json': { ...config, num_hidden_layers: -1 } }],
    [/rope_scaling: expected null/, weights, { 'config.json': { ...config, rope_scaling: { rope_type: 'llama3' } } }],
    [/say which with --pre/, weights, { 'tokenizer.json': { ...tokenizer, pre_tokenizer: null } }],
    [/id 5 is both/, weights, { 'tokenizer.json': { ...tokenizer, added_tokens: [{ id: 5, content: 'x' }] } }],
    [/model: expected type BPE with merges, found type Unigram/, weights, { 'tokenizer.json': { model: { type: 'Unigram' } } }],
    [/config.json: JSON: expected/, weights, { 'config.json': '{"a": }' }],
    [/not a safetensors file/, { 'model.safetensors': Buffer.from('\xff\xff\xff\xff\xff\xff\xff\x7f{}', 'latin1') }],
    [/data_offsets are not in the|is the file complete/, { 'model.safetensors': weights['model.safetensors'].subarray(0, -100) }],
  ];
  for (const [pattern, files, changes] of cases) {
    rmSync(file('bad'), { recursive: true, force: true });
    fails(pattern, 'convert', checkpoint('bad', files, changes), out);
    assert.ok(!readdirSync(dir).some((name) => name.startsWith('refused')), `${pattern}: something is left`);
  }
  fails(/cannot open .*model.safetensors/, 'convert', file('nothing'), out);
  fails(/expected a folder and the file/, 'convert', file('bad'));
});

// ---- quantize

ok('synth', '--preset', 'tiny', '-o', file('tiny.gguf'), '--seed', '3');
writeFileSync(file('ids'), '5 9 800 100 33 2 7\n');
const logits = (name, ...more) => {
  ok('logits', '--model', name, '--tokens', file('ids'), '-o', file('logits'), ...more);
  return bytes('logits');
};

await test('quantize: ternary weights stay the same in every type, and come back to the same file', () => {
  const reference = logits(file('tiny.gguf'));
  for (const type of ['tq1_0', 'tq2_0']) {
    ok('quantize', file('tiny.gguf'), file(`${type}.gguf`), '--type', type);
    assert.ok(logits(file(`${type}.gguf`)).equals(reference), type);
    ok('quantize', file(`${type}.gguf`), file('back.gguf'), '--type', 'i2_s');
    assert.ok(bytes('back.gguf').equals(bytes('tiny.gguf')), type);
  }
  ok('quantize', model, file('same.gguf'), '--type', 'i2_s');
  assert.ok(bytes('same.gguf').equals(readFileSync(model)));
});

await test('quantize: embeddings of every type are served, on every kernel the same', () => {
  const near = (a, b) => {
    const x = new Float32Array(a.buffer, a.byteOffset, a.length / 4), y = new Float32Array(b.buffer, b.byteOffset, b.length / 4);
    let xy = 0, xx = 0, yy = 0;
    x.forEach((v, i) => ((xy += v * y[i]), (xx += v * v), (yy += y[i] * y[i])));
    return xy / Math.sqrt(xx * yy);
  };
  const reference = Buffer.from(logits(file('tiny.gguf')));
  for (const [type, least] of [['q8_0', 0.998], ['q6_k', 0.99], ['q4_0', 0.9]]) {
    ok('quantize', file('tiny.gguf'), file('embedding.gguf'), '--embedding', type);
    const best = Buffer.from(logits(file('embedding.gguf')));
    assert.ok(near(reference, best) > least, `${type}: ${near(reference, best)}`);
    assert.ok(logits(file('embedding.gguf'), '--isa', 'portable', '-t', '1').equals(best), type);
    assert.ok(statSync(file('embedding.gguf')).size < statSync(file('tiny.gguf')).size);
  }
});

await test('quantize: what does not fit is refused, and nothing is left', () => {
  fails(/blk.0.ffn_gate.weight: rows of 384 weights do not fit TQ2_0, which has blocks of 256/, 'quantize', model, file('no.gguf'), '--type', 'tq2_0');
  fails(/token_embd.weight: rows of 384 weights do not fit Q6_K/, 'quantize', model, file('no.gguf'), '--embedding', 'q6_k');
  fails(/cannot write \/nonexistent/, 'quantize', model, '/nonexistent/x.gguf');
  copyFileSync(model, file('short.gguf'));
  truncateSync(file('short.gguf'), 3000000);
  fails(/is it complete/, 'quantize', file('short.gguf'), file('no.gguf'));
  assert.ok(!readdirSync(dir).some((name) => name.startsWith('no.gguf')));
});

await test('quantize: killed on the way, it leaves the file that was there', async () => {
  ok('synth', '--preset', '0.7b', '--layers', '2', '-o', file('big.gguf'));
  writeFileSync(file('out.gguf'), 'what was there before');
  for (const after of [20, 60, 120]) {
    const child = spawn(path.join(build, 'bitnet'), ['quantize', file('big.gguf'), file('out.gguf'), '--type', 'tq1_0'], { stdio: 'ignore' });
    await sleep(after);
    child.kill('SIGKILL');
    const [code] = await once(child, 'exit');
    if (code === 0) break; // it was faster
    assert.equal(bytes('out.gguf').toString(), 'what was there before');
    assert.ok(!readdirSync(dir).some((name) => name.startsWith('out.gguf.')));
  }
});

await test('verify: exit codes and JSON', () => {
  const sound = JSON.parse(ok('verify', model, '--json'));
  assert.deepEqual([sound.sound, sound.checks.length, sound.checks.every((c) => c.passed)], [true, 5, true]);
  fails(/bits a byte/, 'verify', file('tiny.gguf'));
  fails(/expected one GGUF file/, 'verify');
  ok('compat-check', model, '--strict');
  fails(/strictly: the packing of I2_S tensors is assumed/, 'compat-check', file('tiny.gguf'), '--strict');
});

rmSync(dir, { recursive: true, force: true });
await done();
