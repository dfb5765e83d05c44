// The API's description, as a test reads it: references resolved, answers and events checked against their schemas, values made that lie at,
// inside and outside of a schema's bounds.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const Ajv = require('ajv/dist/2020').default, formats = require('ajv-formats').default;

export class Spec {
  constructor(document) {
    this.document = document;
    this.ajv = new Ajv({ strict: false, allErrors: true });
    formats(this.ajv);
    this.ajv.addSchema(document, 'api', undefined, false);
  }

  resolve(node) {
    while (node?.$ref) node = node.$ref.slice(2).split('/').reduce((at, key) => at[key.replace(/~1/g, '/').replace(/~0/g, '~')], this.document);
    return node;
  }

  // All operations, with the parameters of their paths.
  operations() {
    return Object.entries(this.document.paths).flatMap(([path, item]) => Object.entries(item)
      .filter(([method]) => ['get', 'post', 'put', 'delete', 'patch'].includes(method))
      .map(([method, operation]) => ({
        ...operation, path, method: method.toUpperCase(), id: operation.operationId,
        parameters: [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((p) => this.resolve(p)),
      })));
  }

  body(operation) {
    return this.resolve(operation.requestBody?.content['application/json'].schema);
  }

  // Asserts that `value` is what the schema at `ref` ("#/components/...") or the schema itself says.
  check(schema, value, what) {
    // A schema of the document is compiled in its place, so that its own references are found.
    const validate = typeof schema === 'string' ? this.ajv.getSchema(`api${schema}`) ?? this.ajv.compile({ $ref: `api${schema}` }) : this.ajv.compile(schema);
    assert.ok(validate(value), `${what}: ${this.ajv.errorsText(validate.errors)} in ${JSON.stringify(value).slice(0, 400)}`);
  }

  // Asserts that an answer is one that the operation may give.
  checkAnswer(operation, answer, what = operation.id) {
    const named = operation.responses[answer.status] ?? (answer.status === 405 ? { $ref: '#/components/responses/MethodNotAllowed' } : undefined);
    assert.ok(named, `${what}: status ${answer.status} is not described: ${answer.text.slice(0, 300)}`);
    const response = this.resolve(named);
    for (const [name, header] of Object.entries(response.headers ?? {})) this.checkHeader(name, this.resolve(header), answer, what);
    assert.ok(answer.headers.get('x-request-id'), `${what}: X-Request-Id`);
    if (!response.content) return assert.equal(answer.text, '', `${what}: a body that is not described`);
    const type = (answer.headers.get('content-type') ?? '').split(';')[0], media = response.content[type];
    assert.ok(media, `${what}: type "${type}" is not described for ${answer.status}`);
    if (media['x-events']) return this.checkEvents(media['x-events'], answer.text, what);
    if (type.endsWith('json')) this.check(media.schema.$ref?.slice(0) ?? media.schema, answer.json, `${what} ${answer.status}`);
  }

  // Headers of limits are there when limits are on; what has a fixed value must have it.
  checkHeader(name, header, answer, what) {
    const value = answer.headers.get(name);
    if (header.schema?.const !== undefined) return assert.equal(value, header.schema.const, `${what}: ${name}`);
    if (value !== null && header.schema?.type === 'integer') assert.match(value, /^\d+$/, `${what}: ${name}`);
    if (name === 'Retry-After') assert.ok(Number(value) >= 1, `${what}: ${name}`);
  }

  checkEvents(events, text, what) {
    const blocks = text.split('\n\n').filter((block) => block && !block.startsWith(':'));
    assert.ok(blocks.length > 0, `${what}: no event`);
    for (const block of blocks) {
      const lines = Object.fromEntries(block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trimStart()]));
      const name = lines.event ?? 'message';
      if (lines.data === '[DONE]') continue;
      assert.ok(events[name], `${what}: event "${name}" is not described`);
      const data = JSON.parse(lines.data);
      this.check(events[name], data, `${what}: event ${name}`);
      if (lines.event) assert.equal(data.type, name, what);
      if (lines.event) assert.match(lines.id, /^\d+$/, `${what}: event ${name} has no id`);
    }
    return blocks;
  }

  // Every field of a body: its full name, the way to it, its schema and whether it is required.
  fields(schema, way = []) {
    return Object.entries(schema.properties ?? {}).flatMap(([name, node]) => {
      const field = { name: [...way, name].join('.'), way: [...way, name], schema: this.resolve(node), required: schema.required?.includes(name) ?? false };
      const inside = field.schema.type === 'object' && field.schema.properties && field.schema.additionalProperties === false;
      return inside ? [field, ...this.fields(field.schema, field.way)] : [field];
    });
  }
}

