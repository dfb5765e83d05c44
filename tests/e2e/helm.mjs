// The chart: helm's own lint and template over a matrix of values, each object against Kubernetes' types, the objects against each other, every value
// used, and both daemons started from the rendered ConfigMaps.
// timeout: 300
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import YAML from 'yaml';
import { build, done, freePort, get, model, post, root, start, stop, test, until } from './lib/harness.mjs';
import { cases, chart, crossFaults, find, haveHelm, helm, of, podsOf, render, schema, values, variablesOf } from './lib/helm.mjs';
import { faultsOf } from './lib/kubernetes.mjs';

if (!haveHelm) {
  console.log('skip helm: the package with its binary is for x86-64');
  process.exit(0);
}

// ---- the rendered objects ----

const rendered = {};
for (const [name, set] of Object.entries(cases)) {
  await test(`helm: ${name}: valid, and of a piece`, async () => {
    rendered[name] = await render(set);
    const { text, objects } = rendered[name];
    assert.doesNotMatch(text, /<no value>|%!/);
    assert.deepEqual([...objects.flatMap(faultsOf), ...crossFaults(objects)], []);
  });
}

await test('helm: the chart has the programs\' version', () => {
  const { version, appVersion } = YAML.parse(readFileSync(path.join(chart, 'Chart.yaml'), 'utf8'));
  assert.match(execFileSync(path.join(build, 'bitnet-engine'), ['--version'], { encoding: 'utf8' }), new RegExp(`^bitnet-engine ${appVersion} `));
  assert.equal(version, appVersion);
});

await test('helm: lint', async () => {
  await helm(['lint', '--strict', chart]);
  await helm(['lint', '--strict', chart, '-f', '-'], JSON.stringify(cases.full));
});

// A change that breaks a set is seen: what is done to its objects, and what the checks say.
const broken = [
  ['an unknown field', (o) => { find(o, 'Deployment', 't-bitnet-engine').spec.template.spec.containers[0].livenesProbe = {}; }, /livenesProbe/],
  ['a text for a number', (o) => { find(o, 'Service', 't-bitnet-engine').spec.ports[0].port = 'x'; }, /ports\/0\/port must be number/],
  ['no selector', (o) => { delete find(o, 'Deployment', 't-bitnet-gateway').spec.selector.matchLabels['app.kubernetes.io/name']; find(o, 'Service', 't-bitnet-gateway').spec.selector.x = 'y'; }, /Service t-bitnet-gateway: selects no pod/],
  ['a probe of a port that is not there', (o) => { find(o, 'Deployment', 't-bitnet-engine').spec.template.spec.containers[0].startupProbe.grpc.port = 50052; }, /probe asks port 50052/],
  ['a volume that is not there', (o) => { find(o, 'Deployment', 't-bitnet-engine').spec.template.spec.containers[0].volumeMounts = [{ name: 'model', mountPath: '/m' }]; }, /no volume model/],
  ['a renamed port', (o) => { find(o, 'Service', 't-bitnet-gateway').spec.ports[0].targetPort = 'http'; }, /no container port http/],
  ['a lost ConfigMap', (o) => { find(o, 'ConfigMap', 't-bitnet-gateway').metadata.name = 'other'; }, /no ConfigMap t-bitnet-gateway/],
  ['too short a grace', (o) => { find(o, 'Deployment', 't-bitnet-engine').spec.template.spec.terminationGracePeriodSeconds = 60; }, /killed before it has drained/],
  ['a privilege', (o) => { find(o, 'Deployment', 't-bitnet-engine').spec.template.spec.containers[0].securityContext.capabilities = { drop: [] }; }, /more rights/],
  ['a policy for a port of nobody', (o) => { find(o, 'NetworkPolicy', 't-bitnet-engine').spec.ingress[0].ports[0].port = 8081; }, /8081 is nobody's/],
];
await test('helm: what breaks a set is seen', () => {
  for (const [what, change, sentence] of broken) {
    const objects = structuredClone(rendered.default.objects);
    change(objects);
    assert.match([...objects.flatMap(faultsOf), ...crossFaults(objects)].join('\n'), sentence, what);
  }
});

const refused = [
  ['an unknown value', { engine: { replica: 2 } }, /additional properties 'replica' not allowed/],
  ['an unknown option', { engine: { config: { 'queue-limt': 1 } } }, /additional properties 'queue-limt' not allowed/],
  ['an option out of its range', { engine: { config: { 'queue-limit': 0 } } }, /queue-limit.*minimum: got 0, want 1/s],
  ['an option that the chart sets', { gateway: { config: { listen: '0.0.0.0:1' } } }, /additional properties 'listen' not allowed/],
  ['a boolean for on or off', { engine: { config: { coalesce: false } } }, /coalesce.*must be one of 'on', 'off'/s],
  ['an alert that is none', { prometheusRule: { disabled: ['BitnetDwon'] } }, /value must be one of 'BitnetDown'/],
  ['a claim without a name', { model: { source: 'pvc' } }, /expected model.pvc.claimName with model.source pvc, found none/],
  ['TLS without secrets', { tls: { mode: 'existingSecrets' } }, /expected tls.existingSecrets.engine and .gateway/],
  ['an Ingress in front of mutual TLS', { tls: { mode: 'certManager' }, ingress: { enabled: true, hosts: ['a'] } }, /expected tls.clients plain, found mutual/],
  ['a GRPCRoute to engines with TLS', { tls: { mode: 'certManager' }, grpcRoute: { enabled: true } }, /expected tls.mode none, found certManager/],
  ['a pool without gateways beside the engines', { inferencePool: { enabled: true, endpointPicker: { name: 'p' } } }, /expected gateway.placement sidecar, found separate/],
  ['state without pods that keep their names', { engine: { state: { enabled: true } } }, /expected engine.kind StatefulSet, found Deployment/],
  ['KEDA without Prometheus', { engine: { autoscaling: { mode: 'keda' } } }, /expected keda.prometheusAddress/],
];
for (const [what, set, sentence] of refused)
  await test(`helm: ${what} is refused`, () => assert.rejects(render(set), sentence));

// ---- no dead values ----

const leaves = (node, way = []) => Object.entries(node).flatMap(([key, value]) =>
  value && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length ? leaves(value, [...way, key]) : [{ way: [...way, key], value }]);
const at = (node, way) => way.reduce((n, key) => n?.[key], node);
function put(node, way, value) {
  const copy = structuredClone(node);
  way.slice(0, -1).reduce((n, key) => (n[key] ??= {}), copy)[way.at(-1)] = value;
  return copy;
}
const merge = (a, b) => b && typeof b === 'object' && !Array.isArray(b) && a && typeof a === 'object' && !Array.isArray(a)
  ? Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((key) => [key, key in b ? merge(a[key], b[key]) : a[key]])) : b;
