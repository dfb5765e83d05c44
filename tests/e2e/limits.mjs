// How much a client may do: exact counts and their headers on every kind of answer, who shares with whom, requests in flight,
// and pages of other origins, with a real browser. BITNET_SLOW=1 also waits for a minute to be over.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import { chromium } from 'playwright-core';
import { done, get, metric, post, startEngine, startGateway, sleep, stop, test, until } from './lib/harness.mjs';
import { bearer, file, makeKey } from './lib/tokens.mjs';

const engine = await startEngine(['--max-sequences', '8']);
async function startOn({ target }, ...args) {
  const gateway = await startGateway(target, args);
  await until('ready', 20000, async () => (await get(`${gateway.url}/health/ready`)).status === 200);
  return gateway;
}
const start = (...args) => startOn(engine, '--rate-limits', 'on', ...args);
const request = { prompt: 'Once upon a time', max_tokens: 1, seed: 7 };
const number = (answer, name) => Number(answer.headers.get(name) ?? NaN);

// Every answer with a limit says it in both ways, and they agree.
function told(answer, name, limit) {
  const remaining = number(answer, 'x-ratelimit-remaining'), date = answer.headers.get('date');
  assert.equal(number(answer, 'x-ratelimit-limit'), limit);
  assert.equal(answer.headers.get('ratelimit-policy'), `"${name}";q=${limit};w=60`);
  const [, r, t] = /^"[a-z]+";r=(\d+);t=(\d+)$/.exec(answer.headers.get('ratelimit'));
  assert.equal(Number(r), remaining);
  if (date) assert.ok(Math.abs(number(answer, 'x-ratelimit-reset') - Date.parse(date) / 1000 - Number(t)) <= 2);
  assert.ok(Number(t) <= 60);
  return remaining;
}

const usual = await start();

await test('limits: of 110 requests exactly 100 pass, and the headers count them', async () => {
  const answers = [];
  const lane = async () => { while (answers.length < 110) { const at = answers.push(null) - 1; answers[at] = await post(`${usual.url}/v1/inference`, request); } };
  await Promise.all([lane(), lane(), lane(), lane()]);
  const passed = answers.filter((a) => a.status === 200), refused = answers.filter((a) => a.status === 429);
  assert.equal(passed.length, 100);
  assert.equal(refused.length, answers.length - 100);
  assert.deepEqual(passed.map((a) => told(a, 'inference', 100)).sort((a, b) => b - a), Array.from({ length: 100 }, (_, i) => 99 - i));
  assert.equal(new Set(answers.map((a) => a.headers.get('x-ratelimit-reset'))).size, 1);
  for (const answer of refused) {
    assert.equal(told(answer, 'inference', 100), 0);
    assert.equal(answer.json.error.code, 'RATE_LIMIT_EXCEEDED');
    assert.equal(answer.json.error.type, 'rate_limit_error');
    const wait = number(answer, 'retry-after');
    assert.ok(wait >= 1 && wait <= 60);
    assert.equal(number(answer, 'x-ratelimit-retry-after'), wait);
  }
  assert.equal(await metric(usual.admin, 'bitnet_admission_rejections_total', { reason: 'rate_limit' }), refused.length);
});

await test('limits: the other classes go on: health 600, stats 60, models 10', async () => {
  const left = told(await get(`${usual.url}/health/ready`), 'health', 600);
  assert.equal(told(await get(`${usual.url}/v1/models`), 'stats', 60), 59);
  assert.equal(told(await post(`${usual.url}/v1/models/load`, {}), 'models', 10), 9);
  assert.equal(told(await get(`${usual.url}/nothing`), 'health', 600), left - 1);
  assert.equal(told(await get(`${usual.url}/v1/inference`), 'health', 600), left - 2);
  assert.equal(number(await get(`${usual.admin}/health/live`), 'x-ratelimit-limit'), NaN);
});