// ---- values ----

// An integer beyond what a number of JavaScript holds, to be written by toJson.
const integer = (n) => `@integer ${BigInt(n)}`;
export const toJson = (body) => JSON.stringify(body).replace(/"@integer (-?\d+)"/g, '$1');

const words = (n) => 'little '.repeat(Math.ceil(n / 7)).slice(0, n); // real words, of which a token holds several letters
function text(schema, n) {
  if (!schema.pattern) return n > 64 ? words(n) : 'x'.repeat(n);
  return schema.pattern.endsWith('gguf$') ? `/${'a'.repeat(Math.max(n - 6, 0))}.gguf` : 'a'.repeat(n);
}

const makers = {
  number(schema) {
    const whole = schema.type === 'integer', step = whole ? 1 : 0.001, { minimum: min, maximum: max } = schema;
    const exact = Number.isSafeInteger(max) || !whole;
    return {
      good: exact ? [min, max, min + step, max - step] : [integer(min), integer(max)],
      bad: exact ? [min - step, max + step] : [integer(2n ** 63n - 1n)],
      wrong: ['1', true, [], ...(whole ? [1.5] : [])],
    };
  },
  string(schema) {
    if (schema.enum) return { good: schema.enum, bad: ['other', ''], wrong: [1, [schema.enum[0]]] };
    const { minLength: min = schema.pattern ? 1 : 0, maxLength: max = 0, pattern } = schema;
    const least = pattern?.endsWith('gguf$') ? 7 : min;
    return {
      good: [least, least + 1, ...(max ? [max - 1, max] : [])].filter((n) => n > 0 || min === 0).map((n) => text(schema, n)),
      bad: [...(min > 0 ? [''] : []), ...(max ? [text(schema, max + 1)] : []), ...(pattern ? ['a b', 'é', '../a'] : [])],
      wrong: [1, true, {}],
    };
  },
  boolean() {
    return { good: [true, false], bad: [], wrong: ['true', 0, 1] };
  },
  array({ maxItems: n, items: { minLength: min, maxLength: max } }) {
    const of = (count, length) => Array.from({ length: count }, (_, i) => 'x'.repeat(length - 1) + (i % 10));
    return {
      good: [[], of(1, 1), of(1, max), of(1, max - 1), of(n, 1), of(n - 1, max)],
      bad: [of(n + 1, 1), of(1, max + 1), ...(min > 0 ? [['']] : [])],
      wrong: [1, {}, [1]],
    };
  },
  object() {
    return { good: [{}], bad: [{ no_such_field: 1 }], wrong: [1, 'x', []] };
  },
};

// Values that a field must take, that break a bound, and that are of a wrong type; undefined when the schema alone does not tell.
export function values(schema) {
  if (schema.anyOf && schema.anyOf.every((s) => ['string', 'array'].includes(s.type))) {
    const parts = schema.anyOf.map(values);
    return { good: parts.flatMap((p) => p.good), bad: parts.flatMap((p) => p.bad), wrong: [1, {}, [1]] };
  }
  if (['integer', 'number'].includes(schema.type)) return makers.number(schema);
  if (schema.type === 'string' || schema.type === 'boolean') return makers[schema.type](schema);
  if (schema.type === 'array' && schema.items?.maxLength) return makers.array(schema);
  if (schema.type === 'object' && schema.additionalProperties === false) return makers.object(schema);
  return undefined;
}

