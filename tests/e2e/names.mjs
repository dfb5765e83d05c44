// No dead names: every metric, label, option, variable, path, port and gRPC service that the chart, the dashboard, the alerts, the deployment files and
// the documents name is found in a running pair.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import reflection from 'grpc-js-reflection-client';
import { done, freePort, get, post, start, startEngine, test, until } from './lib/harness.mjs';
import { cases, haveHelm, render } from './lib/helm.mjs';
import { deadNames, files, known } from './lib/names.mjs';
import { alerts, dashboard, panelQueries } from './lib/prometheus.mjs';

// With TLS on one address, as some metrics are there only then.
async function startTlsGateway(target) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-names-')), cert = path.join(folder, 'cert.pem'), key = path.join(folder, 'key.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '30', '-subj', '/CN=localhost'], { stdio: 'pipe' });
  const port = await freePort(), admin = await freePort(), url = `http://127.0.0.1:${port}`;
  const child = start('bitnet-gateway', ['--engine', target, '--listen', `${url},https://127.0.0.1:${await freePort()}`, '--admin-listen', `127.0.0.1:${admin}`,
                                         '--tls-cert', cert, '--tls-key', key, '--rate-limits', 'off']);
  await until('gateway ready', 30000, async () => (await get(`${url}/health/ready`)).status === 200, child);
  return { child, url, admin: `http://127.0.0.1:${admin}` };
}

const engine = await startEngine(), gateway = await startTlsGateway(engine.target);
for (let i = 0; i < 4; i++) assert.equal((await post(`${gateway.url}/v1/inference`, { prompt: 'Once upon a time', max_tokens: 4, seed: i })).status, 200);
const services = new Set((await new reflection.GrpcReflection(engine.target, grpc.credentials.createInsecure()).listServices()));
const has = await known({ engine, gateway, services });

const sources = files();
await test('names: every name that documents, chart and deployment files give is alive', async () => {
  const dead = (await Promise.all(sources.map(({ name, body }) => deadNames(name, body, has)))).flat();
  console.log(`  # ${sources.length} files name ${Object.entries(has.named).map(([kind, names]) => `${names.size} ${kind}s`).join(', ')}`);
  assert.equal(dead.join('\n'), '');
});

if (!haveHelm) console.log('skip names: what the chart renders: helm is not here');
else await test('names: what the chart renders names nothing dead either', async () => {
  for (const set of ['full', 'tls-issuer', 'hpa', 'keda', 'routes', 'inference-pool']) assert.equal((await deadNames(set, (await render(cases[set])).text, has)).join('\n'), '');
});

// Queries once more, each by itself, as their files hold them quoted.
await test('names: the queries of alerts, and of panels with their legends', async () => {
  for (const { alert, expr, annotations } of alerts) assert.equal((await deadNames(alert, expr.replaceAll('\n', ' '), has)).join('\n'), '', annotations.summary);
  for (const { panel, query } of panelQueries) assert.equal((await deadNames(panel, query, has)).join('\n'), '');
  for (const { query } of dashboard.templating.list) assert.equal((await deadNames('variable', query.query ?? query, has)).join('\n'), '');
});

await test('names: every metric that is there is described', async () => {
  const described = { ...has, named: {} };
  for (const { name, body } of sources.filter((source) => source.name.startsWith('docs/'))) await deadNames(name, body, described);
  const parts = /_(bucket|sum|count)$/; // of a histogram
  assert.deepEqual([...has.families.keys()].filter((name) => !described.named.metric.has(name) && !parts.test(name)), []);
});

// ---- planted ----

const planted = [
  ['`bitnet_requests_lost_total` counts them', 'metric bitnet_requests_lost_total'],
  ['sum(rate(bitnet_request_duration_seconds_buckets[5m]))', 'metric bitnet_request_duration_seconds_buckets'],
  ['`bitnet_queue_depth{modell}`', 'label modell of bitnet_queue_depth'],
  ['expr: bitnet_kv_cache_blocks{state="used",shard="1"} > 1', 'label shard of bitnet_kv_cache_blocks'],
  ['sum by (tenant) (rate(bitnet_tokens_generated_total[5m]))', 'label tenant'],
  ['set `--queue-lenght 5`', 'option --queue-lenght'],
  ['bitnet-engine --model x.gguf --balance least_load', 'option --balance of bitnet-engine'],
  ['bitnet verify --threshold 5 x.gguf', 'option --threshold of bitnet verify'],
  ['BITNET_QUEUE_LENGTH: "5"', 'variable BITNET_QUEUE_LENGTH'],
  ['OTEL_EXPORTER_PLANTED_ENDPOINT', 'variable OTEL_EXPORTER_PLANTED_ENDPOINT'],
  ['httpGet: {path: /health/startup, port: http-engine}', 'path /health/startup'],
  ['curl http://127.0.0.1:8080/v1/generate', 'path /v1/generate'],
  ['containerPort: 9092', 'port 9092'],
  ['bitnet-engine at 127.0.0.1:50052', 'port 50052'],
  ['method: {service: bitnet.v1.PlantedService}', 'service bitnet.v1.PlantedService'],
];
for (const [line, sentence] of planted)
  await test(`names: planted: ${line}`, async () => assert.deepEqual(await deadNames('planted', line, has), [`planted:1: no ${sentence}`]));

await test('names: planted in a file of the chart', async () => {
  const { name, body } = sources.find((s) => s.name === 'helm/bitnet/alerts/bitnet.yaml');
  const before = await deadNames(name, body, has);
  const dead = (await deadNames(name, body.replace('bitnet_queue_depth >', 'bitnet_queue_length >'), has)).filter((sentence) => !before.includes(sentence));
  assert.equal(dead.length, 1);
  assert.match(dead[0], /no metric bitnet_queue_length$/);
});

await done();
