// The chart, rendered by helm itself, and what must hold between its objects.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import YAML from 'yaml';
import { root } from './harness.mjs';
import { tools } from './kubernetes.mjs';

export const chart = path.join(root, 'helm/bitnet');
export const values = YAML.parse(readFileSync(path.join(chart, 'values.yaml'), 'utf8'));
export const schema = JSON.parse(readFileSync(path.join(chart, 'values.schema.json'), 'utf8'));
export const cases = YAML.parse(readFileSync(path.join(root, 'tests/helm/cases.yaml'), 'utf8'));

const binary = path.join(tools, 'bin/helm');
export const haveHelm = existsSync(binary) && process.arch === 'x64';

// Runs helm with `input` as its standard input; its output, or an error with what it said.
export async function helm(args, input = '') {
  const run = promisify(execFile)(binary, args, { maxBuffer: 1 << 26, env: { ...process.env, HELM_CACHE_HOME: '/tmp/helm', HELM_CONFIG_HOME: '/tmp/helm', HELM_DATA_HOME: '/tmp/helm' } });
  run.child.stdin.end(input);
  return run.then(({ stdout }) => stdout, (error) => { throw new Error(error.stderr); });
}

// The text and the objects that the release "t" in the namespace "ns" has with these values.
export async function render(set, more = []) {
  const text = await helm(['template', 't', chart, '--namespace', 'ns', '-f', '-', ...more], JSON.stringify(set));
  return { text, objects: YAML.parseAllDocuments(text).map((document) => document.toJS()).filter(Boolean) };
}

export const of = (objects, ...kinds) => objects.filter((o) => kinds.includes(o.kind));
export const find = (objects, kind, name) => objects.find((o) => o.kind === kind && o.metadata.name === name);

// The pods of a set: their labels and what runs in them.
export const podsOf = (objects) => [
  ...of(objects, 'Deployment', 'StatefulSet').map((o) => ({ name: o.metadata.name, labels: o.spec.template.metadata.labels, spec: o.spec.template.spec, claims: o.spec.volumeClaimTemplates })),
  ...of(objects, 'Pod').map((o) => ({ name: o.metadata.name, labels: o.metadata.labels, spec: o.spec })),
];
const linkerd = 4143; // where its proxies meet
const within = (part, all) => Object.entries(part).every(([key, value]) => all?.[key] === value);
const portsOf = (pods) => pods.flatMap((pod) => pod.spec.containers.flatMap((c) => c.ports ?? []));

