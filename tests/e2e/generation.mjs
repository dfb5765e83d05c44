// What a generation does at its borders: stop strings across tokens, biases, end-of-generation tokens, seeds and choices, log-probabilities, the end
// of the context. Once as one answer and once as a stream, which must agree.
import assert from 'node:assert/strict';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, haveModel, post, root, startPair, test } from './lib/harness.mjs';

if (!haveModel) {
  console.log('skip generation the demo model is not there');
  await done();
}
const { engine, gateway } = await startPair(['--log-level', 'warn'], ['--log-level', 'warn']);
const definition = loader.loadSync('bitnet/v1/inference.proto', { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
                                                                   includeDirs: [path.join(root, 'proto')] });
const client = new (grpc.loadPackageDefinition(definition).bitnet.v1.InferenceService)(engine.target, grpc.credentials.createInsecure());
const unary = (method, request) => new Promise((resolve, reject) =>
  client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))));
const once = (request) => unary('Generate', request);
// The stream's events put together to what Generate answers.
const streamed = (request) => new Promise((resolve, reject) => {
  let answer;
  const n = request.n ?? 1;
  const choices = Array.from({ length: n }, (_, index) => ({ index, text: '', token_ids: [], finish_reason: '', logprobs: [] }));
  client.StreamGenerate(request).on('error', reject).on('end', () => resolve({ ...answer, choices })).on('data', (event) => {
    if (event.event === 'token') {
      const c = choices[event.token.choice];
      assert.equal(event.token.position, c.token_ids.length);
      for (const t of event.token.tokens) {
        c.text += t.text;
        c.token_ids.push(t.id);
        if (t.logprob) c.logprobs.push(t.logprob);
      }
    } else if (event.event === 'choice_end') choices[event.choice_end.choice].finish_reason = event.choice_end.finish_reason;
    else answer = event.complete;
  });
});
const both = async (request) => {
  const [a, b] = await Promise.all([once(request), streamed(request)]);
  assert.deepEqual(b.choices, a.choices);
  assert.deepEqual([b.usage.prompt_tokens, b.usage.completion_tokens], [a.usage.prompt_tokens, a.usage.completion_tokens]);
  if (request.sampling.seed) assert.deepEqual([a.seed, b.seed], [request.sampling.seed, request.sampling.seed]);
  return a;
};
const rejects = async (promise, pattern) => {
  const error = await promise.then(() => assert.fail('the call succeeded'), (e) => e);
  assert.equal(error.code, grpc.status.INVALID_ARGUMENT, error.message);
  assert.match(error.details, pattern);
};
const STOP = 'FINISH_REASON_STOP', LENGTH = 'FINISH_REASON_LENGTH';
const request = { prompt: 'Once upon a time there was a king', max_tokens: 40, ignore_eos: true, sampling: { seed: '7', temperature: 1, top_k: 0, top_p: 1 } };

// The ids that end a generation: the tokenizer's special tokens by their names.
let eog;
for (const name of ['<|end_of_text|>', '<|eot_id|>']) {
  const { ids } = await unary('Tokenize', { text: name, parse_special: true });
  if (ids.length === 1) eog = ids[0];
}
const endBias = [{ token_id: eog, bias: 100 }];

await test('generation: a stop string across the border of two tokens, of three, and inside of one ends the text before it', async () => {
  const whole = (await once(request)).choices[0];
  const pieces = (await unary('Detokenize', { ids: whole.token_ids })).text === whole.text && (await unary('Tokenize', { text: whole.text })).pieces;
  assert.ok(pieces.length > 20);
  const texts = whole.token_ids.map(() => '');
  (await new Promise((resolve) => { const all = []; client.StreamGenerate(request).on('data', (e) => { if (e.token) all.push(...e.token.tokens); }).on('end', () => resolve(all)); }))
    .forEach((t, i) => { texts[i] = t.text; });
  let n = 0;
  for (let i = 1; i + 2 < texts.length; i += 4) {
    for (const stop of [texts[i].slice(-2) + texts[i + 1].slice(0, 2), texts[i].slice(-1) + texts[i + 1] + texts[i + 2].slice(0, 1), texts[i].slice(1, 3) || texts[i]]) {
      const at = whole.text.indexOf(stop);
      assert.ok(at >= 0 && stop.length > 0);
      const { choices: [c], usage } = await both({ ...request, stop: ['never to be found', stop], logprobs: n % 2 === 0 });
      assert.equal(c.text, whole.text.slice(0, at), JSON.stringify(stop));
      assert.equal(c.finish_reason, STOP);
      assert.deepEqual(c.token_ids, whole.token_ids.slice(0, c.token_ids.length));
      assert.equal(usage.completion_tokens, c.token_ids.length);
      assert.equal(c.logprobs.length, n % 2 === 0 ? c.token_ids.length : 0);
      // The tokens end with the one that completes the string.
      assert.ok(texts.slice(0, c.token_ids.length).join('').length >= at + stop.length);
      assert.ok(texts.slice(0, c.token_ids.length - 1).join('').length < at + stop.length);
      n++;
    }
  }
  assert.ok(n > 20);
});

