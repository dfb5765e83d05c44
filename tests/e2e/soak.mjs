// timeout: 300
// 200 clients at once, some of which cancel, run out of time, read slowly or not at all, over gRPC and through the gateway: SOAK_SECONDS of it
// (20 by default). Every request is one of a bounded set, and each stream, finished or not, is compared with what its request gives alone.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { setTimeout as sleep } from 'node:timers/promises';
import { done, haveModel, metric, root, startPair, test, until } from './lib/harness.mjs';

const SECONDS = Number(process.env.SOAK_SECONDS ?? 8), CLIENTS = Number(process.env.SOAK_CLIENTS ?? 200);
const SEED = Number(process.env.SOAK_SEED ?? 1), CHANNELS = 8, HTTP_SHARE = 0.2;
// Memory is compared between the end of the warm-up, a third, and the end, by the median of samples around: within 1 %. A short run is warm-up for the most part, and a sanitizer keeps what was freed.
const FLAT = SECONDS >= 120 ? 0.01 : 0.25, SAMPLE_MS = 250, WINDOW = 0.1;
const HUNG_MS = 60000;
const MAX_RETRY_MS = 500; // a refused client waits as long as it is told, up to this

if (!haveModel) {
  console.log('skip soak the demo model is not there');
  await done();
}

// ---- random choices ----

let state = SEED >>> 0;
const random = () => { // mulberry32
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const between = (low, high) => low + Math.floor(random() * (high - low + 1));
const pick = (list) => list[between(0, list.length - 1)];
const chance = (p) => random() < p;

// ---- the requests ----

const openings = ['Once upon a time', 'The old king', 'Peter Rabbit ran', 'In the forest there lived a', 'A fox said to the crow', 'There was once a poor miller who had',
                  'The princess', 'One day the youngest son went'];
const middles = ['', ' and then', ' who had three daughters, and the youngest of them was so beautiful that the sun itself,', ' in the middle of winter, when the snow'];
const prompt = () => pick(openings) + pick(middles) + (chance(0.3) ? ` ${pick(openings)}${pick(middles)}`.repeat(between(1, 6)) : '');
const schema = JSON.stringify({ type: 'object', properties: { name: { type: 'string', maxLength: 12 }, age: { type: 'integer' } },
                                required: ['name', 'age'], additionalProperties: false });

function sampling(rest) {
  const s = { seed: between(0, 4294967295), temperature: pick([0, 0.3, 0.7, 1, 1.5]), top_p: pick([1, 0.9, 0.5]), top_k: pick([1, 7, 40, 200]) };
  if (chance(0.3)) s.repetition_penalty = pick([1.1, 1.3]);
  if (!rest && chance(0.2)) s.min_p = 0.05;
  if (!rest && chance(0.2)) s.presence_penalty = pick([-0.5, 1]);
  if (!rest && chance(0.2)) s.frequency_penalty = 0.5;
  return s;
}

const stops = [[' and'], ['\n'], ['the king', 'ed to'], ['. '], ['zzzz']];

function grpcRequest(i) {
  const r = { prompt: prompt(), max_tokens: between(8, 120), sampling: sampling(false) };
  if (chance(0.3)) r.n = between(2, 4);
  if (chance(0.3)) r.stop = pick(stops);
  if (chance(0.2)) r.sampling.logit_bias = [{ token_id: between(10, 3000), bias: pick([-100, 3]) }];
  if (i % 8 === 0) r.response_format = pick([{ json_schema: schema }, { regex: '(yes|no|maybe)( [a-z]{1,8}){1,4}\\.' }, { json_object: true }]);
  else if (chance(0.3)) r.ignore_eos = true;
  if (i % 6 === 1) Object.assign(r, { max_tokens: 400, ignore_eos: true, logprobs: true, top_logprobs: 20, response_format: undefined, n: 1, stop: [] }); // fills windows
  else if (chance(0.2)) Object.assign(r, { logprobs: true, top_logprobs: between(0, 5) });
  return { api: 'grpc', request: r };
}

function httpRequest(i) {
  if (i % 3 === 0) {
    const r = { prompt: prompt(), max_tokens: between(8, 300), ...sampling(true) };
    if (chance(0.3)) r.stop_sequences = pick(stops);
    return { api: '/v1/inference/stream', request: r };
  }
  if (i % 3 === 1) {
    const r = { prompt: prompt(), max_tokens: between(8, 100), stream: true, ...sampling(false) };
    if (chance(0.4)) r.n = between(2, 4);
    if (chance(0.3)) r.stop = pick(stops);
    if (chance(0.3)) r.logprobs = between(0, 5);
    return { api: '/v1/completions', request: r };
  }
  const r = { messages: [{ role: 'user', content: prompt() }], max_tokens: between(8, 100), stream: true, ...sampling(false) };
  if (chance(0.3)) r.response_format = { type: 'json_schema', json_schema: { name: 'x', schema: JSON.parse(schema) } };
  if (chance(0.3)) r.n = 2;
  return { api: '/v1/chat/completions', request: r };
}

const grpcRequests = Array.from({ length: 44 }, (_, i) => grpcRequest(i));
const httpRequests = Array.from({ length: 16 }, (_, i) => httpRequest(i));
const requests = [...grpcRequests, ...httpRequests];

// ---- clients ----

const { engine, gateway } = await startPair(['--queue-limit', '160', '--max-sequences', '64', '--kv-cache-size', '16M', '--log-level', 'warn'],
                                            ['--log-level', 'warn']);
const definition = loader.loadSync('bitnet/v1/inference.proto', { keepCase: true, longs: Number, enums: String, oneofs: true, defaults: false,
                                                                   includeDirs: [path.join(root, 'proto')] });
const { InferenceService } = grpc.loadPackageDefinition(definition).bitnet.v1;
const channels = Array.from({ length: CHANNELS }, () =>
  new InferenceService(engine.target, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 }));
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });

