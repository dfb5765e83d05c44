// Structured output: 500 random schemas of the supported subset, answers of the demo model at a high temperature, each validated by
// ajv, an implementation that shares nothing with ours. The random numbers are seeded, so a failure can be repeated.
import assert from 'node:assert/strict';
import Ajv from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { done, post, startPair, test } from './lib/harness.mjs';

const N_SCHEMAS = 500, CLIENTS = 8;
const { gateway } = await startPair();
const { url } = gateway;

// ---- random schemas ----

// Of half of the schemas every text has an end; the others have strings and objects that may go on.
const isOpen = (seed) => seed % 2 === 1;
function generator(seed) {
  let state = seed * 2654435761 >>> 0;
  const below = (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 4294967296 * n);
  };
  const one = (list) => list[below(list.length)];
  const chance = (percent) => below(100) < percent;
  const names = ['name', 'age', 'kind', 'a b', 'quote"d', 'été', 'na', 'x/y~z', 'tags', 'n1', 'n2', ''];
  const someNames = (n) => [...new Set(Array.from({ length: n }, () => one(names)))];
  const patterns = ['^[a-z]{2,5}$', '^(fox|rabbit)( jumps)?$', '^\\d{3}-\\d{2}$', '^[^a-z"]{1,4}$', '^\\w{1,6}@\\w{1,3}$', '^.{0,3}$', '^[à-ÿ\\n]{1,2}$'];

  const string = () => {
    const s = { type: 'string' };
    if (chance(25)) return { ...s, pattern: one(patterns) };
    if (chance(25)) return { ...s, format: one(['date-time', 'date', 'time', 'uuid', 'email', 'ipv4']) };
    if (chance(40)) s.minLength = below(4);
    if (!isOpen(seed) || chance(50)) s.maxLength = 4 + below(10);
    return s;
  };
  const numeric = () => {
    const s = { type: one(['integer', 'number']) };
    const low = below(2000) - 1000, high = low + 2 + below(300);
    if (chance(40)) s[one(['minimum', 'exclusiveMinimum'])] = low;
    if (chance(40)) s[one(['maximum', 'exclusiveMaximum'])] = high;
    return s;
  };
  const fixed = () => chance(30) ? { const: one([1, 'a"b\\c\n', null, true, [1, { b: [] }]]) }
    : { enum: [one(['red', 'grün']), one([1, -2.5]), one([null, false]), { k: one(['v', 1]) }].slice(0, 1 + below(4)) };
  const array = (depth) => {
    const s = { type: 'array' };
    if (chance(30)) s.prefixItems = [schema(depth + 1), schema(depth + 1)].slice(0, 1 + below(2));
    if (!s.prefixItems || chance(50)) s.items = schema(depth + 1);
    if (chance(50)) s.minItems = below(3);
    s.maxItems = (s.minItems ?? 0) + 1 + below(3);
    if (s.prefixItems && !s.items) delete s.maxItems, s.minItems && (s.minItems = Math.min(s.minItems, s.prefixItems.length));
    return s;
  };
  const object = (depth) => {
    const keys = someNames(below(5));
    const s = { type: 'object', properties: Object.fromEntries(keys.map((key) => [key, schema(depth + 1)])) };
    const required = keys.filter(() => chance(60));
    if (required.length) s.required = required;
    if (chance(40)) s.additionalProperties = !isOpen(seed) || chance(50) ? false : { type: one(['integer', 'boolean', 'null']) };
    return s;
  };
  const either = (depth) => ({ anyOf: Array.from({ length: 2 + below(2) }, () => schema(depth + 1)) });
  const oneOf = (depth) => ({ oneOf: [object(depth + 1), string(), { type: 'boolean' }].slice(0, 2 + below(2)) });
  const whole = (depth) => ({ allOf: [{ ...object(depth + 1), additionalProperties: undefined },
    { type: ['object', 'null'], properties: { more: { type: 'integer', maximum: 9 } }, required: ['more'] }].map((part) => JSON.parse(JSON.stringify(part))) });
  const reference = () => ({ $ref: one(['#/$defs/tree', '#/$defs/list', '#/$defs/word']) });
  function schema(depth) {
    if (depth > 3) return one([string, numeric, fixed, () => ({ type: ['boolean', 'null'] })])();
    return one([string, string, numeric, numeric, fixed, array, object, object, either, oneOf, whole, reference, () => ({ type: one(['boolean', 'null']) })])(depth);
  }
  const root = chance(60) ? object(0) : schema(0);
  return { ...root, $defs: {
    word: { type: 'string', maxLength: 6 },
    list: { anyOf: [{ type: 'null' }, { type: 'object', properties: { head: { type: 'integer' }, tail: { $ref: '#/$defs/list' } }, required: ['head', 'tail'], additionalProperties: false }] },
    tree: { type: 'object', properties: { value: { $ref: '#/$defs/word' }, children: { type: 'array', items: { $ref: '#/$defs/tree' }, maxItems: 2 } }, required: ['value'], additionalProperties: false },
  } };
}