const schemaAt = (way) => way.reduce((n, key) => n?.properties?.[key], schema);
// Objects that are Kubernetes' own, or options: what is in them is not the chart's to use.
const opaque = (way) => ['object', undefined].includes(schemaAt(way)?.type) && !schemaAt(way)?.properties;
const leaf = leaves(values).filter(({ way }) => !way.some((_, i) => i > 0 && opaque(way.slice(0, i))) && way[1] !== 'config');
const chooses = ({ way, value }) => typeof value === 'boolean' || ['source', 'kind', 'placement', 'mode', 'clients', 'mesh'].includes(way.at(-1)) && schemaAt(way).enum;

// Every value that can carry a mark of its own gets one; those of all sets together must come out.
await test('helm: every value has an effect: what carries a mark', async () => {
  const planted = { way: ['engine', 'planted'], value: '' }; // dead, to be seen
  const marked = [...leaf.filter((l) => !chooses(l)), planted].map((l, i) => {
    const type = [schemaAt(l.way)?.type ?? 'string'].flat()[0];
    const text = `m${i}m`, number = 70000 + i;
    return { ...l, text: type === 'integer' ? `${number}` : text,
             mark: { integer: number, object: { [text]: text }, array: [schemaAt(l.way)?.items?.type === 'string' ? text : { [text]: text }] }[type] ?? text };
  });
  const missing = new Set(marked);
  for (const name of ['full', 'model-image', 'model-hostpath', 'gpu', 'tls-issuer', 'tls-secrets', 'tls-behind-ingress', 'hpa', 'keda', 'routes', 'inference-pool'])
    for (const without of [['digest', 'fullnameOverride'], []]) {
      let set = merge(values, cases[name]);
      for (const m of marked) if (!without.includes(m.way.at(-1))) set = put(set, m.way, m.mark);
      const { text } = await render(set, ['--skip-schema-validation']).catch((error) => { throw new Error(`${name}: ${error.message}`); });
      for (const m of missing) if (text.includes(m.text)) missing.delete(m);
      if (name !== 'full' && name !== 'model-image') break;
    }
  // By its name an alert is left out, so its mark leaves all in.
  assert.deepEqual([...missing].map((m) => m.way.join('.')), ['prometheusRule.disabled', 'engine.planted']);
  const names = (set) => of(rendered[set].objects, 'PrometheusRule')[0].spec.groups[0].rules.map((r) => r.alert);
  assert.ok(!names('full').includes('BitnetLatencyHigh') && names('full').includes('BitnetDown'));
});

