// OpenAI's own client against the gateway.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { done, freePort, get, model, post, start, startEngine, startGateway, startPair, test, until } from './lib/harness.mjs';

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

await test('openai: a stream of several choices, each with its role, its text and its end', async () => {
  const request = { model: 'tales', messages, max_tokens: 12, seed: 2, temperature: 1, n: 3 };
  const whole = await client.chat.completions.create(request);
  const chunks = await collect(await client.chat.completions.create({ ...request, stream: true }));
  for (const { index, message, finish_reason } of whole.choices) {
    const mine = chunks.flatMap((c) => c.choices).filter((c) => c.index === index);
    assert.deepEqual(mine[0].delta, { role: 'assistant', content: '' });
    assert.equal(mine.map((c) => c.delta.content ?? '').join(''), message.content);
    assert.deepEqual(mine.map((c) => c.finish_reason).filter(Boolean), [finish_reason]);
  }
  assert.ok(chunks.every((c) => !('usage' in c) && c.object === 'chat.completion.chunk' && c.model === whole.model));
  assert.deepEqual(new Set(chunks.map((c) => c.system_fingerprint)), new Set([whole.system_fingerprint]));
  assert.match(whole.system_fingerprint, /^fp_[0-9a-f]{12}$/);
});

await test('openai: the same seed and fingerprint give the same answer', async () => {
  const ask = (seed) => client.chat.completions.create({ model: 'tales', messages, max_tokens: 15, seed, temperature: 1.2 });
  const [a, b, other] = await Promise.all([ask(11), ask(11), ask(12)]);
  assert.deepEqual(a.choices, b.choices);
  assert.equal(a.system_fingerprint, b.system_fingerprint);
  assert.notDeepEqual(a.choices, other.choices);
});

await test('openai: parsed answers by a schema', async () => {
  const schema = z.object({ animal: z.enum(['fox', 'rabbit']), legs: z.number().int().min(2).max(4), tame: z.boolean() });
  const answer = await client.chat.completions.parse({ model: 'tales', messages, max_tokens: 200, seed: 1, response_format: zodResponseFormat(schema, 'animal') });
  assert.deepEqual(schema.parse(answer.choices[0].message.parsed), answer.choices[0].message.parsed);
  assert.equal(answer.choices[0].message.refusal, null);
});

await test('openai: log-probabilities have their shapes', async () => {
  const { choices: [{ logprobs, message }] } = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 8, seed: 1, logprobs: true, top_logprobs: 2 });
  assert.equal(logprobs.refusal, null);
  assert.equal(Buffer.concat(logprobs.content.map((t) => Buffer.from(t.bytes))).toString(), message.content);
  for (const t of logprobs.content) {
    assert.deepEqual(Object.keys(t).sort(), ['bytes', 'logprob', 'token', 'top_logprobs']);
    assert.ok(t.top_logprobs[0].logprob >= t.logprob && t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob);
  }
  const legacy = (await client.completions.create({ model: 'tales', prompt: 'Once upon a time', max_tokens: 6, seed: 1, temperature: 2, logprobs: 1 })).choices[0];
  assert.equal(legacy.logprobs.tokens.join(''), legacy.text);
  legacy.logprobs.tokens.forEach((token, i) => {
    assert.equal(legacy.logprobs.top_logprobs[i][token], legacy.logprobs.token_logprobs[i]); /* the one that was drawn is always there */
    assert.equal(legacy.text.slice(legacy.logprobs.text_offset[i], legacy.logprobs.text_offset[i] + token.length), token);
  });
});

await test('openai: prompts in all their forms', async () => {
  const { json: { tokens } } = await post(`${gateway.url}/tokenize`, { text: 'Once upon a time', add_special: true });
  const ask = (prompt) => client.completions.create({ model: 'tales', prompt, max_tokens: 6, temperature: 0 });
  const [text, texts, ids, lists] = await Promise.all(['Once upon a time', ['Once upon a time', 'Once upon a time'], tokens, [tokens, tokens]].map(ask));
  assert.equal(ids.choices[0].text, text.choices[0].text);
  for (const two of [texts, lists]) assert.deepEqual(two.choices.map((c) => [c.index, c.text]), [[0, text.choices[0].text], [1, text.choices[0].text]]);
  assert.equal(texts.usage.prompt_tokens, 2 * text.usage.prompt_tokens);
  const echoed = await client.completions.create({ model: 'tales', prompt: tokens, max_tokens: 6, temperature: 0, echo: true });
  assert.equal(echoed.choices[0].text, 'Once upon a time' + text.choices[0].text);
});

