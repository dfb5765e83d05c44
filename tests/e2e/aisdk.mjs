// Vercel's AI SDK against the gateway, by its provider for servers that speak OpenAI's API.
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { done, startPair, test } from './lib/harness.mjs';

const { gateway } = await startPair();
const provider = createOpenAICompatible({ name: 'bitnet', baseURL: `${gateway.url}/v1`, includeUsage: true, supportsStructuredOutputs: true });
const model = provider('tales');
const prompt = 'Tell me a tale about a rabbit.';
const base = { model, prompt, maxRetries: 0, seed: 3, maxOutputTokens: 40 };

await test('ai sdk: text, whole and as a stream', async () => {
  const whole = await generateText(base);
  assert.ok(whole.text.length > 20);
  assert.ok(['stop', 'length'].includes(whole.finishReason));
  assert.ok(whole.usage.inputTokens > 5 && whole.usage.outputTokens > 5);
  const stream = streamText(base);
  let text = '';
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  assert.equal(await stream.finishReason, whole.finishReason);
});

await test('ai sdk: a completion model', async () => {
  const answer = await generateText({ ...base, model: provider.completionModel('tales'), prompt: 'Once upon a time' });
  assert.ok(answer.text.length > 20);
});

const schema = z.object({ city: z.enum(['Rome', 'Oslo']), days: z.number().int().min(1).max(9), dry: z.boolean() });
const weather = (calls) => tool({ description: 'The weather of a city', inputSchema: schema, execute: async (input) => { calls.push(input); return { degrees: 21 }; } });

await test('ai sdk: structured output', async () => {
  for (let seed = 0; seed < 3; seed++) {
    const { output } = await generateText({ ...base, seed, maxOutputTokens: 200, output: Output.object({ schema }) });
    assert.deepEqual(schema.parse(output), output);
  }
});

await test('ai sdk: a tool is called, and its result goes back', async () => {
  const calls = [];
  const answer = await generateText({ ...base, maxOutputTokens: 300, tools: { weather: weather(calls) }, stopWhen: stepCountIs(2),
    providerOptions: { bitnet: { parallel_tool_calls: false } },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }) });
  assert.ok(calls.length >= 1);
  calls.forEach((input) => schema.parse(input));
  assert.equal(answer.steps.length, 2);
  assert.equal(answer.steps[0].finishReason, 'tool-calls');
  assert.deepEqual(answer.steps[0].toolResults[0].output, { degrees: 21 });
  assert.ok(answer.text.length > 5);
});

await test('ai sdk: a streamed call', async () => {
  const calls = [], types = [];
  const stream = streamText({ ...base, maxOutputTokens: 300, tools: { weather: weather(calls) }, toolChoice: { type: 'tool', toolName: 'weather' },
    providerOptions: { bitnet: { parallel_tool_calls: false } } });
  for await (const part of stream.fullStream) types.push(part.type);
  assert.equal(await stream.finishReason, 'tool-calls');
  assert.ok(types.includes('tool-input-start') && types.filter((t) => t === 'tool-input-delta').length > 2 && types.includes('tool-call') && types.includes('tool-result'), types.join());
  calls.forEach((input) => schema.parse(input));
  assert.ok(calls.length >= 1);
});

await test('ai sdk: errors keep status and message', async () => {
  const error = await generateText({ ...base, model: provider('nobody') }).then(() => assert.fail('it was answered'), (e) => e);
  assert.ok(APICallError.isInstance(error));
  assert.equal(error.statusCode, 404);
  assert.match(error.message, /nobody/);
});

await done();
