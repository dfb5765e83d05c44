// OpenAI's own client against the gateway.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { done, startPair, test } from './lib/harness.mjs';

const { gateway } = await startPair();
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'none', maxRetries: 0 });
const messages = [{ role: 'user', content: 'Tell me a tale about a rabbit.' }];
const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};

await test('openai: chat completion', async () => {
  const answer = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 40, seed: 1 });
  assert.equal(answer.object, 'chat.completion');
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.ok(answer.choices[0].message.content.length > 20);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

await test('openai: chat stream gives the same text, with usage at the end', async () => {
  const whole = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 40, seed: 1 });
  const chunks = await collect(await client.chat.completions.create({ model: 'tales', messages, max_tokens: 40, seed: 1,
    stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
  assert.equal(chunks.flatMap((c) => c.choices).map((c) => c.delta.content ?? '').join(''), whole.choices[0].message.content);
  assert.equal(new Set(chunks.map((c) => c.id + c.created)).size, 1);
  const last = chunks.filter((c) => c.choices.length).at(-1);
  assert.deepEqual(last.choices[0].delta, {});
  assert.ok(['stop', 'length'].includes(last.choices[0].finish_reason));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.deepEqual(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
  assert.ok(chunks.slice(0, -1).every((c) => c.usage === null));
});

await test('openai: completion and its stream', async () => {
  const request = { model: 'tales', prompt: 'Once upon a time', max_tokens: 30, seed: 5 };
  const whole = await client.completions.create(request);
  assert.equal(whole.object, 'text_completion');
  assert.match(whole.id, /^cmpl-/);
  const chunks = await collect(await client.completions.create({ ...request, stream: true }));
  assert.equal(chunks.flatMap((c) => c.choices).map((c) => c.text).join(''), whole.choices[0].text);
});

await test('openai: n, stop, logprobs', async () => {
  const answer = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 20, seed: 3, n: 2, logprobs: true, top_logprobs: 3 });
  assert.deepEqual(answer.choices.map((c) => c.index), [0, 1]);
  for (const choice of answer.choices) {
    assert.ok(choice.logprobs.content.length > 0);
    for (const entry of choice.logprobs.content) assert.equal(entry.top_logprobs.length, 3);
  }
  const word = answer.choices[0].message.content.trim().split(/\s+/)[3];
  const stopped = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 20, seed: 3, stop: [word] });
  assert.ok(!stopped.choices[0].message.content.includes(word));
  assert.equal(stopped.choices[0].finish_reason, 'stop');
});

await test('openai: best_of gives the likeliest completions and counts all tokens', async () => {
  const request = { model: 'tales', prompt: ['Once upon a time', 'The old king'], max_tokens: 20, seed: 4, temperature: 1.3, top_p: 1 };
  const all = await client.completions.create({ ...request, n: 5, logprobs: 0 });
  const mean = (c) => c.logprobs.token_logprobs.reduce((a, b) => a + b) / c.logprobs.token_logprobs.length;
  const expected = [0, 5].flatMap((at) => all.choices.slice(at, at + 5).sort((a, b) => mean(b) - mean(a)).slice(0, 2));
  const best = await client.completions.create({ ...request, n: 2, best_of: 5 });
  assert.deepEqual(best.choices.map((c) => c.index), [0, 1, 2, 3]);
  assert.deepEqual(best.choices.map((c) => c.text), expected.map((c) => c.text));
  assert.ok(best.choices.every((c) => c.logprobs === null));
  assert.equal(best.usage.completion_tokens, all.usage.completion_tokens);
  await assert.rejects(client.completions.create({ ...request, n: 3, best_of: 2 }), OpenAI.BadRequestError);
  await assert.rejects(client.completions.create({ ...request, best_of: 2, stream: true }), OpenAI.BadRequestError);
  await collect(await client.completions.create({ ...request, best_of: 1, stream: true }));
});

await test('openai: temperature 0 is repeatable', async () => {
  const texts = await Promise.all([1, 2, 3].map(async () =>
    (await client.chat.completions.create({ model: 'tales', messages, max_tokens: 30, temperature: 0 })).choices[0].message.content));
  assert.equal(new Set(texts).size, 1);
});

await test('openai: models', async () => {
  const list = await collect(await client.models.list());
  assert.deepEqual(list.map((m) => m.id), ['tales']);
  assert.equal((await client.models.retrieve('tales')).id, 'tales');
});

await test('openai: errors have the client\'s classes', async () => {
  await assert.rejects(client.chat.completions.create({ model: 'nobody', messages }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model: 'tales', messages, temperature: 9 }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model: 'tales', messages: [] }), OpenAI.BadRequestError);
});

await test('openai: a stream that the client aborts ends without error', async () => {
  const stream = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 1500, stream: true });
  let count = 0;
  for await (const chunk of stream) if (chunk && ++count === 5) break;
  assert.equal(count, 5);
});

await done();