// What came of an answer: one text for each choice, made of all that its tokens carry; how it ended.
class Answer {
  choices = [];
  ends = [];
  how = 'broken';
  n_tokens = 0;
  add(choice, what) { this.choices[choice] = (this.choices[choice] ?? '') + what; }
  whole() { return JSON.stringify([this.choices, this.ends]); }
  // Nothing came that the request alone does not give.
  beginsAs(other) { return this.choices.every((text, i) => text === undefined || (other.choices[i] ?? '').startsWith(text)); }
}

const float = (x) => new Float32Array([x ?? 0])[0];
function takeGrpc(answer, event) {
  if (event.event === 'token') {
    const choice = event.token.choice ?? 0;
    for (const t of event.token.tokens) {
      const l = t.logprob;
      const top = l ? `:${float(l.logprob)}${(l.top ?? []).map((x) => `,${x.token_id ?? 0}=${float(x.logprob)}`).join('')}` : '';
      answer.add(choice, `${t.id ?? 0}'${t.text ?? ''}'${top};`);
      answer.n_tokens++;
    }
  } else if (event.event === 'choice_end') {
    answer.ends[event.choice_end.choice ?? 0] = event.choice_end.finish_reason;
  } else {
    answer.how = event.complete.choices.some((c) => c.finish_reason === 'FINISH_REASON_DEADLINE') ? 'late' : 'finished';
    answer.usage = event.complete.usage;
  }
}

// `plan`: read, cancel (after some messages), deadline (in ms; of the call or of the request), slow (ms between reads), dead (ms until dropped).
function runGrpc({ request }, plan, extra) {
  return new Promise((resolve) => {
    const answer = new Answer();
    const r = { ...request, ...extra };
    const options = {};
    if (plan.kind === 'deadline' && plan.ofCall) options.deadline = Date.now() + plan.ms;
    else if (plan.kind === 'deadline') r.timeout_ms = plan.ms;
    const call = pick(channels).StreamGenerate(r, options);
    let n = 0;
    call.on('data', (event) => {
      takeGrpc(answer, event);
      n++;
      if (plan.kind === 'cancel' && n >= plan.after) call.cancel();
      if (plan.kind === 'slow') { call.pause(); setTimeout(() => call.resume(), plan.ms); }
      if (plan.kind === 'dead' && n === 1) { call.pause(); setTimeout(() => { call.cancel(); call.resume(); }, plan.ms); }
    });
    call.on('error', (error) => {
      answer.error = `${error.code} ${error.details}`;
      if (error.code === grpc.status.CANCELLED) answer.how = 'cancelled';
      else if (error.code === grpc.status.DEADLINE_EXCEEDED) answer.how = 'late';
      else if (error.code === grpc.status.RESOURCE_EXHAUSTED) {
        answer.how = String(error.metadata.get('grpc-status-details-bin')[0]).includes('google.rpc.RetryInfo') ? 'refused' : 'refused without retry info';
        answer.retryMs = 100;
      }
      resolve(answer);
    });
    call.on('end', () => { if (answer.how !== 'broken') resolve(answer); });
    if (plan.kind === 'cancel' && plan.after === 0) setTimeout(() => call.cancel(), plan.ms);
  });
}

