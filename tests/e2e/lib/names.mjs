// Names that files give to users - metrics and their labels, options, variables, paths, ports, gRPC services - and what a running pair has.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { build, get, root } from './harness.mjs';

// ---- what the programs have ----

const text = (program, args) => {
  try {
    return execFileSync(path.join(build, program), args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    return error.stdout + error.stderr;
  }
};

// The options of a program: its own, and for `bitnet` those of each command.
function optionsOf() {
  const of = {}, variables = new Set(), ports = new Set();
  const add = (name, help) => {
    of[name] = new Set([...(of[name] ?? []), ...(help.match(/(?<![\w-])--[a-z][a-z0-9-]*/g) ?? [])]);
    for (const [variable] of help.matchAll(/\bBITNET_[A-Z0-9_]+/g)) variables.add(variable);
    for (const [, port] of help.matchAll(/default [\w./]*:(\d+)/g)) ports.add(port);
  };
  for (const program of ['bitnet-engine', 'bitnet-gateway', 'bitnet-load']) add(program, text(program, ['--help']));
  add('bitnet-engine', text('bitnet-engine', ['healthcheck', '--help']));
  for (const [, command] of text('bitnet', ['--help']).matchAll(/^ {2}([a-z-]+) {2,}/gm)) {
    add(`bitnet ${command}`, text('bitnet', [command, '--help']));
    add('bitnet', text('bitnet', [command, '--help']));
  }
  of.any = new Set(Object.values(of).flatMap((set) => [...set]));
  return { options: of, variables, ports };
}

// Variables of OpenTelemetry have no help: their names are texts in a program, those of the exporter with the part that they share left out.
const holdsVariable = (binary, name) => binary.includes(name) ||
  (binary.includes('OTEL_EXPORTER_OTLP_%s') && binary.includes(`${name.replace(/^OTEL_EXPORTER_OTLP_(TRACES_)?/, '')}\0`));

// Families of metrics pages: their names, with those of a histogram's series, and the labels of their series.
export function familiesOf(...pages) {
  const families = new Map();
  for (const page of pages) {
    for (const [, name, type] of page.matchAll(/^# TYPE (\S+) (\w+)$/gm))
      for (const suffix of type === 'histogram' ? ['', '_bucket', '_sum', '_count'] : ['']) families.set(name + suffix, families.get(name + suffix) ?? new Set());
    for (const [, name, labels] of page.matchAll(/^([a-z_]+)\{([^}]*)\}/gm)) {
      for (const [, label] of labels.matchAll(/(\w+)="/g)) {
        families.get(name)?.add(label);
        families.get(name.replace(/_bucket$/, ''))?.add(label);
      }
    }
  }
  return families;
}

// Everything there is, of a running pair: its pages, its paths by asking, its services by reflection.
export async function known({ engine, gateway, services }) {
  const families = familiesOf((await get(`${engine.admin}/metrics`)).text, (await get(`${gateway.admin}/metrics`)).text);
  const binaries = ['bitnet-engine', 'bitnet-gateway'].map((program) => readFileSync(path.join(build, program), 'latin1'));
  const asked = new Map();
  const hasPath = (where, p) => {
    const key = `${where}${p}`;
    if (!asked.has(key)) asked.set(key, get(`${where}${p}`).then(({ status, json }) => status !== 404 || json?.error?.code === 'MODEL_NOT_FOUND'));
    return asked.get(key);
  };
  return { named: {}, families, services, ...optionsOf(), inBinaries: (name) => binaries.some((b) => holdsVariable(b, name)),
           hasPath: async (p) => (await Promise.all([gateway.url, gateway.admin, engine.admin].map((where) => hasPath(where, p)))).some(Boolean) };
}

// ---- what a file names ----

// Of the scraper, not of the product.
const targetLabels = new Set(['job', 'instance', 'namespace', 'pod', 'le']);

// An architecture's name in files of others, which looks like a metric.
const notMetrics = new Set(['bitnet_b1_58']);
// Options of other programs, where the line names that program.
const foreign = /\b(cmake|lm_eval|git|curl|docker|npm|apt-get|helm|kubectl|systemctl|RUN|COPY|HEALTHCHECK)\b/;
// Ports of others: what they are.
const foreignPorts = { 3000: 'Grafana', 4143: 'Linkerd', 4317: 'OTLP', 4318: 'OTLP', 8443: 'an example', 65532: 'the user of the image', 9002: 'an endpoint picker', 9003: 'another', 9099: 'Prometheus' };

const lines = (file, body) => body.split('\n').map((line, i) => ({ line, where: `${file}:${i + 1}` }));

// Which program an option in a line of a shell belongs to: the last one in front of it.
function programAt(line, at) {
  const found = [...line.slice(0, at).matchAll(/\b(bitnet-engine|bitnet-gateway|bitnet-load|bitnet (?!healthcheck)[a-z-]+)(?=[\s`])/g)].at(-1);
  return found && !/[|;&`]/.test(line.slice(found.index, at)) ? found[1] : undefined;
}

// Metrics, with the labels in braces behind them and in what sums keep. A family that has no series here has no labels to compare with.
function checkMetrics(line, families, check) {
  const named = [];
  for (const [, name, labels = ''] of line.matchAll(/\b(bitnet_[a-z][a-z0-9_]*[a-z0-9])\b(?!_|\/|\.)(?:(?:` `)?\{([^}]*)\})?/g)) {
    const has = families.get(name);
    if (!notMetrics.has(name)) check('metric', name, has);
    if (!has?.size) continue;
    named.push(has);
    for (const [, label] of labels.matchAll(/(?:^|,)\s*(\w+)\s*(?:=~?\\?"|!|,|$)/g)) check('label', `${label} of ${name}`, has.has(label) || targetLabels.has(label));
  }
  for (const label of [...line.matchAll(/\bby \(([\w, ]+)\)/g)].flatMap(([, list]) => list.split(/,\s*/)))
    if (named.length) check('label', label, targetLabels.has(label) || named.some((labels) => labels.has(label)));
}

function checkOptions(line, options, check) {
  for (const { 0: name, index } of line.matchAll(/(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]/g)) {
    const program = programAt(line, index), of = options[program] ? ` of ${program}` : '';
    if (program || !foreign.test(line)) check('option', name + of, (options[program] ?? options.any).has(name));
  }
}

// The dead names of one file, as sentences; all of its names are added to has.named, a set for each kind.
export async function deadNames(file, body, has) {
  const dead = [];
  for (const { line, where } of lines(file, body)) {
    const check = (kind, name, alive) => {
      (has.named[kind] ??= new Set()).add(name);
      if (!alive) dead.push(`${where}: no ${kind} ${name}`);
    };
    checkMetrics(line, has.families, check);
    checkOptions(line, has.options, check);
    for (const [name] of line.matchAll(/\bBITNET_[A-Z0-9_]*[A-Z0-9]\b/g)) check('variable', name, has.variables.has(name) || has.inBinaries(name));
    for (const [name] of line.matchAll(/\bOTEL_[A-Z_]*[A-Z]\b/g)) check('variable', name, has.inBinaries(name));
    for (const [, p] of line.matchAll(/(?<=^|[^A-Za-z_.}*-]|\$[A-Z]+|\/\/[A-Z]+)(\/(?:v1|health|metrics|debug|tokenize|detokenize|openapi)(?:[\w{}./-]*[\w}])?)(?![\w*]|\.(?:md|mjs|c|h|proto))/g))
      if (p !== '/v1') check('path', p, await has.hasPath(p.replace(/\{[a-z]+\}/, 'tales')));
    for (const [, inAddress, byName] of line.matchAll(/[\w\]*'` ]:(\d{4,5})\b(?![:.\d-])|(?:\b|[a-z])[pP]ort:? \{?(?:number: )?(\d{4,5})\b/g)) {
      const port = inAddress ?? byName;
      if (!foreignPorts[port]) check('port', port, has.ports.has(port));
    }
    for (const [, service] of line.matchAll(/(?<![\w/.])((?:bitnet\.v1|grpc\.[a-z]+\.v1(?:alpha)?)\.[A-Z]\w+)/g)) check('service', service, has.services.has(service));
  }
  return dead;
}

// The files that name things to users.
export function files() {
  const list = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '--', 'README.md', 'CHANGELOG.md', 'docs/*.md', 'helm', 'compose.yaml', 'Dockerfile', 'tools/package/*.y*ml',
                                          'tools/package/*.service', 'tools/package/*.conf', 'tools/package/debian'],
                            { cwd: root, encoding: 'utf8' });
  return list.trim().split('\n').map((name) => ({ name, body: readFileSync(path.join(root, name), 'utf8') }));
}