await test('helm: every value has an effect: what chooses', async () => {
  for (const l of leaf.filter(chooses)) {
    let changed = false;
    for (const [name, set] of Object.entries(cases)) {
      const value = at(merge(values, set), l.way);
      for (const other of typeof value === 'boolean' ? [!value] : schemaAt(l.way).enum.filter((e) => e !== value)) {
        const { text } = await render(put(set, l.way, other)).catch(() => ({}));
        changed ||= text !== undefined && text !== rendered[name].text;
        if (changed) break;
      }
      if (changed) break;
    }
    assert.ok(changed, `${l.way.join('.')} changes nothing`);
  }
});

await test('helm: values, schema and templates name the same', () => {
  const inSchema = (node, way = []) => Object.entries(node.properties ?? {}).flatMap(([key, n]) => [[...way, key], ...inSchema(n, [...way, key])]);
  const extra = inSchema(schema).filter((way) => at(values, way) === undefined && !['global'].includes(way[0]) && way[1] !== 'config' && way[1] !== 'auth');
  const unknown = leaf.filter(({ way }) => !schemaAt(way));
  const text = execFileSync('grep', ['-rhoE', '\\.Values(\\.[A-Za-z]+)+', path.join(chart, 'templates')], { encoding: 'utf8' });
  const dead = [...new Set(text.trim().split('\n'))].filter((use) => at(values, use.split('.').slice(2)) === undefined);
  assert.deepEqual({ extra, unknown, dead }, { extra: [], unknown: [], dead: [] });
});

await test('helm: the schema has the options of the programs, as the schema\'s and the dashboard\'s tables print them (make chart)', () => {
  const print = (script) => execFileSync(process.execPath, [path.join(root, 'tools/host', script), build], { encoding: 'utf8', cwd: root });
  assert.equal(readFileSync(path.join(chart, 'values.schema.json'), 'utf8'), print('values_schema.mjs'));
  assert.equal(readFileSync(path.join(chart, 'dashboards/bitnet.json'), 'utf8'), print('dashboard.mjs'));
});

// ---- the daemons ----

const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-helm-'));
const openssl = (...args) => execFileSync('openssl', args, { stdio: 'pipe' });

// A CA, and a certificate of it for each component with the names that the chart's Certificate asks for.
function certificates() {
  const files = (name) => ({ cert: path.join(folder, `${name}.crt`), key: path.join(folder, `${name}.key`) });
  const ca = files('ca');
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', ca.key, '-out', ca.cert, '-days', '30', '-subj', '/CN=ca');
  const made = { ca: ca.cert };
  for (const component of ['engine', 'gateway']) {
    const { dnsNames } = find(rendered['tls-cert-manager'].objects, 'Certificate', `t-bitnet-${component}`).spec, f = files(component), request = path.join(folder, 'request');
    openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', f.key, '-out', request, '-subj', `/CN=${dnsNames[0]}`);
    writeFileSync(path.join(folder, 'names'), `subjectAltName=${[...dnsNames.map((n) => `DNS:${n}`), 'IP:127.0.0.1'].join(',')}`);
    openssl('x509', '-req', '-in', request, '-CA', ca.cert, '-CAkey', ca.key, '-CAcreateserial', '-days', '30', '-extfile', path.join(folder, 'names'), '-out', f.cert);
    made[component] = f;
  }
  return made;
}
const made = certificates();
const empty = path.join(folder, 'keys'), jwks = path.join(folder, 'jwks.json');
writeFileSync(empty, '');
writeFileSync(jwks, '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}');