function takeEvent(api, answer, block) {
  const at = block.indexOf('data: ');
  if (at < 0) return;
  const data = block.slice(at + 6);
  if (data === '[DONE]') { answer.how = 'finished'; return; }
  const json = JSON.parse(data);
  if (json.error || json.type === 'error') { answer.error = data; answer.code = json.error?.code ?? json.code; }
  else if (json.type === 'token') { answer.add(0, `${json.token_id}'${json.text}';`); answer.n_tokens++; }
  else if (json.type === 'complete') {
    answer.how = json.finish_reason === 'deadline' ? 'late' : 'finished';
    answer.ends[0] = json.finish_reason;
  } else for (const c of json.choices ?? []) {
    answer.add(c.index, `${c.text ?? c.delta.content ?? ''}${c.logprobs ? JSON.stringify(c.logprobs) : ''}`);
    answer.n_tokens++;
    if (c.finish_reason) answer.ends[c.index] = c.finish_reason;
  }
}

function runHttp({ api, request }, plan) {
  return new Promise((resolve) => {
    const answer = new Answer();
    let dropped = false, n = 0, text = '';
    const body = JSON.stringify(plan.kind === 'deadline' ? { ...request, timeout_ms: plan.ms } : request);
    const end = (how) => { if (how) answer.how = how; resolve(answer); };
    const r = http.request(gateway.url + api, { method: 'POST', agent, headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) } });
    const drop = () => { dropped = true; r.destroy(); end('cancelled'); };
    r.on('error', (error) => { if (!dropped) { answer.error = error.message; end(); } });
    r.on('response', (response) => {
      response.setEncoding('utf8');
      response.on('error', (error) => { if (!dropped) { answer.error = error.message; end(); } });
      response.on('data', (chunk) => {
        if (dropped) return;
        text += chunk;
        n++;
        if (response.statusCode !== 200) return;
        for (let at; (at = text.indexOf('\n\n')) >= 0; text = text.slice(at + 2)) takeEvent(api, answer, text.slice(0, at));
        if (plan.kind === 'cancel' && n >= plan.after) drop();
        else if (plan.kind === 'slow') { response.pause(); setTimeout(() => response.resume(), plan.ms); }
        else if (plan.kind === 'dead' && n === 1) { response.pause(); setTimeout(drop, plan.ms); }
      });
      response.on('end', () => {
        if (response.statusCode === 504 || answer.code === 'DEADLINE_EXCEEDED') end('late');
        else if (response.statusCode === 503) {
          answer.retryMs = 1000 * Number(response.headers['retry-after']);
          end(answer.retryMs > 0 ? 'refused' : 'refused without retry info');
        } else {
          if (response.statusCode !== 200) answer.error = `${response.statusCode} ${text}`;
          end();
        }
      });
    });
    if (plan.kind === 'cancel' && plan.after === 0) setTimeout(drop, plan.ms);
    r.end(body);
  });
}

async function run(request, plan, extra) {
  const limit = new AbortController();
  const hung = sleep(HUNG_MS, undefined, { ref: false, signal: limit.signal }).then(() => Object.assign(new Answer(), { how: 'hung' }), () => {});
  const answer = await Promise.race([request.api === 'grpc' ? runGrpc(request, plan, extra) : runHttp(request, plan), hung]);
  limit.abort();
  return answer;
}

function planFor(request) {
  const x = random();
  if (x < 0.14) return { kind: 'cancel', after: between(0, 12), ms: between(0, 300) };
  if (x < 0.24 && (request.api === 'grpc' || request.api === '/v1/inference/stream')) return { kind: 'deadline', ms: between(5, 900), ofCall: chance(0.5) };
  if (x < 0.34) return { kind: 'slow', ms: between(2, 60) };
  if (x < 0.42) return { kind: 'dead', ms: between(500, 4000) };
  return { kind: 'read' };
}

// How a request may end, by its plan. What was to be cancelled or to run out of time may also be through before.
const planned = { read: ['finished'], cancel: ['finished', 'cancelled'], deadline: ['finished', 'late'], slow: ['finished'], dead: ['finished', 'cancelled'] };

// ---- the soak ----

// Its own memory: pages of the mapped model come and go as the system likes.
const rss = (child) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024;
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const counts = {}, faults = [], different = [];
const tally = (name) => { counts[name] = (counts[name] ?? 0) + 1; };
const references = new Map();

await test('soak: each request is answered alone', async () => {
  for (const request of requests) {
    const answer = await run(request, { kind: 'read' });
    assert.equal(answer.how, 'finished', `${JSON.stringify(request)} ${answer.error}`);
    references.set(request, answer);
  }
});