// A copy of `body` with the field at `way` set (or taken out: undefined).
export function withField(body, way, value) {
  const copy = structuredClone(body), last = way.at(-1);
  const at = way.slice(0, -1).reduce((node, key) => (node[key] ??= {}), copy);
  if (value === undefined) delete at[last];
  else at[last] = value;
  return copy;
}

// ---- tables ----

// Differences between a table of the code and a schema's properties, as sentences.
export function compareTable(spec, name, table, schema, except = new Set()) {
  const faults = [], refused = new Set(schema['x-refused-fields'] ?? []), known = new Set(table.map((f) => f.name));
  const differs = (field, what, code, written) => {
    if (JSON.stringify(code) !== JSON.stringify(written) && !except.has(`${name}.${field}`))
      faults.push(`${name}.${field}: ${what} is ${JSON.stringify(code)} in the code, ${JSON.stringify(written)} in the description`);
  };
  for (const f of table) {
    const node = schema.properties?.[f.name], written = spec.resolve(node);
    differs(f.name, 'refused', f.type === 'refused', refused.has(f.name));
    if (f.type === 'refused') continue;
    if (!written) {
      differs(f.name, 'the field', 'there', 'absent');
      continue;
    }
    differs(f.name, 'required', f.required, schema.required?.includes(f.name) ?? false);
    for (const [what, [code, other]] of Object.entries(facets(f, written))) differs(f.name, what, code, other);
    if (f.fields) faults.push(...compareTable(spec, `${name}.${f.name}`, f.fields, written, except));
  }
  for (const field of [...Object.keys(schema.properties ?? {}), ...refused])
    if (!known.has(field)) differs(field, 'the field', 'absent', 'there');
  return faults;
}

// What a table's row and a schema say of the same thing. A preset of 0 in the code may also mean that there is none.
function facets(f, s) {
  const preset = (code) => [s.default === undefined && !code ? undefined : code, s.default];
  const words = f.choices?.split('|').sort();
  switch (f.type) {
    case 'int': case 'float':
      return { type: [f.type === 'int' ? 'integer' : 'number', s.type], minimum: [f.min, s.minimum], maximum: [f.max, s.maximum], default: preset(f.preset) };
    case 'text':
      return { type: ['string', s.type], minLength: [f.min, s.minLength], maxLength: [f.max, s.maxLength], pattern: [f.pattern, s.pattern] };
    case 'prompt':
      return { type: ['string', s.type], minLength: [1, s.minLength], maxLength: [8192, s.maxLength] };
    case 'name':
      return { type: ['string', s.type], maxLength: [f.max, s.maxLength], pattern: ['^[a-zA-Z0-9_-]+$', s.pattern] };
    case 'bool':
      return { type: ['boolean', s.type], default: [f.preset !== 0, s.default] };
    case 'choice':
      return { type: ['string', s.type], enum: [words, [...(s.enum ?? [])].sort()], default: [s.default === undefined ? undefined : f.choices.split('|')[f.preset], s.default] };
    case 'words':
      return { type: ['array', s.type], enum: [words, [...(s.items?.enum ?? [])].sort()] };
    case 'texts':
      return { type: ['array', s.type], maxItems: [f.max, s.maxItems], items: [{ type: 'string', minLength: 1, maxLength: f.each }, s.items], default: [[], s.default] };
    case 'text_or_texts':
      return { anyOf: [[{ type: 'string', minLength: 1, maxLength: f.each }, { type: 'array', maxItems: f.max, items: { type: 'string', minLength: 1, maxLength: f.each } }], s.anyOf] };
    case 'object':
      return { type: ['object', s.type], strict: [false, s.additionalProperties] };
    default: // what the handler looks at itself; the test drives it
      return {};
  }
}
