// bitnet crossval against each kind of reference: portable kernels, stored logits, a command, servers. timeout: 120
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import http from 'node:http';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { build, done, model, root, startPair, test } from './lib/harness.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-crossval-'));
const file = (name) => path.join(dir, name);
const small = ['--samples', '2', '--context', '24'];
// Not spawnSync: the fake server lives in this process.
const crossval = (args, env = {}) => new Promise((resolve) => {
  const child = spawn(path.join(build, 'bitnet'), ['crossval', ...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '', err = '';
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (err += data));
  child.on('close', (code) => resolve({ code, out, err }));
});
const report = async (args, env) => {
  const result = await crossval([...args, '--json'], env);
  assert.ok(result.out, result.err);
  return { ...JSON.parse(result.out).models[0], code: result.code, err: result.err };
};

await test('crossval: the served path and the portable kernels give the same numbers', async () => {
  const r = await report([model, ...small]);
  assert.deepEqual([r.code, r.agrees, r.top1, r.top5, r.kl_mean, r.perplexity_difference, r.p], [0, true, 1, 1, 0, 0, 1], r.err);
  assert.deepEqual([r.n_sequences, r.n_positions, r.n_scored], [2, 48, 46]);
  const table = await crossval([...small], { BITNET_GGUF: model });
  assert.match(table.out, /tales\.gguf\n {2}served .*\n {2}reference .* on portable C\n[^]*agrees\n$/);
});

await test('crossval: along greedy answers, of which only the answers count', async () => {
  const text = await report([model, ...small]), r = await report([model, ...small, '--answers', '10']);
  assert.deepEqual([r.code, r.agrees, r.top1, r.kl_mean, r.p], [0, true, 1, 0, 1], r.err);
  assert.deepEqual([r.n_sequences, r.n_positions, r.n_scored], [2, 22, 20]); // the prompt's last position draws the first token
  assert.ok(r.perplexity < text.perplexity / 2, `${r.perplexity} of what it says itself, ${text.perplexity} of a text`);
});

await test('crossval: a dry run says what would be compared', async () => {
  const r = await crossval(['--dir', path.dirname(model), '--dry-run']);
  assert.equal(r.code, 0, r.err);
  assert.match(r.out, /tales\.gguf: would be compared with portable C/);
});

await test('crossval: stored logits, the same and changed', async () => {
  const out = (name) => path.join(dir, name);
  copyFileSync(model, out('stored.gguf'));
  writeFileSync(out('stored.seqs.txt'), '1 2 3 4 5 6 7 8\n9 10 11\n');
  const made = spawnSync(path.join(build, 'bitnet'), ['logits', '-m', model, '--tokens', out('stored.seqs.txt'), '-o', out('stored.logits.f32'), '--served']);
  assert.equal(made.status, 0, String(made.stderr));
  const same = await report([out('stored.gguf'), '--vectors', dir]);
  assert.deepEqual([same.code, same.n_positions, same.top1, same.kl_mean], [0, 11, 1, 0], same.err);
  const bytes = readFileSync(out('stored.logits.f32')), logits = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  logits.forEach((value, i) => (logits[i] = -value));
  writeFileSync(out('stored.logits.f32'), bytes);
  const differs = await report([out('stored.gguf'), '--vectors', out('stored.seqs.txt')]);
  assert.deepEqual([differs.code, differs.agrees, differs.top1], [1, false, 0]);
  assert.ok(Math.abs(differs.cosine_min + 1) < 1e-6);
  writeFileSync(out('stored.logits.f32'), bytes.subarray(4));
  const cut = await report([out('stored.gguf'), '--vectors', dir]);
  assert.deepEqual([cut.code, /expected \d+ bytes/.test(cut.error)], [2, true]);
});

await test('crossval: a command, and commands that fail', async () => {
  const own = `${path.join(build, 'bitnet')} logits -m "$BITNET_MODEL" --tokens - -o /dev/stdout --served`;
  const r = await report([model, ...small, '--command', `${own} | cat`]);
  assert.deepEqual([r.code, r.top1, r.kl_mean], [0, 1, 0], r.err);
  for (const [command, pattern] of [['head -c 100 /dev/zero', /ends in sequence 0 at position 0/], [`${own} | cat; exit 3`, /status 3/],
    [`${own} | cat; echo more`, /more logits/]]) {
    const failed = await crossval([model, ...small, '--command', command]);
    assert.equal(failed.code, 2, command);
    assert.match(failed.err, pattern);
  }
  const late = await crossval([model, ...small, '--command', 'sleep 60', '--timeout', '100']);
  assert.match(late.err, /did not end in time/);
});

await test('crossval: our own gateway as a server of OpenAI\'s API', async () => {
  const { gateway } = await startPair();
  const r = await report([model, ...small, '--server', gateway.url, '--api', 'openai', '--server-model', 'tales']);
  assert.deepEqual([r.code, r.top1, r.n_scored, r.kl_is_bound], [0, 1, 46, true], r.err);
  assert.ok(r.top5 > 0.99 && Math.abs(r.perplexity_difference) < 1e-5 && r.kl_mean < 1e-6, JSON.stringify(r));
  const absent = await crossval([model, ...small, '--server', gateway.url, '--api', 'openai', '--server-model', 'absent']);
  assert.equal(absent.code, 2);
  assert.match(absent.err, /expected status 200, found 404/);
});

await test('crossval: a llama.cpp server\'s lists, by id and by text, and bad answers', async () => {
  const seen = [];
  let answer;
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += data)).on('end', () => {
      seen.push({ url: request.url, key: request.headers.authorization, body: JSON.parse(body) });
      response.end(typeof answer === 'string' ? answer : JSON.stringify(answer));
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}/base`, args = [model, '--samples', '1', '--context', '6', '--server', url];
  answer = { completion_probabilities: [{ id: 5, top_logprobs: [{ id: 6, token: '\u0000', logprob: -3 }, { id: 5, token: 'x', logprob: -0.5 }] }] };
  const r = await report(args, { BITNET_SERVER_KEY: 'sesame' });
  assert.deepEqual([r.code, r.n_positions, r.n_scored, r.kl_is_bound], [1, 6, 0, true], r.err);
  assert.ok(r.kl_mean > 0.1 && r.perplexity === null);
  assert.deepEqual(seen.map((s) => s.body.prompt.length), [1, 2, 3, 4, 5, 6]);
  assert.ok(seen.every((s) => s.url === '/base/completion' && s.key === 'Bearer sesame' && s.body.n_predict === 1 && s.body.n_probs === 4096));
  answer = { completion_probabilities: [{ content: ' the', probs: [{ tok_str: ' the', prob: 0.9 }, { tok_str: 'no such token', prob: 0.05 }] }] };
  assert.ok(seen.every((s) => s.body.cache_prompt === true));
  assert.equal((await report(args)).n_positions, 6);
  seen.length = 0;
  await report([...args, '--api', 'llama-whole']);
  assert.ok(seen.length === 6 && seen.every((s) => s.body.cache_prompt === false));
  for (const [bad, pattern] of [['{', /line 1/], [{ content: 'x' }, /expected top_logprobs/]]) {
    answer = bad;
    const failed = await crossval(args);
    assert.equal(failed.code, 2);
    assert.match(failed.err, pattern);
  }
  server.close();
  assert.match((await crossval(args)).err, /cannot connect/);
});

await test('crossval: wrong usage is told', async () => {
  for (const [args, pattern] of [[[], /expected models/], [[model, '--server', 'https://x'], /expected http:/], [[file('absent.gguf')], /absent/],
    [[model, '--server', 'http://x', '--command', 'true'], /one reference/], [[model, '--min-top1', '2'], /min-top1/],
    [[model, '--vectors', dir, '--answers', '5'], /--answers without --vectors/],
    [[model, '--context', '2000', '--samples', '1', '--answers', '100', '--file', path.join(root, 'models/heldout.txt')], /more than the model's context of 2048/]]) {
    const r = await crossval(args);
    assert.equal(r.code, 2);
    assert.match(r.err, pattern);
  }
});

rmSync(dir, { recursive: true });
await done();