await test('limits: on streams, refused forms and HTTP/2 as well', async () => {
  const fresh = await start('--max-body-size', '1K');
  const stream = await post(`${fresh.url}/v1/inference/stream`, { ...request, max_tokens: 4 });
  assert.match(stream.headers.get('content-type'), /event-stream/);
  assert.equal(told(stream, 'inference', 100), 99);
  assert.equal(told(await post(`${fresh.url}/v1/chat/completions`, { nothing: 1 }), 'inference', 100), 98);
  assert.equal(told(await post(`${fresh.url}/v1/inference`, { prompt: 'x'.repeat(2000) }), 'inference', 100), 97);
  const session = http2.connect(fresh.url);
  const h2 = session.request({ ':method': 'POST', ':path': '/v1/completions', 'content-type': 'application/json' });
  h2.end(JSON.stringify({ model: 'tales', prompt: 'Once', max_tokens: 1 }));
  const [headers] = await once(h2, 'response');
  h2.resume();
  assert.equal(headers[':status'], 200);
  assert.equal(told({ headers: new Headers(Object.entries(headers).filter(([k]) => !k.startsWith(':'))) }, 'inference', 100), 96);
  session.close();
  await stop(fresh.child);
});
await stop(usual.child);

await test('limits: clients do not share, addresses are believed from trusted proxies only', async () => {
  const a = makeKey('a'), b = makeKey('b');
  const limited = ['--rate-limit-stats', '2', '--api-keys', file('keys', `${a.line}\n${b.line}\n`)];
  const strict = await start(...limited), behind = await start(...limited, '--trusted-proxies', '127.0.0.0/8,10.0.0.0/8');
  const twice = async (gateway, headers, pass) => {
    for (const expected of pass) assert.equal((await get(`${gateway.url}/v1/models`, { headers })).status, expected ? 200 : 429, JSON.stringify(headers));
  };
  for (const gateway of [strict, behind])
    for (const headers of [bearer(a.key), bearer(b.key)]) await twice(gateway, headers, [true, true, false]);
  await twice(strict, { 'x-forwarded-for': '203.0.113.1' }, [true, true, false]);
  await twice(strict, { 'x-forwarded-for': '203.0.113.2' }, [false]);
  await twice(behind, { 'x-forwarded-for': '203.0.113.1' }, [true, true, false]);
  await twice(behind, { 'x-forwarded-for': '198.51.100.7, 203.0.113.1, 10.1.1.1' }, [false]); // the left one is the client's own word
  await twice(behind, { 'x-forwarded-for': '203.0.113.2' }, [true, true, false]);
  await twice(behind, { 'x-forwarded-for': '2001:db8::1' }, [true, true, false]);
  await twice(behind, { 'x-forwarded-for': '2001:db8::ffff:1' }, [false]); // the same /64
  await twice(behind, { 'x-forwarded-for': '2001:db8:0:1::1' }, [true]);
  const line = behind.child.log().split('\n').filter(Boolean).map((l) => JSON.parse(l)).find((l) => l.address === '2001:db8::ffff:1');
  assert.equal(line.client, '2001:db8::/64');
  assert.equal(line.peer, '127.0.0.1');
  await stop(strict.child);
  await stop(behind.child);
});

