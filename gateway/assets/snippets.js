// The request that the page sends, as programs. Each runs as printed; the key stays out of them.
import { endpoints } from './stream.js';

const KEY = 'BITNET_API_KEY';

// A word for a POSIX shell: nothing is special between single quotes but the quote.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// JSON as a Python literal. A string of JSON is one of Python too.
export function literal(value, indent = '') {
  const deeper = `${indent}    `;
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null) return 'None';
  if (Array.isArray(value) && value.length > 0)
    return `[\n${value.map((item) => `${deeper}${literal(item, deeper)},\n`).join('')}${indent}]`;
  if (typeof value === 'object' && !Array.isArray(value)) {
    const flat = `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${literal(v)}`).join(', ')}}`;
    if (flat.length < 76 && !flat.includes('\n')) return flat;
    return `{\n${Object.entries(value).map(([k, v]) => `${deeper}${JSON.stringify(k)}: ${literal(v, deeper)},\n`).join('')}${indent}}`;
  }
  return JSON.stringify(value);
}

export function curl(origin, mode, body, key) {
  const lines = [`curl -N ${quoted(origin + endpoints[mode].path)}`, `-H 'Content-Type: application/json'`];
  if (key) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  lines.push(`-d ${quoted(JSON.stringify(body, null, 2).replaceAll('\n', '\n  '))}`);
  return `${lines.join(' \\\n  ')}\n`;
}

// Fields that the openai package has no parameter for travel in extra_body.
const EXTRA = ['top_k', 'min_p', 'repetition_penalty'];

export function openai(origin, mode, body, key) {
  if (!endpoints[mode].openai) return '';
  const own = Object.entries(body).filter(([name]) => !EXTRA.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => EXTRA.includes(name)));
  if (Object.keys(extra).length > 0) own.push(['extra_body', extra]);
  if (!body.model) own.unshift(['model', 'default']);
  const call = mode === 'chat' ? 'chat.completions' : 'completions';
  const text = mode === 'chat' ? 'chunk.choices[0].delta.content' : 'chunk.choices[0].text';
  return `${key ? 'import os\n\n' : ''}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${key ? `os.environ["${KEY}"]` : '"none"'})

stream = client.${call}.create(
${own.map(([name, value]) => `    ${name}=${literal(value, '    ')},\n`).join('')})
for chunk in stream:
    if chunk.choices:
        print(${text} or "", end="", flush=True)
print()
`;
}

const PRINT = {
  chat: 'for choice in event["choices"]:\n            print(choice["delta"].get("content") or "", end="", flush=True)',
  text: 'for choice in event["choices"]:\n            print(choice["text"], end="", flush=True)',
  native: 'print(event.get("text", ""), end="", flush=True)',
};

export function requests(origin, mode, body, key) {
  return `import json
${key ? 'import os\n' : ''}
import requests

response = requests.post(
    ${JSON.stringify(origin + endpoints[mode].path)},
${key ? `    headers={"Authorization": "Bearer " + os.environ["${KEY}"]},\n` : ''}    json=${literal(body, '    ')},
    stream=True,
)
if not response.ok:
    raise SystemExit(response.text)
for line in response.iter_lines():
    if line.startswith(b"data: {"):
        event = json.loads(line[6:])
        ${PRINT[mode]}
print()
`;
}