// Variables whose files are there in a pod only, and the flags that name ours: flags win.
function flagsFor(variables, component) {
  const of_ = made[component];
  const ours = {
    BITNET_MODEL: ['--model', model], BITNET_TLS_CERT: ['--tls-cert', of_.cert], BITNET_TLS_KEY: ['--tls-key', of_.key], BITNET_TLS_CLIENT_CA: ['--tls-client-ca', made.ca],
    BITNET_ENGINE_TLS_CA: ['--engine-tls-ca', made.ca], BITNET_ENGINE_TLS_CERT: ['--engine-tls-cert', of_.cert], BITNET_ENGINE_TLS_KEY: ['--engine-tls-key', of_.key],
    BITNET_API_KEYS: ['--api-keys', empty], BITNET_MODEL_DIRS: ['--model-dirs', folder], BITNET_STATE_FILE: ['--state-file', path.join(folder, 'state')], BITNET_JWT_JWKS: ['--jwt-jwks', jwks],
  };
  return Object.keys(variables).flatMap((name) => ours[name] ?? []);
}
const container = (set, name) => podsOf(rendered[set].objects).flatMap((pod) => pod.spec.containers).find((c) => c.name === name);

for (const set of Object.keys(cases).filter((name) => name !== 'gpu'))
  await test(`helm: ${set}: both programs take what their ConfigMaps say`, () => {
    for (const component of ['engine', 'gateway']) {
      const c = container(set, component), variables = variablesOf(rendered[set].objects, c), flags = flagsFor(variables, component);
      const dump = execFileSync(path.join(build, c.command[0]), ['--check-config', ...flags], { env: { PATH: process.env.PATH, ...variables }, encoding: 'utf8', stdio: 'pipe' });
      const effective = Object.fromEntries(dump.split('\n').filter((line) => /^[a-z]/.test(line)).map((line) => line.split(' = ')));
      for (const [name, value] of Object.entries(variables)) {
        const option = name.slice('BITNET_'.length).toLowerCase().replaceAll('_', '-');
        assert.ok(option in effective, `${component}: no option ${option}`);
        if (!flags.includes(`--${option}`)) assert.equal(effective[option].replace(/^"(.*)"$/, '$1').replace(/^2147483648$/, '2G').replace(/^4194304$/, '4M'), value, name);
      }
    }
  });

for (const set of ['default', 'tls-secrets'])
  await test(`helm: ${set}: both daemons serve with their ConfigMaps`, async () => {
    const port = { grpc: await freePort(), engineAdmin: await freePort(), http: await freePort(), gatewayAdmin: await freePort() };
    const launch = (component, flags) => {
      const c = container(set, component), variables = variablesOf(rendered[set].objects, c);
      return start(c.command[0], [...flagsFor(variables, component), ...flags], variables);
    };
    const engine = launch('engine', ['--listen', `127.0.0.1:${port.grpc}`, '--admin-listen', `127.0.0.1:${port.engineAdmin}`]);
    const gateway = launch('gateway', ['--engine', `127.0.0.1:${port.grpc}`, '--listen', `127.0.0.1:${port.http}`, '--admin-listen', `127.0.0.1:${port.gatewayAdmin}`]);
    // As kubelet asks: by the container's probes, the path of each at the port it names.
    const probe = (component, kind) => {
      const c = container(set, component), p = c[kind].httpGet;
      const real = { 9090: port.engineAdmin, 9091: port.gatewayAdmin }[c.ports.find((x) => x.name === p.port).containerPort];
      return get(`http://127.0.0.1:${real}${p.path}`);
    };
    await until('the gateway is ready', 30000, async () => (await probe('gateway', 'readinessProbe')).status === 200, gateway);
    for (const [component, kind] of [['engine', 'livenessProbe'], ['gateway', 'livenessProbe']]) assert.equal((await probe(component, kind)).status, 200);
    if (set === 'tls-secrets') {
      assert.equal((await probe('engine', 'readinessProbe')).status, 200);
      const curl = (...args) => execFileSync('curl', ['-s', '--cacert', made.ca, '-d', '{"prompt":"Once","max_tokens":2}', '-H', 'content-type: application/json', ...args, `https://127.0.0.1:${port.http}/v1/inference`], { encoding: 'utf8' });
      assert.match(curl('--cert', made.gateway.cert, '--key', made.gateway.key), /"finish_reason"/);
      assert.throws(() => curl());
    } else {
      execFileSync(path.join(build, 'bitnet-engine'), ['healthcheck', '--target', `127.0.0.1:${port.grpc}`]); // the check that the gRPC probe makes
      assert.equal((await post(`http://127.0.0.1:${port.http}/v1/inference`, { prompt: 'Once', max_tokens: 2 })).status, 200);
      const t = find(rendered[set].objects, 'Pod', 't-bitnet-test').spec.containers[0].command;
      execFileSync(path.join(build, t[0]), [...t.slice(1, -1), t.at(-1).replace(/\/\/[^/]+/, `//127.0.0.1:${port.gatewayAdmin}`)]);
    }
    await stop(gateway);
    assert.equal((await stop(engine)).code, 0);
  });

