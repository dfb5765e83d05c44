// Prints helm/bitnet/values.schema.json: `make chart`. The options of the two programs come from their --help, names of alerts from their file, the rest
// from the table below.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';

const build = process.argv[2] ?? 'build';

// ---- options ----

// What the chart sets from other values, or mounts.
const owned = {
  'bitnet-engine': ['model', 'model-id', 'listen', 'admin-listen', 'device', 'tls-cert', 'tls-key', 'tls-client-ca', 'allow-insecure-public', 'state-file',
                    'config'],
  'bitnet-gateway': ['engine', 'listen', 'admin-listen', 'engine-tls-ca', 'engine-tls-cert', 'engine-tls-key', 'engine-tls-name', 'tls-cert', 'tls-key',
                     'tls-client-ca', 'jwt-key', 'jwt-jwks', 'api-keys', 'config'],
};

// "  --name KIND", "        help", "        [unit; 0..9; default 1; BITNET_NAME]".
export function options(program) {
  const text = execFileSync(path.join(build, program), ['--help'], { encoding: 'utf8' });
  return [...text.matchAll(/^ {2}--([a-z0-9-]+)(?: (\S+))?\n {8}(.*)\n {8}\[(.*)\]$/gm)].map(([, name, kind, help, facts]) => {
    const range = /(?:^|; )(-?[\d.e+]+)\.\.(-?[\d.e+]+)(?:;|$)/.exec(facts);
    return { name, kind, help, range: range?.slice(1).map(Number), flagOnly: facts.includes('flag only'), variable: /BITNET_\w+/.exec(facts)?.[0] };
  });
}

function optionSchema({ kind, help, range }) {
  const bounds = range && Number.isFinite(range[0]) ? { minimum: range[0], maximum: range[1] } : {};
  if (kind === undefined) return { description: help, type: 'boolean' };
  if (kind === 'N') return { description: help, type: 'integer', ...bounds };
  if (kind === 'X') return { description: help, type: 'number', ...bounds };
  if (kind === 'SIZE') return { description: help, type: ['integer', 'string'], pattern: '^[0-9]+([KMGT]|[KMGT]iB)?$' };
  if (kind === 'TEXT') return { description: help, type: 'string' };
  return { description: help, enum: kind.split('|') };
}

const config = (program) => strict(Object.fromEntries(options(program)
  .filter((o) => o.variable && !o.flagOnly && !owned[program].includes(o.name)).map((o) => [o.name, optionSchema(o)])));

// ---- the other values ----

const strict = (properties) => ({ type: 'object', additionalProperties: false, properties });
const text = { type: 'string' }, flag = { type: 'boolean' };
const free = { type: 'object' }; // as Kubernetes has it
const list = (items = free) => ({ type: 'array', items });
const words = (...names) => ({ enum: names });
const int = (minimum, maximum) => ({ type: 'integer', minimum, maximum });
const port = int(1, 65535);
const pull = words('Always', 'IfNotPresent', 'Never');
const labels = { type: 'object', additionalProperties: text };
const alerts = [...readFileSync('helm/bitnet/alerts/bitnet.yaml', 'utf8').matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
const duration = { type: 'string', pattern: '^([0-9]+h)?([0-9]+m)?([0-9]+s)?$' };
const budget = strict({ enabled: flag, maxUnavailable: { type: ['integer', 'string'], minimum: 1, pattern: '^[0-9]+%$' } });
const scaling = (more) => strict({ mode: words('none', 'hpa', 'keda'), minReplicas: int(1, 1000), maxReplicas: int(1, 1000), cpuPercent: int(0, 1000), ...more });
const placed = {
  existingSecret: text, extraEnv: list(), resources: free, podAnnotations: labels, podLabels: labels, nodeSelector: labels, tolerations: list(), affinity: free,
  priorityClassName: text, topologyKeys: list(text), podDisruptionBudget: budget,
};

const values = strict({
  nameOverride: text, fullnameOverride: text, commonLabels: labels, global: free,
  image: strict({ repository: { ...text, minLength: 1 }, tag: text, digest: { ...text, pattern: '^(sha256:[0-9a-f]{64})?$' }, pullPolicy: pull, pullSecrets: list() }),
  serviceAccount: strict({ create: flag, name: text, annotations: labels }),
  model: strict({
    source: words('bundled', 'pvc', 'image', 'hostPath'), file: { ...text, minLength: 1, pattern: '\\.gguf$' }, id: text,
    pvc: strict({ claimName: text, subPath: text }), image: strict({ reference: text, pullPolicy: pull }), hostPath: strict({ path: { ...text, pattern: '^(/.*)?$' } }),
  }),
  engine: strict({
    kind: words('Deployment', 'StatefulSet'), replicas: int(0, 1000), config: config('bitnet-engine'), ...placed,
    gpu: strict({ enabled: flag, resource: { ...text, minLength: 1 }, count: int(1, 16), tagSuffix: text, nodeSelector: labels, runtimeClassName: text }),
    state: strict({ enabled: flag, size: { ...text, minLength: 1 }, storageClass: text }),
    startupFailureThreshold: int(1, 10000), autoscaling: scaling({ queueDepth: int(0, 1000000) }),
  }),
  gateway: strict({
    placement: words('separate', 'sidecar'), replicas: int(0, 1000), config: config('bitnet-gateway'), ...placed,
    auth: strict({ existingSecret: text, files: strict({ 'api-keys': text, 'jwt-key': text, 'jwt-jwks': text }) }),
    service: strict({ type: words('ClusterIP', 'NodePort', 'LoadBalancer'), port, annotations: labels }), autoscaling: scaling({}),
  }),
  keda: strict({ prometheusAddress: text }),
  termination: strict({ preStopSleepSeconds: int(0, 600), gracePeriodSeconds: int(1, 7200) }),
  podSecurityContext: free, securityContext: free,
  tls: strict({
    mode: words('none', 'certManager', 'existingSecrets'), clients: words('mutual', 'server', 'plain'),
    certManager: strict({ issuer: strict({ name: text, kind: words('Issuer', 'ClusterIssuer'), group: text }), duration, renewBefore: duration }),
    existingSecrets: strict({ engine: text, gateway: text }),
  }),
  mesh: words('none', 'istio', 'linkerd'),
  ingress: strict({ enabled: flag, className: text, annotations: labels, hosts: list(text), tls: list() }),
  httpRoute: strict({ enabled: flag, parentRefs: list(), hostnames: list(text) }),
  grpcRoute: strict({ enabled: flag, parentRefs: list(), hostnames: list(text) }),
  inferencePool: strict({ enabled: flag, endpointPicker: strict({ name: text, port, failureMode: words('FailOpen', 'FailClose') }) }),
  networkPolicy: strict({ enabled: flag, clientsFrom: list(), monitoringFrom: list(), extraEgress: list() }),
  serviceMonitor: strict({ enabled: flag, interval: duration, labels }),
  prometheusRule: strict({ enabled: flag, labels, disabled: list(words(...alerts)) }),
  dashboard: strict({ enabled: flag, labels }),
});

console.log(JSON.stringify({ $schema: 'http://json-schema.org/draft-07/schema#', title: 'Values of the chart bitnet', ...values }, null, 2));
