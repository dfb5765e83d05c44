// Live accuracy: what is recomputed is the same and shows everywhere, and an engine with a broken kernel is found out.
// timeout: 600
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { build, done, get, metric, parseEvents, post, sleep, startEngine, startGateway, startPair, stop, test, until } from './lib/harness.mjs';

const words = ['a cat', 'the sea', 'an old king', 'two brothers', 'a red house', 'the moon'];
const request = (i) => ({ prompt: `Once upon a time there was ${words[i % words.length]}`, max_tokens: 24, seed: i });
const component = async (gateway) => (await get(`${gateway.url}/health`)).json.components.quantization_engine;

const { engine, gateway } = await startPair(['--accuracy-share', '1']);

await test('accuracy: nothing measured, nothing reported', async () => {
  assert.doesNotMatch((await get(`${engine.admin}/metrics`)).text, /^bitnet_quantization_accuracy_ratio\{/m);
  assert.equal(await metric(engine.admin, 'bitnet_accuracy_violations_total', { model: 'tales' }), 0);
  assert.equal((await get(`${gateway.url}/v1/stats`)).json.inference_stats.accuracy_metrics, undefined);
  assert.equal((await get(`${gateway.url}/v1/models`)).json.models[0].performance_metrics.accuracy_score, undefined);
});

await test('accuracy: what is recomputed is the same, of every kind of request', async () => {
  await post(`${gateway.url}/v1/inference`, request(0));
  await post(`${gateway.url}/v1/inference/stream`, { ...request(1), temperature: 0 });
  await post(`${gateway.url}/v1/completions`, { ...request(2), model: 'tales', presence_penalty: 1, frequency_penalty: 0.5, logit_bias: { 300: 5 } });
  await post(`${gateway.url}/v1/inference`, { ...request(3), repetition_penalty: 1.3, top_k: 5 });
  // Of a constrained answer and a long prompt nothing is compared, and nothing dropped.
  await post(`${gateway.url}/v1/chat/completions`, { model: 'tales', max_tokens: 9, response_format: { type: 'json_object' },
                                                    messages: [{ role: 'user', content: 'A tale' }] });
  await post(`${gateway.url}/v1/completions`, { model: 'tales', max_tokens: 4, prompt: 'a tale '.repeat(300) });
  const turns = () => metric(engine.admin, 'bitnet_accuracy_requests_total', {});
  await until('compared', 240000, async () => (await turns()) >= 4);
  await sleep(100);
  assert.equal(await turns(), 4);
  assert.equal(await metric(engine.admin, 'bitnet_accuracy_requests_total', { result: 'dropped' }), 0);
  assert.equal(await metric(engine.admin, 'bitnet_quantization_accuracy_ratio', { model: 'tales' }), 1);
  assert.equal(await metric(engine.admin, 'bitnet_accuracy_tokens_total', { result: 'other' }), 0);
  assert.ok((await metric(engine.admin, 'bitnet_accuracy_tokens_total', { result: 'same' })) > 30);
});

await test('accuracy: answers, streams, models, statistics and health tell', async () => {
  assert.deepEqual((await post(`${gateway.url}/v1/inference`, request(5))).json.accuracy_metrics, { quantization_accuracy: 1 });
  const events = parseEvents((await post(`${gateway.url}/v1/inference/stream`, request(5))).text).map((e) => JSON.parse(e.data));
  assert.equal(events.find((e) => e.type === 'metrics').quantization_accuracy, 1);
  assert.equal(events.at(-1).final_accuracy, 1);
  assert.equal((await get(`${gateway.url}/v1/models`)).json.models[0].performance_metrics.accuracy_score, 1);
  assert.deepEqual((await get(`${gateway.url}/v1/stats`)).json.inference_stats.accuracy_metrics,
                   { avg_quantization_accuracy: 1, min_accuracy_seen: 1, accuracy_violations: 0 });
  assert.equal((await component(gateway)).status, 'healthy');
});
await stop(gateway.child);
await stop(engine.child);

// At the default share the first of a hundred requests is recomputed.
const broken = path.join(build, 'broken/bitnet-engine');
if (process.arch !== 'x64' || !existsSync(broken) || !/\bavx2\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))) {
  console.log('skip accuracy: a broken kernel: expected x86-64 with AVX2 and build/.../broken/bitnet-engine');
} else {
  await test('accuracy: a broken kernel is found within 100 requests', async () => {
    const bad = await startEngine(['--isa', 'avx2', '--quantization', 'i2s', '--log-format', 'json'], 'broken/bitnet-engine');
    const front = await startGateway(bad.target);
    let n = 0;
    for (; n < 100 && (await component(front)).status === 'healthy'; n++) await post(`${front.url}/v1/inference`, request(n));
    await until('found', 240000, async () => (await component(front)).status === 'degraded');
    const ratio = await metric(bad.admin, 'bitnet_quantization_accuracy_ratio', { model: 'tales', quantization: 'i2s' });
    console.log(`  # found after ${n} requests, of whose recomputed tokens ${ratio} were the same`);
    assert.ok(ratio < 0.99);
    assert.ok((await metric(bad.admin, 'bitnet_accuracy_violations_total', { model: 'tales' })) >= 1);
    assert.match((await component(front)).message, /recomputed tokens are not the same: tales/);
    const answer = (await post(`${front.url}/v1/inference`, request(1))).json;
    assert.ok(answer.accuracy_metrics.quantization_accuracy < 0.99);
    const lines = bad.child.log().split('\n').filter((line) => line.includes('not those of the reference'));
    assert.equal(lines.length, 1, 'told once');
    assert.equal(JSON.parse(lines[0]).level, 'error');
    assert.ok(!bad.child.log().includes('Once upon'));
    await stop(front.child);
    await stop(bad.child);
  });
}

await done();
