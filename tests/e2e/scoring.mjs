// Log-probabilities of prompts, as evaluation harnesses ask for them, against the logits of the forward pass itself.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { build, done, get, model, post, root, startEngine, startGateway, startPair, test, until } from './lib/harness.mjs';

const { gateway, engine } = await startPair();
const ask = async (body, url = gateway.url) => {
  const answer = await post(`${url}/v1/completions`, { model: 'tales', temperature: 0, ...body });
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
};
const texts = ['Once upon a time there was a little fox who lived in the wood, and the wood was old.',
  'The king said: "Ünïcödé 🙂 is not for foxes", and so it was written in the great book of the house, page by page, '.repeat(3)];
const idsOf = async (text) => (await post(`${gateway.url}/tokenize`, { text, add_special: true })).json.tokens;
const ids = await Promise.all(texts.map(idsOf));

// By `bitnet logits`: for each token but the first its log-probability, and the best one's.
const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-scoring-'));
function reference(tokens) {
  const out = path.join(dir, 'logits');
  const run = spawnSync(path.join(build, 'bitnet'), ['logits', '-m', model, '--tokens', '-', '-o', out, '--served'], { input: tokens.join(' ') + '\n' });
  assert.equal(run.status, 0, String(run.stderr));
  const bytes = readFileSync(out), all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const n = all.length / tokens.length;
  return tokens.slice(1).map((id, i) => {
    const row = all.subarray(i * n, (i + 1) * n), max = row.reduce((a, b) => Math.max(a, b));
    const sum = Math.log(row.reduce((a, b) => a + Math.exp(b - max), 0)) + max;
    return { logprob: row[id] - sum, best: max - sum };
  });
}
const close = (a, b) => Math.abs(a - b) < 1e-4;

await test('scoring: log-probabilities of a prompt are those of the forward pass', async () => {
  for (const tokens of ids) {
    const { choices: [choice], usage } = await ask({ prompt: tokens, max_tokens: 0, echo: true, logprobs: 1 });
    const { token_logprobs, top_logprobs } = choice.logprobs, expected = reference(tokens);
    assert.equal(token_logprobs.length, tokens.length);
    assert.deepEqual([token_logprobs[0], top_logprobs[0], choice.finish_reason], [null, null, 'length']);
    assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [tokens.length, 0]);
    expected.forEach(({ logprob, best }, i) => {
      assert.ok(close(token_logprobs[i + 1], logprob), `token ${i + 1}: ${token_logprobs[i + 1]}, expected ${logprob}`);
      assert.ok(close(Math.max(...Object.values(top_logprobs[i + 1])), best));
    });
  }
});

await test('scoring: a text and its tokens score alike, and offsets point into the text', async () => {
  for (let i = 0; i < texts.length; i++) {
    const byText = (await ask({ prompt: texts[i], max_tokens: 0, echo: true, logprobs: 2 })).choices[0];
    const byIds = (await ask({ prompt: ids[i], max_tokens: 0, echo: true, logprobs: 2 })).choices[0];
    assert.deepEqual(byText, byIds);
    assert.equal(byText.text, texts[i]);
    const { tokens, text_offset } = byText.logprobs, characters = Array.from(texts[i]);
    tokens.forEach((token, k) => {
      if (k > 0 && !token.startsWith('bytes:'))
        assert.equal(characters.slice(text_offset[k], text_offset[k] + Array.from(token).length).join(''), token);
    });
  }
});

// What lm-eval's local-completions sends for log-likelihoods: context and continuation as ids, one token more, greedy.
const harness = async (requests, more = {}) => {
  const { choices } = await ask({ prompt: requests.map((r) => [...r.context, ...r.continuation]), max_tokens: 1, logprobs: 1, echo: true, seed: 1234, ...more });
  return choices.sort((a, b) => a.index - b.index).map((choice, i) => {
    const from = requests[i].context.length, of = (list) => list.slice(from, more.max_tokens === 0 ? undefined : -1);
    const tokens = of(choice.logprobs.token_logprobs), tops = of(choice.logprobs.top_logprobs);
    return { sum: tokens.reduce((a, b) => a + b, 0), greedy: tokens.every((t, k) => t === Math.max(...Object.values(tops[k]))) };
  });
};

