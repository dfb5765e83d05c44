// timeout: 180
// Mutual TLS between all - clients, gateway, engine - and all certificates replaced under load, their CA too, while every connection to the engine
// lives for a second only: no request fails. SCALE=full goes round more often.
import assert from 'node:assert/strict';
import { mkdirSync, copyFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, freePort, get, metric, model, root, sleep, start, stop, test, until } from './lib/harness.mjs';
import { file, folder, makeCa, makeCert, read } from './lib/certs.mjs';

const ROUNDS = process.env.SCALE === 'full' ? 5 : 1, LOOK_MS = 1600; // the gateway looks at the engines' files every second

for (const ca of ['ca0', 'ca1', 'stranger']) makeCa(ca);
for (const i of [0, 1]) for (const who of ['engine', 'gateway', 'inner', 'client']) makeCert(`${who}${i}`, `ca${i}`);
makeCert('nobody', 'stranger');
writeFileSync(file('both.pem'), Buffer.concat([read('ca0.pem'), read('ca1.pem')]));

// All files at a time, as volumes of secrets do it: a link to a folder is replaced by another one.
let n_sets = 0;
function publish(ca, i) {
  const set = `set${n_sets++}`;
  mkdirSync(file(set));
  copyFileSync(file(`${ca}.pem`), path.join(folder, set, 'ca.pem'));
  for (const who of ['engine', 'gateway', 'inner', 'client'])
    for (const kind of ['pem', 'key']) copyFileSync(file(`${who}${i}.${kind}`), path.join(folder, set, `${who}.${kind}`));
  symlinkSync(set, file('next'));
  renameSync(file('next'), file('live'));
}
publish('ca0', 0);
const live = (name) => file(`live/${name}`);

const [grpcPort, engineAdmin, port, gatewayAdmin] = [await freePort(), await freePort(), await freePort(), await freePort()];
const engine = start('bitnet-engine', ['--model', model, '--null-model', '--null-step-us', '2000', '--listen', `127.0.0.1:${grpcPort}`, '--admin-listen', `127.0.0.1:${engineAdmin}`,
  '--tls-cert', live('engine.pem'), '--tls-key', live('engine.key'), '--tls-client-ca', live('ca.pem'), '--max-connection-age-ms', '1000']);
await until('engine ready', 30000, async () => (await get(`http://127.0.0.1:${engineAdmin}/health/ready`)).status === 200, engine);
const gateway = start('bitnet-gateway', ['--engine', `127.0.0.1:${grpcPort}`, '--engine-tls-ca', live('ca.pem'), '--engine-tls-cert', live('inner.pem'), '--engine-tls-key', live('inner.key'),
  '--listen', `https://127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${gatewayAdmin}`, '--rate-limits', 'off',
  '--tls-cert', live('gateway.pem'), '--tls-key', live('gateway.key'), '--tls-client-ca', live('ca.pem')]);
const admin = `http://127.0.0.1:${gatewayAdmin}`;
await until('ready', 30000, async () => (await get(`${admin}/health/ready`)).status === 200, gateway);

// One answer and who gave it; `identity` is what the client shows and believes.
const identity = () => ({ ca: read('live/ca.pem'), cert: read('live/client.pem'), key: read('live/client.key') });
const ask = (options) => new Promise((resolve) => {
  const request = https.request(`https://127.0.0.1:${port}/v1/inference`, { method: 'POST', servername: 'localhost', headers: { 'content-type': 'application/json' }, ...options }, (response) => {
    const { issuer } = response.socket.getPeerCertificate();
    response.resume().on('end', () => resolve({ status: response.statusCode, issuer: issuer?.CN })).on('error', (error) => resolve({ error }));
  });
  request.on('error', (error) => resolve({ error }));
  request.end(JSON.stringify({ prompt: 'Once', max_tokens: 3 }));
});

const definition = loader.loadSync('bitnet/v1/inference.proto', { includeDirs: [path.join(root, 'proto')] });
const { InferenceService } = grpc.loadPackageDefinition(definition).bitnet.v1;
const askEngine = (ca, pair) => new Promise((resolve) => {
  const credentials = grpc.credentials.createSsl(read(ca), pair ? read(`${pair}.key`) : null, pair ? read(`${pair}.pem`) : null);
  const client = new InferenceService(`localhost:${grpcPort}`, credentials);
  client.Generate({ prompt: 'Once', max_tokens: 1 }, { deadline: Date.now() + 5000 }, (error) => { client.close(); resolve(error?.code ?? 0); });
});

await test('rotate: who has no certificate of the CA is refused, at the gateway and at the engine', async () => {
  assert.equal((await ask({ ...identity(), agent: false })).status, 200);
  assert.equal(await askEngine('ca0.pem', 'client0'), 0);
  for (const pair of [undefined, 'nobody']) {
    const shown = pair ? { cert: read(`${pair}.pem`), key: read(`${pair}.key`) } : {};
    assert.ok((await ask({ ca: read('ca0.pem'), ...shown, agent: false })).error);
    assert.equal(await askEngine('ca0.pem', pair), grpc.status.UNAVAILABLE);
  }
});

await test('rotate: certificates and their CA are replaced under load, and no request fails', async () => {
  let on = true, n = 0;
  const failed = [], agent = new https.Agent({ keepAlive: true, ...identity() });
  const clients = [() => ({ agent }), () => ({ ...identity(), agent: false }), () => ({ ...identity(), agent: false })].map(async (options) => {
    while (on) {
      const { status, error } = await ask(options());
      n++;
      if (status !== 200) failed.push(`${n}: ${status ?? error}`);
      await sleep(1);
    }
  });
  for (let i = 0; i < ROUNDS; i++) {
    const [old, fresh] = [i % 2, (i + 1) % 2];
    for (const [ca, who] of [['both', old], ['both', fresh], [`ca${fresh}`, fresh]]) {
      publish(ca, who);
      gateway.kill('SIGHUP');
      await sleep(LOOK_MS);
    }
    assert.equal((await ask({ ...identity(), agent: false })).issuer, `ca${fresh}`);
    assert.ok((await ask({ ca: read('both.pem'), cert: read(`client${old}.pem`), key: read(`client${old}.key`), agent: false })).error, 'the old certificate is refused');
    assert.equal(await askEngine('both.pem', `client${old}`), grpc.status.UNAVAILABLE);
    assert.equal(await askEngine(`ca${fresh}.pem`, `client${fresh}`), 0);
  }
  on = false;
  await Promise.all(clients);
  agent.destroy();
  console.log(`# ${3 * ROUNDS} replacements, ${n} requests, ${failed.length} failed; ${(engine.log().match(/certificate taken/g) ?? []).length} taken by the engine`);
  assert.deepEqual(failed.slice(0, 3), []);
  assert.ok(n > 3 * ROUNDS, 'requests went on meanwhile'); // how many is the machine's affair
  assert.ok(!/"state":"down","before":"serving"/.test(gateway.log()), 'the engine was up all the time');
  assert.equal(await metric(admin, 'bitnet_engine_up'), 1);
  for (const child of [engine, gateway]) assert.ok(!/not taken/.test(child.log()), child.log().slice(-2000));
});

await Promise.all([stop(gateway), stop(engine)]);
await done();
