// timeout: 300
// A client that goes away frees its sequence within one step, over every protocol, streaming or not. Counted in tokens: the null model's
// steps are long, so at most the step that was under way when the client left may still add its token.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { done, metric, root, startPair, stop, test, until } from './lib/harness.mjs';

const STEP_MS = 200, BEFORE_LEAVING = 2;
const { engine, gateway } = await startPair(['--null-model', '--null-step-us', String(STEP_MS * 1000), '--coalesce', 'off', '--speculation', 'off']);
const definition = loader.loadSync('bitnet/v1/inference.proto', { keepCase: true, longs: Number, enums: String, oneofs: true, includeDirs: [path.join(root, 'proto')] });
const inference = new (grpc.loadPackageDefinition(definition).bitnet.v1.InferenceService)(engine.target, grpc.credentials.createInsecure());
const body = JSON.stringify({ prompt: 'Once', max_tokens: 1000 });
const chat = JSON.stringify({ messages: [{ role: 'user', content: 'a' }], max_tokens: 1000, stream: true });
const generated = () => metric(engine.admin, 'bitnet_tokens_generated_total');
const running = () => metric(engine.admin, 'bitnet_requests_running');
const json = { 'content-type': 'application/json' };

// Resolves when so many tokens came: what `pattern` matches in the text of a stream.
const tokens = (stream, pattern) => new Promise((resolve, reject) => {
  let text = '';
  stream.on('error', reject).on('data', (chunk) => {
    text += chunk;
    if ((text.match(pattern) ?? []).length >= BEFORE_LEAVING) resolve();
  });
});
const quietly = (emitter) => emitter.on('error', () => {});

function overHttp1(target, data, pattern) {
  return async () => {
    const call = quietly(http.request(gateway.url + target, { method: 'POST', headers: json }));
    call.end(data);
    const [response] = pattern ? await once(call, 'response') : [];
    if (pattern) await tokens(quietly(response), pattern);
    return () => call.destroy();
  };
}

function overHttp2(target, data, pattern, leave) {
  return async () => {
    const session = quietly(http2.connect(gateway.url));
    const stream = quietly(session.request({ ':method': 'POST', ':path': target, ...json }));
    stream.end(data);
    if (pattern) await tokens(stream, pattern);
    return () => leave(session, stream);
  };
}
const reset = (session, stream) => { stream.close(http2.constants.NGHTTP2_CANCEL); stream.on('close', () => session.close()); };
const destroy = (session) => session.destroy();

// Each begins a request and returns how its client leaves. Those without a stream wait for the engine's count.
const clients = {
  'HTTP/1.1, stream': { streams: true, begin: overHttp1('/v1/inference/stream', body, /^event: token$/gm) },
  'HTTP/1.1, OpenAI stream': { streams: true, begin: overHttp1('/v1/chat/completions', chat, /"delta":\{"content":/g) },
  'HTTP/1.1, whole answer': { begin: overHttp1('/v1/inference', body) },
  'HTTP/1.1, our half of the connection closed': {
    async begin() {
      const socket = quietly(net.connect(gateway.port, gateway.host));
      socket.write(`POST /v1/inference HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      return () => socket.end();
    },
  },
  'HTTP/2, stream, reset': { streams: true, begin: overHttp2('/v1/inference/stream', body, /^event: token$/gm, reset) },
  'HTTP/2, stream, connection lost': { streams: true, begin: overHttp2('/v1/inference/stream', body, /^event: token$/gm, destroy) },
  'HTTP/2, whole answer, reset': { begin: overHttp2('/v1/inference', body, undefined, reset) },
  'gRPC, stream': {
    streams: true,
    async begin() {
      const call = quietly(inference.StreamGenerate({ prompt: 'Once', max_tokens: 1000 }));
      let n = 0;
      await new Promise((resolve) => call.on('data', (event) => { if (event.event === 'token' && ++n === BEFORE_LEAVING) resolve(); }));
      return () => call.cancel();
    },
  },
  'gRPC, whole answer': {
    async begin() {
      const call = inference.Generate({ prompt: 'Once', max_tokens: 1000 }, () => {});
      return () => call.cancel();
    },
  },
};

// How many tokens came after the client had seen its second one, and left.
let last = 0, left = 0;
async function leaveOnce({ streams, begin }) {
  assert.equal(await generated(), last, 'tokens of the client before this one');
  const leave = await begin();
  // It leaves as soon as the token is seen, which is at the beginning of a step.
  while (!streams && await generated() < last + BEFORE_LEAVING);
  leave();
  left++;
  await until('the sequence is freed', 20000, async () => await running() === 0);
  const seen = last + BEFORE_LEAVING;
  last = await generated();
  return last - seen;
}

// A busy machine may hold up the news of it for longer than a step, but not each time.
for (const [name, client] of Object.entries(clients))
  await test(`disconnect: ${name}: at most the token under way comes after it`, async () => {
    const after = [];
    do after.push(await leaveOnce(client)); while (after.at(-1) > 1 && after.length < 5);
    assert.ok(after.at(-1) <= 1, `${after} tokens after the client left`);
    assert.equal(await metric(engine.admin, 'bitnet_kv_cache_blocks', { state: 'used' }), 0);
  });

await test('disconnect: each one is counted as a cancellation', async () =>
  assert.equal(await metric(engine.admin, 'bitnet_cancellations_total', { cause: 'client' }), left));

inference.close();
await stop(gateway.child);
await stop(engine.child);
await done();