await test('scoring: log-likelihoods as an evaluation harness computes them', async () => {
  const context = ids[0].slice(0, 6);
  const { choices: [said] } = await ask({ prompt: context, max_tokens: 8 });
  const greedy = (await idsOf(said.text)).slice(1);
  const requests = [{ context, continuation: ids[0].slice(6) }, { context, continuation: greedy }, { context: ids[1].slice(0, 40), continuation: ids[1].slice(40) }];
  const scores = await harness(requests);
  requests.forEach((r, i) => {
    const expected = reference([...r.context, ...r.continuation]).slice(r.context.length - 1);
    assert.ok(Math.abs(scores[i].sum - expected.reduce((a, b) => a + b.logprob, 0)) < 1e-3);
    assert.equal(scores[i].greedy, expected.every((e) => close(e.logprob, e.best)));
  });
  assert.deepEqual(scores.map((s) => s.greedy).slice(0, 2), [false, true]);
  assert.deepEqual(await harness(requests, { max_tokens: 0 }), scores);
});

await test('scoring: batch, cache and threads change nothing', async () => {
  const body = { prompt: ids[1], max_tokens: 3, echo: true, logprobs: 5, seed: 1 };
  const first = (await ask(body)).choices[0];
  await ask({ prompt: ids[1], max_tokens: 1 }); /* the prompt is in the cache now */
  const busy = Promise.all([1, 2, 3].map((seed) => ask({ prompt: 'Once', max_tokens: 60, seed, temperature: 1 })));
  const together = await Promise.all([ask(body), ask(body), ask(body)]);
  await busy;
  together.forEach((answer) => assert.deepEqual(answer.choices[0], first));
  assert.equal(together[0].usage.prompt_tokens_details.cached_tokens, 0);
  const other = await startEngine(['--threads', '2', '--max-batch-tokens', '19', '--prefix-cache', 'off']);
  const door = await startGateway(other.target);
  await until('ready', 30000, async () => (await get(`${door.url}/health/ready`)).status === 200, door.child);
  assert.deepEqual((await ask(body, door.url)).choices[0], first);
});

await test('scoring: a stream says the same', async () => {
  const body = { prompt: [ids[1], ids[0]], max_tokens: 4, echo: true, logprobs: 2, n: 2, seed: 5, temperature: 1 };
  const whole = await ask(body);
  const { text } = await post(`${gateway.url}/v1/completions`, { ...body, stream: true });
  const chunks = text.split('\n\n').filter((event) => event.startsWith('data: {')).flatMap((event) => JSON.parse(event.slice(6)).choices);
  for (const choice of whole.choices) {
    const mine = chunks.filter((c) => c.index === choice.index), join = (key) => mine.flatMap((c) => c.logprobs?.[key] ?? []);
    assert.equal(mine.map((c) => c.text).join(''), choice.text);
    for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset']) assert.deepEqual(join(key), choice.logprobs[key], key);
  }
});

await test('scoring: over gRPC', async () => {
  const definition = loader.loadSync(['bitnet/v1/inference.proto'], { keepCase: true, defaults: true, oneofs: true, enums: String, includeDirs: [path.join(root, 'proto')] });
  const client = new (grpc.loadPackageDefinition(definition).bitnet.v1.InferenceService)(engine.target, grpc.credentials.createInsecure());
  const call = (request) => new Promise((resolve, reject) => client.Generate(request, (error, answer) => (error ? reject(error) : resolve(answer))));
  const answer = await call({ tokens: { ids: ids[0] }, logprobs: true, prompt_logprobs: true, score_only: true });
  const rest = (await ask({ prompt: ids[0], max_tokens: 0, echo: true, logprobs: 0 })).choices[0].logprobs.token_logprobs;
  assert.ok(Number.isNaN(answer.prompt_logprobs[0].logprob) && answer.prompt_logprobs[0].special);
  assert.deepEqual(answer.prompt_logprobs.slice(1).map((t) => Math.fround(t.logprob)), rest.slice(1).map(Math.fround));
  assert.equal(answer.choices[0].text, '');
  await assert.rejects(call({ prompt: 'Once', score_only: true }), (error) => error.code === grpc.status.INVALID_ARGUMENT && /score_only/.test(error.details));
  client.close();
});

await test('scoring: what cannot be is refused', async () => {
  for (const body of [{ max_tokens: 0 }, { max_tokens: 0, echo: true }, { max_tokens: 0, logprobs: 1 }, { max_tokens: 0, echo: true, logprobs: 1, n: 2 }]) {
    const { status, json } = await post(`${gateway.url}/v1/completions`, { model: 'tales', prompt: 'Once', ...body });
    assert.deepEqual([status, json.error.param], [400, 'max_tokens']);
  }
});

rmSync(dir, { recursive: true });
await done();