await test('generation: of stop strings the first to be complete counts; one that the end leaves open is text', async () => {
  const whole = (await once(request)).choices[0].text;
  const { choices: [first] } = await both({ ...request, stop: [whole.slice(20, 40), whole.slice(24, 27), whole.slice(22, 27)] });
  const ends = [whole.slice(20, 40), whole.slice(24, 27), whole.slice(22, 27)].map((s) => [whole.indexOf(s) + s.length, -s.length]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  assert.equal(first.text, whole.slice(0, ends[0][0] + ends[0][1]));
  const { choices: [open] } = await both({ ...request, stop: [`${whole.slice(-6)} and this never comes`] });
  assert.equal(open.text, whole);
  assert.equal(open.finish_reason, LENGTH);
});

await test('generation: each choice stops by itself', async () => {
  const r = { ...request, n: 4 };
  const whole = (await both(r)).choices;
  const stop = whole[2].text.slice(30, 36);
  const { choices, usage } = await both({ ...r, stop: [stop] });
  choices.forEach((c, i) => {
    const at = whole[i].text.indexOf(stop);
    assert.equal(c.text, at < 0 ? whole[i].text : whole[i].text.slice(0, at));
    assert.equal(c.finish_reason, at < 0 ? LENGTH : STOP);
  });
  assert.equal(choices[2].finish_reason, STOP);
  assert.equal(usage.completion_tokens, choices.reduce((sum, c) => sum + c.token_ids.length, 0));
});

await test('generation: a bias of -100 keeps a token out, one of 100 brings nothing else, and a grammar stands above', async () => {
  const greedy = { ...request, sampling: { temperature: 0 } };
  const plain = (await both(greedy)).choices[0].token_ids;
  const banned = [...new Set(plain)].slice(0, 300);
  for (const sampling of [{ temperature: 0 }, { temperature: 1, seed: '3', top_k: 40 }, { temperature: 1.5, seed: '4', top_k: 0, top_p: 0.9 }, { temperature: 2, seed: '5', top_k: 0, top_p: 1 }]) {
    const out = await both({ ...request, sampling: { ...sampling, logit_bias: banned.map((token_id) => ({ token_id, bias: -100 })) } });
    assert.ok(!out.choices[0].token_ids.some((id) => banned.includes(id)), JSON.stringify(sampling));
    const only = await both({ ...request, n: 2, sampling: { ...sampling, logit_bias: [{ token_id: plain[5], bias: 100 }] } });
    for (const c of only.choices) assert.deepEqual(new Set(c.token_ids), new Set([plain[5]]));
  }
  const held = await both({ ...request, ignore_eos: false, response_format: { regex: '(yes|no)' }, sampling: { temperature: 1, seed: '1', logit_bias: [{ token_id: plain[5], bias: 100 }] } });
  assert.match(held.choices[0].text, /^(yes|no)$/);
  // Said twice, biases add up or the last counts; either way both calls agree and nothing breaks.
  await both({ ...greedy, sampling: { temperature: 0, logit_bias: [{ token_id: plain[0], bias: -100 }, { token_id: plain[0], bias: -100 }] } });
  await rejects(once({ ...request, sampling: { logit_bias: [{ token_id: 1, bias: 101 }] } }), /bias/);
  await rejects(once({ ...request, sampling: { logit_bias: [{ token_id: 99999999, bias: 1 }] } }), /bias/);
});

await test('generation: an end-of-generation token ends an answer without being part of it, ignore_eos goes on past it', async () => {
  assert.ok(eog > 0);
  const sampling = { temperature: 1, seed: '1', logit_bias: endBias };
  const ended = await both({ ...request, n: 3, ignore_eos: false, logprobs: true, top_logprobs: 3, sampling });
  for (const c of ended.choices) assert.deepEqual([c.text, c.token_ids, c.finish_reason, c.logprobs], ['', [], STOP, []]);
  assert.equal(ended.usage.completion_tokens, 0);
  const best = await once({ ...request, n: 2, best_of: 4, ignore_eos: false, sampling });
  assert.deepEqual(best.choices.map((c) => [c.index, c.text]), [[0, ''], [1, '']]);
  const on = await both({ ...request, n: 2, ignore_eos: true, sampling });
  for (const c of on.choices) assert.deepEqual([c.token_ids.length, new Set(c.token_ids), c.finish_reason, c.text], [40, new Set([eog]), LENGTH, '']);
});

await test('generation: a choice depends on seed and number only, and every seed of 64 bits is told back', async () => {
  for (const seed of ['0', '4294967295', '9007199254740993', '18446744073709551615']) {
    const sampling = { ...request.sampling, seed };
    const eight = await both({ ...request, n: 8, sampling }), three = await both({ ...request, n: 3, sampling }), one = await once({ ...request, sampling });
    assert.deepEqual(three.choices, eight.choices.slice(0, 3));
    assert.deepEqual(one.choices, eight.choices.slice(0, 1));
    assert.equal(new Set(eight.choices.map((c) => c.text)).size, 8);
    assert.equal(eight.seed, seed);
  }
  const first = await once({ ...request, sampling: { temperature: 1 } }), again = await once({ ...request, sampling: { temperature: 1, seed: first.seed } });
  assert.deepEqual(again.choices[0].token_ids, first.choices[0].token_ids);
  const greedy = await both({ ...request, n: 3, sampling: { temperature: 0 } });
  assert.equal(new Set(greedy.choices.map((c) => c.text)).size, 1);
});

await test('generation: log-probabilities of each choice are descending, sum to less than 1 and hold the token that was drawn', async () => {
  for (const sampling of [{ temperature: 0 }, { temperature: 1.5, seed: '9', top_k: 0, top_p: 1 }, { seed: '9', presence_penalty: 1, repetition_penalty: 1.3 }]) {
    const r = { ...request, n: 3, sampling };
    const plain = await once(r), told = await both({ ...r, logprobs: true, top_logprobs: 20 }), bare = await both({ ...r, logprobs: true });
    told.choices.forEach((c, i) => {
      assert.deepEqual(c.token_ids, plain.choices[i].token_ids);
      assert.equal(c.logprobs.length, c.token_ids.length);
      assert.deepEqual(bare.choices[i].logprobs.map((l) => l.logprob), c.logprobs.map((l) => l.logprob));
      assert.ok(bare.choices[i].logprobs.every((l) => l.top.length === 0));
      c.logprobs.forEach((l, k) => {
        assert.equal(l.token_id, c.token_ids[k]);
        assert.equal(l.top.length, 20);
        for (let j = 1; j < 20; j++) assert.ok(l.top[j].logprob <= l.top[j - 1].logprob);
        assert.ok(l.top.reduce((sum, t) => sum + Math.exp(t.logprob), 0) < 1.0001);
        const found = l.top.find((t) => t.token_id === l.token_id);
        if (found) assert.equal(found.logprob, l.logprob);
        else assert.ok(l.logprob <= l.top[19].logprob);
        if (sampling.temperature === 0) assert.equal(l.top[0].token_id, l.token_id);
      });
    });
  }
  await rejects(once({ ...request, top_logprobs: 2 }), /logprobs/);
  await rejects(once({ ...request, logprobs: true, top_logprobs: 21 }), /top_logprobs/);
});

await test('generation: the context ends an answer, whatever max_tokens, and a prompt that fills it is refused', async () => {
  const { ids: [id] } = await unary('Tokenize', { text: 'a' });
  const { choices: [all] } = await once({ tokens: { ids: [id] }, max_tokens: 1000000, ignore_eos: true, sampling: { temperature: 0 } });
  const context = all.token_ids.length + 1;
  for (const left of [1, 2, 33]) {
    const r = { tokens: { ids: Array(context - left).fill(id) }, ignore_eos: true, sampling: { temperature: 0 } };
    for (const max_tokens of [left, left + 1, 4294967295]) {
      const answer = await both({ ...r, n: 2, max_tokens, logprobs: true });
      for (const c of answer.choices) assert.deepEqual([c.token_ids.length, c.finish_reason, c.logprobs.length], [left, LENGTH, left]);
      assert.deepEqual([answer.usage.prompt_tokens, answer.usage.completion_tokens], [context - left, 2 * left]);
    }
  }
  await rejects(once({ tokens: { ids: Array(context).fill(id) }, max_tokens: 1 }), /context/);
});

await test('generation: over REST a stop string, a bias and the end of the context do the same', async () => {
  const r = { prompt: 'Once upon a time there was a king', max_tokens: 40, seed: 7, temperature: 1, top_p: 1, top_k: -1 };
  const whole = (await post(`${gateway.url}/v1/completions`, r)).json.choices[0];
  const stop = whole.text.slice(21, 26), at = whole.text.indexOf(stop);
  const stopped = (await post(`${gateway.url}/v1/completions`, { ...r, stop })).json.choices[0];
  assert.deepEqual([stopped.text, stopped.finish_reason], [whole.text.slice(0, at), 'stop']);
  const ended = (await post(`${gateway.url}/v1/completions`, { ...r, logprobs: 2, logit_bias: { [eog]: 100 } })).json;
  assert.deepEqual([ended.choices[0].text, ended.choices[0].finish_reason, ended.usage.completion_tokens], ['', 'stop', 0]);
  const long = (await post(`${gateway.url}/v1/completions`, { ...r, prompt: Array(2047).fill(100), max_tokens: 1000, n: 2, seed: -1 })).json;
  assert.deepEqual([long.choices.map((c) => c.finish_reason), long.usage.completion_tokens], [['length', 'length'], 2]);
});

await done();