// ---- asking ----

// Closing marks are made likelier where a text may go on, as the demo model has never seen JSON and would not end its tale.
const closing = {};
for (const text of ['"', '}', ']'])
  for (const id of (await post(`${url}/tokenize`, { text })).json.tokens) closing[id] = text === '"' ? 9 : 22;

const ask = (response_format, seed, more = {}) => post(`${url}/v1/chat/completions`, { model: 'tales', seed, temperature: 1.5, max_tokens: 1000,
  messages: [{ role: 'user', content: 'Tell me a tale about a fox.' }], response_format, ...more });
const askSchema = (schema, seed, more) => ask({ type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } }, seed, more);
const contentOf = (answer) => {
  assert.equal(answer.status, 200, answer.text);
  assert.equal(answer.json.choices[0].finish_reason, 'stop', answer.json.choices[0].message.content.slice(0, 300));
  return answer.json.choices[0].message.content;
};

const ajv = addFormats(new Ajv({ strict: false }));

await test(`schema: ${N_SCHEMAS} answers to random schemas are valid`, async () => {
  let next = 0, tokens = 0;
  const faults = [];
  await Promise.all(Array.from({ length: CLIENTS }, async () => {
    for (let i; (i = next++) < N_SCHEMAS;) {
      const schema = generator(i + 1);
      const answer = await askSchema(schema, i, isOpen(i + 1) ? { logit_bias: closing } : {});
      try {
        const value = JSON.parse(contentOf(answer));
        tokens += answer.json.usage.completion_tokens;
        const validate = ajv.compile(schema);
        assert.ok(validate(value), JSON.stringify(validate.errors));
      } catch (error) {
        faults.push(`${i}: ${JSON.stringify(schema)}\n${answer.text.slice(0, 500)}\n${error.message}`);
      }
    }
  }));
  assert.equal(faults.length, 0, faults.slice(0, 3).join('\n\n'));
  assert.ok(tokens > 5 * N_SCHEMAS);
});

await test('schema: properties come in the order of the schema', async () => {
  const properties = Object.fromEntries(['z', 'a', 'm', 'b'].map((key) => [key, { type: 'integer' }]));
  for (let seed = 0; seed < 3; seed++)
    assert.deepEqual(Object.keys(JSON.parse(contentOf(await askSchema({ type: 'object', properties, required: ['b', 'a', 'z', 'm'] }, seed)))), ['z', 'a', 'm', 'b']);
});

await test('schema: a stream gives the same text, and several choices are all valid', async () => {
  const schema = { type: 'array', items: { enum: ['red', 'green', 'blue'] }, minItems: 3, maxItems: 6 };
  const whole = contentOf(await askSchema(schema, 5));
  const { text } = await askSchema(schema, 5, { stream: true });
  const deltas = text.split('\n\n').filter((event) => event.startsWith('data: {')).map((event) => JSON.parse(event.slice(6)));
  assert.equal(deltas.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? '').join(''), whole);
  const { json } = await askSchema(schema, 5, { n: 4, temperature: 2 });
  for (const choice of json.choices) assert.ok(ajv.validate(schema, JSON.parse(choice.message.content)), choice.message.content);
  assert.ok(new Set(json.choices.map((choice) => choice.message.content)).size > 1);
});

await test('schema: any JSON object, and a regular expression', async () => {
  const object = JSON.parse(contentOf(await ask({ type: 'json_object' }, 3, { logit_bias: closing })));
  assert.equal(typeof object, 'object');
  for (let seed = 0; seed < 5; seed++)
    assert.match(contentOf(await ask({ type: 'regex', pattern: '(fox|hare) no\\. [1-9]\\d?' }, seed)), /^(fox|hare) no\. [1-9]\d?$/);
});

await test('schema: an answer that is cut says so', async () => {
  const { json } = await askSchema({ type: 'string', minLength: 500 }, 1, { max_tokens: 10 });
  assert.equal(json.choices[0].finish_reason, 'length');
});

await test('schema: what is not supported is refused with its place', async () => {
  const { status, json } = await askSchema({ type: 'object', properties: { a: { not: {} } } }, 1);
  assert.equal(status, 400);
  assert.equal(json.error.param, 'response_format');
  assert.match(json.error.message, /#\/properties\/a\/not/);
  assert.equal((await ask({ type: 'regex', pattern: '(' }, 1)).status, 400);
  assert.equal((await ask({ type: 'xml' }, 1)).status, 400);
});

await done();