// What does not fit together in a rendered set, as sentences.
export function crossFaults(objects) {
  const faults = [], pods = podsOf(objects), daemons = pods.filter((pod) => pod.spec.containers.some((c) => c.ports));
  const expect = (true_, what) => { if (!true_) faults.push(what); };
  const has = (kind, name, where) => expect(find(objects, kind, name), `${where}: no ${kind} ${name}`);
  const selects = (selector, where) => {
    const found = pods.filter((pod) => within(selector, pod.labels));
    expect(found.length > 0, `${where}: selects no pod`);
    return found;
  };
  const serviceHas = (name, port, where) => expect(find(objects, 'Service', name)?.spec.ports.some((p) => p.name === port || p.port === port), `${where}: no port ${port} of Service ${name}`);

  for (const o of objects) {
    const where = `${o.kind} ${o.metadata.name}`;
    expect(/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/.test(o.metadata.name), `${where}: not a name`);
    expect(objects.filter((other) => other.kind === o.kind && other.metadata.name === o.metadata.name).length === 1, `${where}: there twice`);
    expect(o.metadata.namespace === 'ns', `${where}: not in the release's namespace`);
  }
  for (const o of of(objects, 'Deployment', 'StatefulSet')) expect(within(o.spec.selector.matchLabels, o.spec.template.metadata.labels), `${o.kind} ${o.metadata.name}: selects other pods than its own`);
  for (const o of of(objects, 'StatefulSet')) has('Service', o.spec.serviceName, `StatefulSet ${o.metadata.name}`);

  for (const service of of(objects, 'Service')) {
    const where = `Service ${service.metadata.name}`, ports = portsOf(selects(service.spec.selector, where)).map((p) => p.name);
    for (const port of service.spec.ports) {
      expect(ports.includes(port.targetPort), `${where}: no container port ${port.targetPort}`);
      expect(/^(grpc|https?)-[a-z]+$/.test(port.name) && port.name.length <= 15, `${where}: port name ${port.name}`);
    }
  }
  for (const pod of pods) faults.push(...podFaults(pod, objects));
  for (const o of of(objects, 'HorizontalPodAutoscaler', 'ScaledObject')) {
    has(o.spec.scaleTargetRef.kind, o.spec.scaleTargetRef.name, `${o.kind} ${o.metadata.name}`);
    expect(find(objects, o.spec.scaleTargetRef.kind, o.spec.scaleTargetRef.name)?.spec.replicas === undefined, `${o.kind} ${o.metadata.name}: the workload sets replicas too`);
  }
  for (const o of of(objects, 'PodDisruptionBudget')) selects(o.spec.selector.matchLabels, `PodDisruptionBudget ${o.metadata.name}`);
  for (const o of of(objects, 'NetworkPolicy')) {
    const where = `NetworkPolicy ${o.metadata.name}`, ports = portsOf(selects(o.spec.podSelector.matchLabels, where)).map((p) => p.containerPort);
    const open = o.spec.ingress.flatMap((rule) => rule.ports.map((p) => p.port));
    for (const port of ports) expect(open.includes(port) || port === 50051 && ports.includes(8080), `${where}: nobody may reach port ${port}`);
    for (const port of open) expect(ports.includes(port) || port === linkerd, `${where}: port ${port} is nobody's`);
  }
  for (const o of of(objects, 'ServiceMonitor')) {
    const where = `ServiceMonitor ${o.metadata.name}`, services = of(objects, 'Service').filter((s) => within(o.spec.selector.matchLabels, s.metadata.labels));
    expect(services.length === 1, `${where}: selects ${services.length} Services`);
    for (const e of o.spec.endpoints) for (const s of services) serviceHas(s.metadata.name, e.port, where);
    for (const s of services) expect(['bitnet-engine', 'bitnet-gateway'].includes(s.metadata.labels[o.spec.jobLabel]), `${where}: job is not what alerts name`);
  }
  for (const o of of(objects, 'Ingress')) for (const rule of o.spec.rules) for (const p of rule.http.paths) serviceHas(p.backend.service.name, p.backend.service.port.name, `Ingress ${o.metadata.name}`);
  for (const o of of(objects, 'HTTPRoute', 'GRPCRoute'))
    for (const b of o.spec.rules.flatMap((rule) => rule.backendRefs)) {
      if (b.kind === 'InferencePool') has('InferencePool', b.name, `${o.kind} ${o.metadata.name}`);
      else serviceHas(b.name, b.port, `${o.kind} ${o.metadata.name}`);
    }
  for (const o of of(objects, 'InferencePool')) {
    const ports = portsOf(selects(o.spec.selector.matchLabels, `InferencePool ${o.metadata.name}`));
    for (const t of o.spec.targetPorts) expect(ports.some((p) => p.containerPort === t.number), `InferencePool ${o.metadata.name}: no container port ${t.number}`);
  }
  expect(daemons.length > 0, 'no daemon runs');
  return faults;
}

function podFaults({ name, spec, claims = [] }, objects) {
  const faults = [], expect = (true_, what) => { if (!true_) faults.push(`pod ${name}: ${what}`); };
  const volumes = [...(spec.volumes ?? []), ...claims.map((c) => c.metadata)].map((v) => v.name), mounted = spec.containers.flatMap((c) => (c.volumeMounts ?? []).map((m) => m.name));
  for (const m of mounted) expect(volumes.includes(m), `no volume ${m}`);
  for (const v of volumes) expect(mounted.includes(v), `nobody mounts ${v}`);
  expect(spec.securityContext.runAsNonRoot === true && spec.securityContext.seccompProfile?.type === 'RuntimeDefault', 'may run as root, or without seccomp');
  expect(spec.automountServiceAccountToken === false, 'gets a token of the API');
  for (const c of spec.containers) {
    const ports = (c.ports ?? []).flatMap((p) => [p.name, p.containerPort]);
    for (const probe of [c.startupProbe, c.livenessProbe, c.readinessProbe].filter(Boolean)) {
      const port = probe.grpc?.port ?? probe.httpGet.port;
      expect(ports.includes(port), `${c.name}: a probe asks port ${port}, which is not there`);
    }
    for (const from of c.envFrom ?? []) if (from.configMapRef) expect(find(objects, 'ConfigMap', from.configMapRef.name), `${c.name}: no ConfigMap ${from.configMapRef.name}`);
    const s = c.securityContext;
    expect(s.allowPrivilegeEscalation === false && s.readOnlyRootFilesystem === true && s.capabilities.drop.includes('ALL'), `${c.name}: more rights than none`);
    if (!c.ports) continue;
    const drain = variablesOf(objects, c).BITNET_DRAIN_TIMEOUT_MS ?? 45000;
    expect(spec.terminationGracePeriodSeconds >= c.lifecycle.preStop.sleep.seconds + drain / 1000 + 5, `${c.name}: killed before it has drained`);
  }
  return faults;
}

// What a container's ConfigMap puts into its environment.
export const variablesOf = (objects, container) => find(objects, 'ConfigMap', container.envFrom[0].configMapRef.name)?.data ?? {};
