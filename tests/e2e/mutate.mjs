// timeout: 1800
// Random mutations of valid requests over both protocols: no crash, no leak, and every connection ends in whole, well-formed answers or a
// close. MUTATIONS of them each (2,000 by default; `make mutate` sends 100,000 with the address sanitizer), from MUTATION_SEED.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { build, done, freePort, get, metric, post, start, startEngine, stop, test, until } from './lib/harness.mjs';
import { rssMiB } from './lib/raw.mjs';

const COUNT = process.env.MUTATIONS ?? '2000', SEED = process.env.MUTATION_SEED ?? '1', GROWTH_MIB = 24;
const socket = path.join(os.tmpdir(), `bitnet-mutate-${process.pid}.sock`), port = await freePort(), adminPort = await freePort();
const url = `http://127.0.0.1:${port}`, admin = `http://127.0.0.1:${adminPort}`;
const engine = await startEngine(['--null-model', '--log-level', 'warn']);
const gateway = start('bitnet-gateway', ['--engine', engine.target, '--listen', `127.0.0.1:${port},unix:${socket}`, '--admin-listen', `127.0.0.1:${adminPort}`,
                                         '--rate-limits', 'off', '--log-level', 'warn']);
await until('the gateway serves', 30000, async () => (await get(`${url}/health/ready`)).status === 200, gateway);
const mutate = (...args) => new Promise((resolve) =>
  execFile(path.join(build, 'tests/mutate/mutate'), [socket, ...args], { maxBuffer: 1 << 28 }, (error, out, err) => resolve({ code: error ? error.code : 0, out, err })));

const sizes = [];
for (const protocol of ['1', '2'])
  await test(`mutate: ${COUNT} mutations over HTTP/${protocol}: whole answers or a close`, async () => {
    const { code, out, err } = await mutate(protocol, COUNT, SEED);
    console.log(`# ${out.trim().split('\n').at(-1)}`);
    sizes.push(rssMiB(gateway));
    assert.equal(code, 0, out.slice(0, 20000) + err);
    assert.equal(gateway.exitCode, null, gateway.log());
  });

await test('mutate: afterwards the gateway serves, holds nothing, and ends with 0', async () => {
  await until('no request is active', 60000, async () => await metric(admin, 'bitnet_requests_active') === 0);
  await until('the engine is idle', 60000, async () => await metric(engine.admin, 'bitnet_requests_active') === 0);
  assert.equal((await post(`${url}/v1/inference`, { prompt: 'a', max_tokens: 3 })).json.tokens_generated, 3);
  console.log(`# ${sizes.map((size) => size.toFixed(1)).join(', ')} MiB after each`);
  if (!process.env.SAN) assert.ok(sizes[1] < sizes[0] + GROWTH_MIB);
  assert.deepEqual(await stop(gateway), { code: 0, signal: null });
  assert.doesNotMatch(gateway.log(), /Sanitizer|assert/);
});
assert.deepEqual(await stop(engine.child), { code: 0, signal: null });
await done();
