// bitnet-load against an engine and a gateway on the demo model, and against servers that are wrong on purpose.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { build, done, haveModel, metric, startPair, test } from './lib/harness.mjs';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bitnet-load-'));
const load = (args, options = {}) => new Promise((resolve) => {
  const child = execFile(path.join(build, 'bitnet-load'), args, { timeout: 60000 }, (error, out, err) =>
    resolve({ code: child.exitCode, out, err, json: args.includes('--json') && out ? JSON.parse(out) : undefined }));
  if (options.interruptAfterMs) setTimeout(() => child.kill('SIGINT'), options.interruptAfterMs);
});
const addsUp = (requests) => {
  const { ended, refused_with_retry: retry, ...outcomes } = requests;
  assert.equal(Object.values(outcomes).reduce((a, b) => a + b), ended);
  assert.ok(retry <= requests.refused);
};

if (!haveModel) {
  console.log('skip load the demo model is not there');
  await done();
}
const { engine, gateway } = await startPair(['--queue-limit', '4', '--max-sequences', '4']);
const grpc = `grpc://${engine.target}`;
const urls = [grpc, ...['/v1/inference/stream', '/v1/completions', '/v1/chat/completions'].map((p) => gateway.url + p)];

await test('load: a closed loop over each API: no errors, the same texts as alone, counts add up', async () => {
  for (const url of urls) {
    const { code, json, err } = await load([url, '--clients', '3', '--requests', '12', '--duration', '0', '--prompts', '3', '--max-tokens', '12',
                                            '--verify-alone', '--json']);
    assert.equal(code, 0, url + err + JSON.stringify(json));
    const [level] = json.levels;
    addsUp(level.requests);
    assert.equal(level.requests.completed, 12);
    assert.equal(json.alone.requests.completed, 3);
    assert.deepEqual(level.texts, { compared: 12, different: 0, not_compared: 0 });
    assert.equal(level.end_to_end_ms.count, 12);
    assert.ok(level.per_second.tokens > 0 && level.bytes.received > 0);
    for (const name of ['time_to_first_token_ms', 'between_tokens_ms', 'end_to_end_ms']) {
      const { p50, p90, p99, max } = level[name];
      assert.ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 <= max, `${name} ${JSON.stringify(level[name])}`);
    }
  }
});

await test('load: what clients count is what the engine counted', async () => {
  const before = await metric(engine.admin, 'bitnet_tokens_generated_total');
  const { code, json } = await load([grpc, '--clients', '2', '--requests', '6', '--duration', '0', '--max-tokens', '15', '--ignore-eos',
                                     '--prompt-tokens', '20', '--json']);
  assert.equal(code, 0);
  const [level] = json.levels;
  assert.equal(level.prompt_tokens.mean, 20);
  assert.equal(Math.round(level.per_second.tokens * level.seconds), 6 * 15);
  assert.equal(await metric(engine.admin, 'bitnet_tokens_generated_total') - before, 6 * 15);
});

await test('load: open loop with cancels, deadlines, slow and dead readers ends as planned', async () => {
  for (const url of urls.slice(0, 2)) {
    const { code, json, err } = await load([url, '--rate', '20', '--duration', '2', '--prompts', '4', '--verify', '--allow-refused', '--max-tokens', '10',
                                            '--cancel-share', '0.2', '--cancel-after', '4', '--deadline-share', '0.1', '--deadline-ms', '200', '--slow-share', '0.2',
                                            '--slow-ms', '5', '--dead-share', '0.1', '--dead-ms', '200', '--low-share', '0.2', '--high-share', '0.2', '--json']);
    assert.equal(code, 0, err + JSON.stringify(json));
    addsUp(json.levels[0].requests);
    assert.ok(json.levels[0].requests.cancelled > 0 && json.levels[0].requests.completed > 0);
  }
});

await test('load: a full queue refuses, says when to come back, and that is an error unless it is allowed', async () => {
  for (const url of urls.slice(0, 2)) {
    const args = [url, '--clients', '40', '--requests', '60', '--duration', '0', '--retry-ms', '50', '--json'];
    const { code, json } = await load(args);
    assert.equal(code, 1);
    const { requests, errors, refusal_ms: refusal } = json.levels[0];
    addsUp(requests);
    assert.ok(requests.refused > 0 && requests.failed === 0);
    assert.equal(requests.refused_with_retry, requests.refused);
    assert.equal(refusal.count, requests.refused);
    assert.match(errors[0].kind, /^(RESOURCE_EXHAUSTED|503) SERVICE_UNAVAILABLE$/);
    assert.equal((await load([...args, '--allow-refused'])).code, 0);
  }
});