let tokens = 0;
async function client(end, overHttp) {
  while (Date.now() < end) {
    const request = pick(overHttp ? httpRequests : grpcRequests), plan = planFor(request), reference = references.get(request);
    const answer = await run(request, plan, { priority: pick(['PRIORITY_NORMAL', 'PRIORITY_NORMAL', 'PRIORITY_LOW', 'PRIORITY_HIGH']) });
    tokens += answer.n_tokens;
    tally(`${overHttp ? 'http' : 'grpc'} ${plan.kind}: ${answer.how}`);
    tally(answer.how);
    const told = `${request.api} ${JSON.stringify(plan)}: ${answer.how} ${answer.error ?? ''}\n${JSON.stringify(request.request)}`;
    if (answer.how !== 'refused' && !planned[plan.kind].includes(answer.how)) faults.push(told);
    const same = answer.how === 'finished' ? answer.whole() === reference.whole() : answer.beginsAs(reference);
    if (!same) different.push(`${told}\n  found    ${answer.whole()}\n  expected ${reference.whole()}`);
    if (answer.how === 'refused') await sleep(Math.min(answer.retryMs, MAX_RETRY_MS) * (0.5 + random()));
  }
}

const samples = [];
const began = Date.now(), end = began + SECONDS * 1000;
const sampler = setInterval(() => samples.push({ at: (Date.now() - began) / (SECONDS * 1000), engine: rss(engine.child), gateway: rss(gateway.child) }), SAMPLE_MS);
let peakRunning = 0;
const watch = setInterval(async () => { peakRunning = Math.max(peakRunning, await metric(engine.admin, 'bitnet_requests_active').catch(() => 0)); }, 1000);
await Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(end, i < CLIENTS * HTTP_SHARE)));
clearInterval(sampler);
clearInterval(watch);
agent.destroy();

const level = (who, from) => median(samples.filter((s) => s.at >= from && s.at < from + WINDOW).map((s) => s[who]));
const growth = (who) => ({ warm: level(who, 1 / 3), last: level(who, 1 - WINDOW) });
const memory = { engine: growth('engine'), gateway: growth('gateway') };
const change = (m) => (m.last - m.warm) / m.warm;

await test('soak: nothing ended but as planned', () => assert.equal(faults.length, 0, `${faults.length}:\n${faults.slice(0, 5).join('\n')}`));
await test('soak: every stream is, or begins as, the same request alone', () =>
  assert.equal(different.length, 0, `${different.length}:\n${different.slice(0, 3).join('\n')}`));
await test('soak: each way to end was met', () => {
  for (const how of ['finished', 'cancelled', 'late']) assert.ok(counts[how] > 0, JSON.stringify(counts));
});
await test('soak: at the end nothing is held, active or waiting', async () => {
  const zero = async (name, labels) => until(`${name} ${JSON.stringify(labels ?? {})} is 0`, 10000, async () => (await metric(engine.admin, name, labels)) === 0);
  for (const name of ['bitnet_requests_active', 'bitnet_requests_running', 'bitnet_requests_waiting', 'bitnet_queue_depth']) await zero(name);
  await zero('bitnet_kv_cache_blocks', { state: 'used' });
  await until('the gateway has no request', 10000, async () => (await metric(gateway.admin, 'bitnet_requests_active')) === 0);
});
await test('soak: the same requests alone afterwards give the same', async () => {
  for (const request of requests) assert.equal((await run(request, { kind: 'read' })).whole(), references.get(request).whole(), JSON.stringify(request));
});
if (process.env.SAN) console.log('skip soak: memory is flat (a sanitizer keeps what was freed)');
else await test(`soak: the engine's memory is flat within ${FLAT * 100} % after a third`, () =>
  assert.ok(change(memory.engine) <= FLAT, JSON.stringify(memory)));
await test('soak: the engine and the gateway have logged no error', () => {
  for (const child of [engine.child, gateway.child]) assert.doesNotMatch(child.log(), /"level":"error"|ERROR/, child.log().slice(-2000));
});

console.log(`# ${SECONDS} s, ${CLIENTS} clients, ${requests.length} requests; at most ${peakRunning} active in the engine`);
console.log(`# ${JSON.stringify(counts)}`);
console.log(`# ${tokens} tokens came, ${(tokens / SECONDS).toFixed(0)} a second`);
console.log(`# engine's MiB in tenths of the run: ${Array.from({ length: 10 }, (_, i) => level('engine', i / 10).toFixed(1)).join(' ')}`);
for (const [who, m] of Object.entries(memory)) console.log(`# ${who}: ${m.warm.toFixed(1)} MiB after a third, ${m.last.toFixed(1)} at the end (${(100 * change(m)).toFixed(2)} %)`);
channels.forEach((channel) => channel.close());
await done();