await test('limits: a client\'s requests in flight, and those of all', async () => {
  const a = makeKey('a'), b = makeKey('b');
  const slow = await startEngine(['--null-model', '--null-step-us', '20000']); // what is asked for takes 38 s
  const gateway = await startOn(slow, '--rate-limits', 'on', '--client-concurrency', '2', '--max-requests', '3', '--api-keys', file('keys', `${a.line}\n${b.line}\n`));
  const { url } = gateway;
  const held = [];
  const hold = async (key) => {
    const controller = new AbortController();
    const answer = await fetch(`${url}/v1/inference/stream`, { method: 'POST', signal: controller.signal, headers: { 'content-type': 'application/json', ...bearer(key) },
                                                               body: JSON.stringify({ ...request, max_tokens: 1900 }) });
    held.push(controller);
    return answer;
  };
  const ask = (key) => post(`${url}/v1/inference`, request, { headers: bearer(key) });
  for (const _ of [1, 2]) assert.equal((await hold(a.key)).status, 200);
  const third = await ask(a.key);
  assert.equal(third.status, 429);
  assert.equal(third.json.error.code, 'QUOTA_EXCEEDED');
  assert.equal(number(third, 'retry-after'), 1);
  assert.equal(number(third, 'x-ratelimit-retry-after'), 1);
  assert.equal((await hold(b.key)).status, 200);
  const full = await ask(b.key);
  assert.equal(full.status, 503);
  assert.equal(full.json.error.code, 'SERVICE_UNAVAILABLE');
  assert.ok(number(full, 'retry-after') >= 1);
  assert.equal(told(full, 'inference', 100), 99);
  assert.equal((await get(`${url}/health/ready`)).status, 200);
  for (const reason of ['concurrency', 'max_requests']) assert.equal(await metric(gateway.admin, 'bitnet_admission_rejections_total', { reason }), 1);
  for (const controller of held) controller.abort();
  await until('all are gone', 5000, async () => (await ask(a.key)).status === 200);
  await stop(gateway.child);
  await stop(slow.child);
});

await test('limits: off means no limit and no headers', async () => {
  const gateway = await startOn(engine, '--rate-limit-stats', '1');
  for (let i = 0; i < 3; i++) {
    const answer = await get(`${gateway.url}/v1/models`);
    assert.equal(answer.status, 200);
    for (const name of answer.headers.keys()) assert.ok(!name.includes('ratelimit'), name);
  }
  await stop(gateway.child);
});

// A page that says what it could read.
const pages = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html><title>page</title>')).listen(0);
await once(pages, 'listening');
const origin = `http://localhost:${pages.address().port}`;
const key = makeKey('page');
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
async function fromPage(cors) {
  const gateway = await start('--api-keys', file('keys', `${key.line}\n`), ...(cors ? ['--cors-origins', cors] : []));
  const page = await browser.newPage();
  await page.goto(origin);
  const seen = await page.evaluate(async ([url, credential]) => {
    try {
      const answer = await fetch(`${url}/v1/inference`, { method: 'POST', headers: { 'content-type': 'application/json', authorization: `Bearer ${credential}`, 'x-stainless-lang': 'js' },
                                                          body: JSON.stringify({ prompt: 'Once', max_tokens: 1 }) });
      return { status: answer.status, text: (await answer.json()).text, remaining: answer.headers.get('x-ratelimit-remaining'), id: answer.headers.get('x-request-id') };
    } catch (error) {
      return { error: String(error) };
    }
  }, [gateway.url, key.key]);
  await page.close();
  await stop(gateway.child);
  return { seen, log: gateway.child.log() };
}

for (const [name, cors] of [['a list', `https://other.example, ${origin}`], ['*', '*']])
  await test(`limits: a page may read answers with ${name} in cors-origins`, async () => {
    const { seen, log } = await fromPage(cors);
    assert.equal(seen.status, 200);
    assert.equal(typeof seen.text, 'string');
    assert.equal(seen.remaining, '99'); // the browser's question before it was free
    assert.ok(seen.id);
    assert.match(log, /"method":"OPTIONS"[^\n]*"status":204/);
  });

await test('limits: a page of another origin may not', async () => {
  const { seen, log } = await fromPage('https://other.example');
  assert.match(seen.error, /Failed to fetch/);
  assert.match(log, /"method":"OPTIONS"[^\n]*"status":403/);
  assert.ok(!/"method":"POST"/.test(log)); // it was not even sent
});
await browser.close();
pages.close();

if (process.env.BITNET_SLOW)
  await test('limits: after a minute all is there again', async () => {
    const gateway = await start('--rate-limit-stats', '2');
    const ask = () => get(`${gateway.url}/v1/models`);
    for (const expected of [200, 200, 429]) assert.equal((await ask()).status, expected);
    await sleep(number(await ask(), 'retry-after') * 1000);
    for (const expected of [200, 200, 429]) assert.equal((await ask()).status, expected);
    await stop(gateway.child);
  });

await done();