await test('load: a trace at two speeds, its table and picture', async () => {
  const trace = path.join(dir, 'trace'), svg = path.join(dir, 'load.svg');
  writeFileSync(trace, '0 10 5\n0.1, 20, 8 # the second\n0.2 30 10\n');
  const { code, out, err } = await load([grpc, '--trace', trace, '--speed', '1,2', '--ignore-eos', '--svg', svg]);
  assert.equal(code, 0, err);
  assert.match(out, /speed completed +refused/);
  assert.match(out, /^ +2 +3 +0 +0/m);
  assert.match(readFileSync(svg, 'utf8'), /^<svg [^]*<circle [^]*<\/svg>\n$/);
});

await test('load: Ctrl-C reports what there was', async () => {
  for (const url of urls.slice(0, 2)) {
    const { code, json } = await load([url, '--clients', '2', '--duration', '50', '--json'], { interruptAfterMs: 1000 });
    assert.equal(code, 0);
    assert.equal(json.interrupted, true);
    addsUp(json.levels[0].requests);
    assert.ok(json.levels[0].requests.interrupted <= 2 && json.levels[0].seconds < 10);
  }
});

// A server of the completions API that answers as `answer` says.
const wrong = async (answer) => {
  const server = http.createServer((request, response) => request.resume().on('end', () => answer(response, wrong.n++)));
  wrong.n = 0;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const result = await load([`http://127.0.0.1:${server.address().port}/v1/completions`, '--clients', '2', '--requests', '8', '--duration', '0', '--retry-ms', '1',
                             '--prompts', '2', '--verify', '--json']);
  server.closeAllConnections();
  server.close();
  return result;
};
const head = (response) => response.writeHead(200, { 'Content-Type': 'text/event-stream' });
const chunk = (text) => `data: {"choices":[{"index":0,"text":"${text}"}]}\n\n`;

await test('load: another text for the same prompt and seed is noticed', async () => {
  const { code, json } = await wrong((response, n) => head(response).end(`${chunk('one')}${chunk(n === 5 ? 'two' : 'three')}data: [DONE]\n\n`));
  assert.equal(code, 1);
  assert.equal(json.different_texts, 1);
  assert.match(json.levels[0].errors[0].kind, /another text for prompt [01]/);
});

await test('load: streams without an end, broken ones and errors are told apart', async () => {
  const cases = [
    [(response) => head(response).end(chunk('one')), 'client: a stream without its last event'],
    [(response) => { head(response).write(chunk('one')); setTimeout(() => response.destroy(), 20); }, /^client: (not an answer|the connection|Connection reset)/],
    [(response) => head(response).end(`${chunk('one')}data: {"error":{"code":"INFERENCE_FAILED"}}\n\n`), 'INFERENCE_FAILED event'],
    [(response) => response.writeHead(500).end('{"error":{"code":"INTERNAL_ERROR"}}'), '500 INTERNAL_ERROR'],
  ];
  for (const [answer, kind] of cases) {
    const { code, json } = await wrong(answer);
    assert.equal(code, 1);
    assert.equal(json.levels[0].requests.failed, 8);
    if (kind instanceof RegExp) assert.match(json.levels[0].errors[0].kind, kind);
    else assert.deepEqual(json.levels[0].errors, [{ kind, count: 8 }]);
  }
});

await test('load: a server that closes idle connections is no error', async () => {
  const { code, json } = await wrong((response) => { head(response).end(`${chunk('x')}data: [DONE]\n\n`); response.socket.setTimeout(1, () => response.socket.destroy()); });
  assert.equal(code, 0, JSON.stringify(json.levels[0].errors));
  assert.equal(json.levels[0].requests.completed, 8);
});

await test('load: wrong usage says what is expected and ends with 2', async () => {
  for (const [args, pattern] of [[['--clients', '0'], /--clients: expected an integer/], [['--rate', '1', '--clients', '1'], /expected one of/],
                                 [['ftp://x'], /expected grpc:/], [['--trace', '/nowhere'], /cannot open/], [['--requests', 'x'], /expected an integer/],
                                 [['--duration', '0'], /expected --duration/], [['a', 'b'], /one URL/]]) {
    const { code, err } = await load(args);
    assert.equal(code, 2, args.join(' '));
    assert.match(err, pattern);
  }
});

rmSync(dir, { recursive: true });
await done();