// As they are rendered, with nothing of ours: the real ports, the mounted files, a read-only root, a user without rights.
function layOut(set, folder) {
  const { objects } = rendered[set], all = podsOf(objects).flatMap((pod) => pod.spec.containers.map((c) => ({ ...c, volumes: pod.spec.volumes ?? [] }))).filter((c) => c.ports);
  const [key, line] = execFileSync(path.join(build, 'bitnet-gateway'), ['make-key', 'test'], { encoding: 'utf8' }).trim().split('\n');
  for (const c of all) {
    const at_ = path.join(folder, c.name), variables = variablesOf(objects, c), put_ = (file, from) => {
      mkdirSync(path.join(at_, 'files', path.dirname(file)), { recursive: true });
      from === undefined ? cpSync(model, path.join(at_, 'files', file)) : writeFileSync(path.join(at_, 'files', file), from);
    };
    put_('/etc/hosts', '127.0.0.1 localhost t-bitnet-engine.ns.svc t-bit-engine.ns.svc\n');
    if (c.name === 'engine') put_(variables.BITNET_MODEL);
    for (const m of c.volumeMounts ?? []) {
      const { secret } = c.volumes.find((v) => v.name === m.name) ?? {};
      if (m.name.endsWith('-tls')) for (const [file, from] of [['ca.crt', made.ca], ['tls.crt', made[c.name].cert], ['tls.key', made[c.name].key]]) put_(`${m.mountPath}/${file}`, readFileSync(from));
      if (secret?.secretName === 'keys') for (const [file, text] of [['keys', `${line}\n`], ['jwks.json', readFileSync(jwks)]]) put_(`${m.mountPath}/${file}`, text);
    }
    writeFileSync(path.join(at_, 'env'), Object.entries(variables).map(([name, value]) => `${name}=${value}\n`).join(''));
    writeFileSync(path.join(at_, 'command'), c.command[0]);
    writeFileSync(path.join(at_, 'writable'), (c.volumeMounts ?? []).filter((m) => !m.readOnly).map((m) => `${m.mountPath}\n`).join(''));
  }
  return { containers: all, key };
}

// Every probe as kubelet makes it, and a request as a client does.
function checkOf(set, { containers, key }) {
  const address = (c, port) => `127.0.0.1:${c.ports.find((p) => p.name === port || p.containerPort === port).containerPort}`;
  const lines = containers.flatMap((c) => [c.startupProbe, c.readinessProbe, c.livenessProbe].filter(Boolean).map((p) => p.grpc
    ? `until ${build}/bitnet-engine healthcheck --target ${address(c, p.grpc.port)} 2>/dev/null; do sleep 0.1; done`
    : `until [ "$(curl -s -o /dev/null -w '%{http_code}' http://${address(c, p.httpGet.port)}${p.httpGet.path})" = 200 ]; do sleep 0.1; done`));
  const api = containers.find((c) => c.name === 'gateway').ports[0], tls = api.name.startsWith('https');
  const flags = tls ? `--cacert ${made.ca} --cert ${made.gateway.cert} --key ${made.gateway.key}` : `-H 'Authorization: Bearer ${key}'`;
  return `set -e\n${lines.join('\n')}\ncurl -sf ${flags} -H 'Content-Type: application/json' -d '{"prompt":"Once","max_tokens":2}' ${tls ? 'https' : 'http'}://127.0.0.1:${api.containerPort}/v1/inference\n`;
}

for (const set of ['full', 'tls-secrets', 'sidecar-tls']) {
  const name = `helm: ${set}: the pods' containers serve as they are rendered, on the ports they name`, pod = mkdtempSync(path.join(folder, 'pod-')), laid = layOut(set, pod);
  for (const open of [folder, pod]) chmodSync(open, 0o755);
  writeFileSync(path.join(pod, 'check'), checkOf(set, laid));
  const { status, stdout, stderr } = spawnSync('timeout', ['60', path.join(root, 'tests/helm/pod.sh'), pod], { encoding: 'utf8', env: { ...process.env, BITNET_PROGRAMS: build } });
  if (status === 77) {
    console.log(`skip ${name}: namespaces are not allowed here`);
    continue;
  }
  await test(name, () => {
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /"finish_reason"[^]*\bended 0 0\n$/);
  });
}

await done();