await test('openai: messages in all their forms', async () => {
  const ask = (list, more = {}) => client.chat.completions.create({ model: 'tales', messages: list, max_completion_tokens: 8, temperature: 0, ...more });
  const text = (await ask([{ role: 'system', content: 'Be kind.' }, ...messages])).choices[0];
  const parts = await ask([{ role: 'developer', content: [{ type: 'text', text: 'Be ' }, { type: 'text', text: 'kind.' }] }, { ...messages[0], name: 'ann' }]);
  assert.deepEqual(parts.choices[0], text);
  const none = { max_tokens: null, tools: null, tool_choice: null, stop: null, logprobs: null, response_format: null, stream_options: null, logit_bias: null };
  assert.deepEqual((await ask([{ role: 'system', content: 'Be kind.' }, ...messages], { ...none, user: 'ann', metadata: {}, made_up: [1] })).choices[0], text);
  for (const content of [[{ type: 'image_url', image_url: { url: 'data:,' } }], [{ type: 'input_audio', input_audio: {} }], 7, null])
    await assert.rejects(ask([{ role: 'user', content }]), (error) => error instanceof OpenAI.BadRequestError && error.param === 'messages[0].content');
});

await test('openai: what the API has and this server has not is refused by name', async () => {
  for (const [field, value] of [['audio', {}], ['functions', [{ name: 'f' }]], ['function_call', { name: 'f' }], ['prediction', { type: 'content', content: '' }],
    ['web_search_options', {}], ['store', true], ['modalities', ['audio']], ['reasoning_effort', 'high'], ['service_tier', 'flex'], ['verbosity', 'low']]) {
    const error = await client.chat.completions.create({ model: 'tales', messages, [field]: value }).then(() => assert.fail(field), (e) => e);
    assert.ok(error instanceof OpenAI.BadRequestError && error.param === field && error.type === 'invalid_request_error', `${field}: ${error}`);
  }
  const refuses = (promise, param) => assert.rejects(promise, (error) => error instanceof OpenAI.BadRequestError && error.param === param);
  await refuses(client.completions.create({ model: 'tales', prompt: 'a', suffix: 'b' }), 'suffix');
  await refuses(client.embeddings.create({ model: 'tales', input: 'a' }), 'model');
});

await test('openai: the client comes back when the engine does', async () => {
  const port = await freePort(), admin = await freePort();
  const door = await startGateway(`127.0.0.1:${port}`);
  const seen = [];
  const patient = new OpenAI({ baseURL: `${door.url}/v1`, apiKey: 'none', maxRetries: 8,
    fetch: async (...args) => { const r = await fetch(...args); seen.push([r.status, r.headers.get('retry-after')]); return r; } });
  const answer = patient.chat.completions.create({ model: 'tales', messages, max_tokens: 5 });
  answer.catch(() => {});
  await until('a refusal', 10000, async () => seen.length > 0, door.child);
  await assert.rejects(new OpenAI({ baseURL: `${door.url}/v1`, apiKey: 'none', maxRetries: 0 }).models.list(), (e) => e instanceof OpenAI.InternalServerError && e.status === 503);
  const engine = start('bitnet-engine', ['--model', model, '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${admin}`]);
  await until('engine ready', 30000, async () => (await get(`http://127.0.0.1:${admin}/health/ready`)).status === 200, engine);
  assert.ok((await answer).choices[0].message.content.length > 0);
  assert.equal(seen.at(-1)[0], 200);
  for (const [status, after] of seen.slice(0, -1)) assert.ok(status === 503 && Number(after) >= 1, JSON.stringify(seen));
});

await test('openai: the client waits as long as a 429 says, and then gets its answer', async () => {
  const slow = await startEngine(['--null-model', '--null-step-us', '20000']);
  const door = await startGateway(slow.target, ['--client-concurrency', '1']);
  await until('ready', 30000, async () => (await get(`${door.url}/health/ready`)).status === 200, door.child);
  const controller = new AbortController(), seen = [];
  const held = await fetch(`${door.url}/v1/inference/stream`, { method: 'POST', signal: controller.signal, headers: { 'content-type': 'application/json' },
                                                                body: JSON.stringify({ prompt: 'Once', max_tokens: 1900 }) });
  assert.equal(held.status, 200);
  await assert.rejects(new OpenAI({ baseURL: `${door.url}/v1`, apiKey: 'none', maxRetries: 0 }).completions.create({ model: 'null-model', prompt: 'a', max_tokens: 1 }),
                       (e) => e instanceof OpenAI.RateLimitError && e.status === 429);
  const patient = new OpenAI({ baseURL: `${door.url}/v1`, apiKey: 'none', maxRetries: 8,
    fetch: async (...args) => { const r = await fetch(...args); seen.push([r.status, r.headers.get('retry-after')]); if (seen.length === 1) controller.abort(); return r; } });
  const answer = await patient.completions.create({ model: 'null-model', prompt: 'a', max_tokens: 2 });
  assert.equal(answer.usage.completion_tokens, 2);
  assert.deepEqual(seen[0], [429, '1']);
  assert.equal(seen.at(-1)[0], 200);
});

await test('openai: a stream that the client aborts ends without error', async () => {
  const stream = await client.chat.completions.create({ model: 'tales', messages, max_tokens: 1500, stream: true });
  let count = 0;
  for await (const chunk of stream) if (chunk && ++count === 5) break;
  assert.equal(count, 5);
});

await done();
