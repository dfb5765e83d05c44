// Tools with OpenAI's own client: the demo model's calls are silly in what they say and right in their form.
import assert from 'node:assert/strict';
import Ajv from 'ajv/dist/2020.js';
import OpenAI from 'openai';
import { zodFunction } from 'openai/helpers/zod';
import { z } from 'zod';
import { done, post, startPair, test } from './lib/harness.mjs';

const { gateway } = await startPair();
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'none', maxRetries: 0 });
const parameters = { type: 'object', additionalProperties: false, required: ['city', 'days'],
  properties: { city: { enum: ['Rome', 'Oslo', 'Kyōto "1"'] }, days: { type: 'integer', minimum: 1, maximum: 9 }, where: { $ref: '#/$defs/where' } },
  $defs: { where: { type: 'object', properties: { lat: { type: 'integer', maximum: 90, minimum: -90 } }, required: ['lat'], additionalProperties: false } } };
const weather = { type: 'function', function: { name: 'get_weather', description: 'The weather of a city', parameters, strict: true } };
const clock = { type: 'function', function: { name: 'clock', parameters: { type: 'object', properties: {}, additionalProperties: false } } };
const valid = new Ajv({ strict: false }).compile(parameters);
const request = { model: 'tales', messages: [{ role: 'user', content: 'How is the weather?' }], tools: [weather, clock], max_tokens: 400, temperature: 1 };
const ask = (more) => client.chat.completions.create({ ...request, ...more });
const checkCalls = (calls) => {
  for (const call of calls) {
    assert.match(call.id, /^call_[0-9a-f]{24}$/);
    assert.equal(call.type, 'function');
    const args = JSON.parse(call.function.arguments);
    if (call.function.name === 'get_weather') assert.ok(valid(args), call.function.arguments);
    else assert.deepEqual([call.function.name, args], ['clock', {}]);
  }
  assert.equal(new Set(calls.map((call) => call.id)).size, calls.length);
};

await test('openai tools: a call that is required, alone or with others', async () => {
  const counts = new Set();
  for (let seed = 0; seed < 3; seed++) {
    const { choices: [one] } = await ask({ tool_choice: 'required', parallel_tool_calls: false, seed });
    assert.equal(one.finish_reason, 'tool_calls');
    assert.equal(one.message.content, null);
    assert.equal(one.message.tool_calls.length, 1);
    checkCalls(one.message.tool_calls);
    const { choices: [several] } = await ask({ tool_choice: 'required', max_tokens: 600, tools: [clock], seed, top_p: 1 });
    assert.equal(several.finish_reason, 'tool_calls');
    checkCalls(several.message.tool_calls);
    counts.add(several.message.tool_calls.length);
  }
  assert.ok(Math.max(...counts) > 1 && Math.max(...counts) <= 8, `calls: ${[...counts]}`);
});

await test('openai tools: the function that is named, for each of several choices', async () => {
  const { choices } = await ask({ tool_choice: { type: 'function', function: { name: 'get_weather' } }, parallel_tool_calls: false, n: 3, seed: 5, top_p: 1 });
  assert.deepEqual(choices.map((c) => c.message.tool_calls[0].function.name), Array(3).fill('get_weather'));
  choices.forEach((c) => checkCalls(c.message.tool_calls));
});

await test('openai tools: auto lets the model speak, none forbids calls', async () => {
  for (const tool_choice of ['auto', 'none']) {
    const { choices: [choice] } = await ask({ tool_choice, seed: 1, max_tokens: 40 });
    assert.ok(choice.message.content.length > 10);
    assert.equal(choice.message.tool_calls, undefined);
  }
  const [none, without] = await Promise.all([ask({ tool_choice: 'none', max_tokens: 1 }), ask({ tools: undefined, max_tokens: 1 })]);
  assert.equal(none.usage.prompt_tokens, without.usage.prompt_tokens); // the model is told of tools only where it may call one
  assert.ok((await ask({ max_tokens: 1 })).usage.prompt_tokens > without.usage.prompt_tokens + 100);
});

await test('openai tools: auto with a format is a call or the format', async () => {
  const { json } = await post(`${gateway.url}/tokenize`, { text: '<' });
  const bias = json.tokens.at(-1);
  const response_format = { type: 'json_schema', json_schema: { name: 'n', schema: { type: 'object', properties: { n: { type: 'integer', minimum: 1, maximum: 99 } }, required: ['n'] } } };
  const call = await ask({ response_format, logit_bias: { [bias]: 100 }, parallel_tool_calls: false });
  checkCalls(call.choices[0].message.tool_calls);
  const words = await ask({ response_format, logit_bias: { [bias]: -100 } });
  assert.ok(JSON.parse(words.choices[0].message.content).n >= 1);
  assert.equal(words.choices[0].finish_reason, 'stop');
});

