// Checks Kubernetes' objects against the types of its API, and of the custom resources that the chart uses: TypeScript declarations generated from their
// OpenAPI descriptions (build/tools), read here as JSON schemas. A field that is not declared is an error.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import Ajv from 'ajv';
import { root } from './harness.mjs';

export const tools = path.join(root, 'build/tools');
const packages = ['kubernetes-models', ...['apimachinery', 'prometheus-operator', 'keda', 'gateway-api', 'cert-manager'].map((p) => `@kubernetes-models/${p}`)];

// No package has this one: the fields of inference.networking.k8s.io/v1 that a pool must or may have.
const own = {
  'inference.networking.k8s.io/v1/InferencePool': {
    type: 'object', required: ['apiVersion', 'kind', 'metadata', 'spec'], additionalProperties: false,
    properties: {
      apiVersion: {}, kind: {}, metadata: { type: 'object' },
      spec: {
        type: 'object', required: ['selector', 'targetPorts', 'endpointPickerRef'], additionalProperties: false,
        properties: {
          selector: { type: 'object', required: ['matchLabels'], additionalProperties: false, properties: { matchLabels: { type: 'object', additionalProperties: { type: 'string' } } } },
          targetPorts: { type: 'array', minItems: 1, maxItems: 8, items: { type: 'object', required: ['number'], additionalProperties: false, properties: { number: { type: 'integer', minimum: 1, maximum: 65535 } } } },
          appProtocol: { enum: ['http', 'kubernetes.io/h2c'] },
          endpointPickerRef: {
            type: 'object', required: ['name'], additionalProperties: false,
            properties: { group: { type: 'string' }, kind: { type: 'string' }, name: { type: 'string', minLength: 1 }, failureMode: { enum: ['FailOpen', 'FailClose'] },
                          port: { type: 'object', required: ['number'], additionalProperties: false, properties: { number: { type: 'integer', minimum: 1, maximum: 65535 } } } },
          },
        },
      },
    },
  },
};

// ---- declarations as schemas ----

const tokensOf = (text) => text.replace(/\/\*[\s\S]*?\*\//g, '').match(/"(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*|-?\d+|[{}[\]<>()|;:?,=]/g) ?? [];

// One file: `export interface I... { ... }` or `export type I... = ...;`, and where the names in it come from.
class Declaration {
  constructor(file, refer) {
    const text = readFileSync(file, 'utf8');
    this.refer = refer;
    this.imports = new Map([...text.matchAll(/^import \{ ([^}]+) \} from "([^"]+)";/gm)].flatMap(([, names, from]) => names.split(', ').map((name) => [name, from])));
    this.file = file;
    const body = /^export (?:interface I\w+ (?:extends ([\w, ]+) )?(?=\{)|type I\w+ = )/m.exec(text);
    if (!body) throw new Error(`${file}: expected an interface or a type`);
    this.parents = (body[1]?.split(', ') ?? []).filter((name) => name !== 'TypeMeta');
    this.tokens = tokensOf(text.slice(body.index + body[0].length));
    this.at = 0;
  }

  // The whole file, with the fields of the interfaces that it extends.
  schema() {
    const schema = this.type();
    for (const parent of this.parents.map((name) => definitions[this.refer(this.imports.get(name), this.file).split('/').at(-1)])) {
      schema.properties = { ...parent.properties, ...schema.properties };
      schema.required = [...parent.required, ...schema.required];
    }
    return schema;
  }

  next(expected) {
    const token = this.tokens[this.at++];
    if (expected && token !== expected) throw new Error(`${this.file}: expected ${expected}, found ${token}`);
    return token;
  }

  // One or more types with | between.
  type() {
    const parts = [this.single()];
    while (this.tokens[this.at] === '|') { this.at++; parts.push(this.single()); }
    if (parts.length === 1) return parts[0];
    return parts.every((p) => 'const' in p) ? { enum: parts.map((p) => p.const) } : { anyOf: parts };
  }

  single() {
    const token = this.next();
    if (token === '{') return this.object();
    if (token === 'Array') {
      this.next('<');
      const items = this.type();
      this.next('>');
      return { type: 'array', items };
    }
    if (token[0] === '"' || /^-?\d/.test(token)) return { const: JSON.parse(token) };
    if (['string', 'number', 'boolean', 'null'].includes(token)) return { type: token };
    if (!this.imports.has(token)) return {}; // any, unknown
    return { $ref: this.refer(this.imports.get(token), this.file) };
  }

  object() {
    const schema = { type: 'object', properties: {}, required: [], additionalProperties: false };
    while (this.tokens[this.at] !== '}') {
      const token = this.next();
      if (token === '[') {
        this.next('key'), this.next(':'), this.next('string'), this.next(']'), this.next(':');
        schema.additionalProperties = this.type();
      } else {
        const name = JSON.parse(token), optional = this.tokens[this.at] === '?';
        if (optional) this.at++;
        this.next(':');
        schema.properties[name] = this.type();
        if (!optional) schema.required.push(name);
      }
      this.next(';');
    }
    this.next('}');
    return schema;
  }
}

const definitions = {};

// The definition that `from`, as the file `by` imports it, stands for; read when it is first asked for.
function refer(from, by) {
  const file = from.startsWith('.') ? path.resolve(path.dirname(by), from.replace(/\.js$/, '.d.ts')) : path.join(tools, `${from}.d.ts`);
  const name = path.relative(tools, file).replace(/[^A-Za-z0-9]/g, '_');
  if (!(name in definitions)) {
    definitions[name] = {};
    Object.assign(definitions[name], new Declaration(file, refer).schema());
  }
  return `#/$defs/${name}`;
}

const ajv = new Ajv({ strict: false, allErrors: true });
const validators = new Map();

function validatorOf({ apiVersion, kind }) {
  const name = `${apiVersion}/${kind}`;
  if (!validators.has(name)) {
    const file = packages.map((p) => path.join(tools, p, `${name}.d.ts`)).find((f) => existsSync(f));
    if (!file && !own[name]) throw new Error(`no schema of ${name}`);
    const schema = own[name] ?? { $ref: refer(path.relative(tools, file).replace(/\.d\.ts$/, ''), file), $defs: definitions };
    validators.set(name, ajv.compile(structuredClone(schema)));
  }
  return validators.get(name);
}

// What is wrong with an object, as sentences.
export function faultsOf(object) {
  const validate = validatorOf(object);
  if (validate(object)) return [];
  return validate.errors.map((e) => `${object.kind} ${object.metadata?.name}: ${e.instancePath || '/'} ${e.message} ${JSON.stringify(e.params)}`);
}