await test('openai tools: streams put the same call together', async () => {
  const more = { tools: [weather], tool_choice: 'required', parallel_tool_calls: false, seed: 3 };
  const whole = (await ask(more)).choices[0].message.tool_calls[0].function;
  const chunks = [];
  for await (const chunk of await ask({ ...more, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  const calls = chunks.flatMap((c) => c.choices).flatMap((c) => c.delta.tool_calls ?? []);
  assert.deepEqual({ ...calls[0], id: '' }, { index: 0, id: '', type: 'function', function: { name: whole.name, arguments: '' } });
  assert.ok(calls.slice(1).every((c) => c.index === 0 && c.id === undefined && c.function.name === undefined));
  assert.equal(calls.map((c) => c.function.arguments).join(''), whole.arguments);
  assert.ok(calls.length > 4);
  assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: null });
  assert.deepEqual(chunks.filter((c) => c.choices.length).at(-1).choices[0], { index: 0, delta: {}, logprobs: null, finish_reason: 'tool_calls' });
  assert.ok(chunks.at(-1).usage.completion_tokens > 10);
  const helped = await client.chat.completions.stream({ ...request, ...more }).finalChatCompletion();
  assert.equal(helped.choices[0].message.tool_calls[0].function.arguments, whole.arguments);
  assert.equal(helped.choices[0].finish_reason, 'tool_calls');
});

await test('openai tools: what a tool answered goes back to the model', async () => {
  const first = (await ask({ tool_choice: 'required', parallel_tool_calls: false, seed: 2 })).choices[0].message;
  const messages = [{ role: 'developer', content: 'Tell tales.' }, ...request.messages, first,
    { role: 'tool', tool_call_id: first.tool_calls[0].id, content: 'Sunny, 21 degrees.' }];
  const answer = await ask({ messages, seed: 2, max_tokens: 30 });
  assert.ok(answer.choices[0].message.content.length > 5);
  assert.ok(answer.usage.prompt_tokens > (await ask({ max_tokens: 1 })).usage.prompt_tokens + 30);
  const parts = messages.map((m) => (m.role === 'tool' ? { ...m, content: [{ type: 'text', text: m.content }] } : m));
  assert.equal((await ask({ messages: parts, seed: 2, max_tokens: 30 })).choices[0].message.content, answer.choices[0].message.content);
});

await test('openai tools: the client\'s helper runs a function', async () => {
  const seen = [];
  const tool = zodFunction({ name: 'forecast', parameters: z.object({ city: z.enum(['Rome', 'Oslo']), days: z.number().int().min(1).max(5) }),
    function: (args) => { seen.push(args); return 'rain'; } });
  const runner = client.chat.completions.runTools({ ...request, tools: [tool], parallel_tool_calls: false, tool_choice: { type: 'function', function: { name: 'forecast' } }, seed: 4 });
  await runner.done();
  assert.equal(seen.length, 1);
  assert.ok(['Rome', 'Oslo'].includes(seen[0].city) && seen[0].days >= 1 && seen[0].days <= 5);
  assert.deepEqual(runner.messages.at(-1).content, 'rain');
});

await test('openai tools: schemas beyond what is supported', async () => {
  const odd = (strict) => [{ type: 'function', function: { name: 'odd', strict, parameters: { type: 'object', properties: { a: { not: { type: 'null' } } } } } }];
  const refused = await ask({ tools: odd(true) }).then(() => assert.fail('it was accepted'), (error) => error);
  assert.ok(refused instanceof OpenAI.BadRequestError);
  assert.equal(refused.param, 'tools');
  assert.match(refused.message, /tools\[0\]\.parameters: schema at #\/properties\/a\/not/);
  const tokens = (await Promise.all(['"', '}'].map((text) => post(`${gateway.url}/tokenize`, { text })))).map((r) => r.json.tokens.at(-1));
  const loose = await ask({ tools: odd(false), tool_choice: 'required', parallel_tool_calls: false, seed: 1, logit_bias: { [tokens[0]]: 9, [tokens[1]]: 22 } });
  assert.equal(typeof JSON.parse(loose.choices[0].message.tool_calls[0].function.arguments), 'object');
});

await test('openai tools: faults name their place', async () => {
  const message = (m) => ({ messages: [...request.messages, m] });
  for (const [more, param] of [
    [{ tools: [{ type: 'retrieval' }] }, 'tools[0].type'],
    [{ tools: [{ type: 'function', function: { name: 'no spaces' } }] }, 'tools[0].function.name'],
    [{ tool_choice: 'any' }, 'tool_choice'],
    [{ tool_choice: { type: 'function', function: { name: 'nobody' } } }, 'tool_choice'],
    [{ tools: undefined, tool_choice: 'required' }, 'tool_choice'],
    [message({ role: 'tool', content: 'x', tool_call_id: 'call_1' }), 'messages[1].tool_call_id'],
    [{ tools: undefined, functions: [{ name: 'f' }] }, 'functions'],
    [{ response_format: { type: 'regex', pattern: 'a' } }, 'response_format'],
  ]) {
    const error = await ask(more).then(() => assert.fail(param), (e) => e);
    assert.ok(error instanceof OpenAI.BadRequestError, String(error));
    assert.equal(error.param, param);
    assert.equal(error.type, 'invalid_request_error');
  }
});

await done();
