// The playground in a browser: what a new user does with it, by pointer and by keyboard, and what goes wrong meanwhile.
// The null model is the engine of most cases: it is as slow as it is told to be and ends at max_tokens only.
// timeout: 400
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { done, get, metric, model, sleep, startEngine, startGateway, startPair, stop, test, until } from './lib/harness.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
if (!existsSync(CHROMIUM)) {
  console.log(`skip playground no browser at ${CHROMIUM}`);
  process.exit(0);
}
const { chromium } = await import('playwright-core');
const run = promisify(execFile);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const shots = process.env.PLAYGROUND_SHOTS ?? mkdtempSync(path.join(os.tmpdir(), 'bitnet-playground-'));

const { engine, gateway } = await startPair(['--null-model', '--null-step-us', '12000']);
const tales = await startPair(); // for snippets: an answer with a seed is the same each time
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });

// A page of its own; everything that the browser complains about goes to `complaints`.
async function open(url = gateway.url, options = {}, before = () => {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 820 }, permissions: ['clipboard-read', 'clipboard-write'], ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.foreign = [];
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && page.complaints.push(`${m.text()} ${m.location().url}`));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('request', (r) => !r.url().startsWith(url) && !r.url().startsWith('data:') && page.foreign.push(r.url()));
  page.setDefaultTimeout(10000);
  await before(page);
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector('#health').dataset.state === 'healthy' && document.querySelector('#model').value);
  return page;
}
const close = async (page) => {
  await page.context().close();
  assert.deepEqual(page.complaints, []);
  assert.deepEqual(page.foreign, [], 'only the server itself is asked');
};
const send = async (page, text) => {
  await page.fill('#prompt', text);
  await page.press('#prompt', 'Control+Enter');
};
const ended = (page) => page.waitForFunction(() => document.querySelector('.turn') && !document.querySelector('.running'), null, { timeout: 30000 });
const answers = (page) => page.locator('.text').allInnerTexts();
const bodies = (page) => {
  const list = [];
  page.on('request', (r) => r.method() === 'POST' && list.push(r.postDataJSON()));
  return list;
};
const shot = (page, name) => page.screenshot({ path: path.join(shots, `${name}.png`) });
const setting = (page, name, value) => page.fill(`#set-${name}`, String(value));

/* ---- the files ---- */

await test('playground: the page and its parts come typed, tagged and under a strict policy', async () => {
  const page = await get(`${gateway.url}/`);
  const parts = [...page.text.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map((m) => m[1]);
  assert.ok(parts.length >= 4);
  const modules = ['settings', 'stream', 'snippets', 'turns', 'live'].map((name) => `/assets/${name}.js`);
  let bytes = page.text.length;
  for (const part of [...parts, ...modules]) {
    const { status, headers, text } = await get(gateway.url + part);
    assert.equal(status, 200, part);
    assert.match(headers.get('content-type'), part.endsWith('.css') ? /^text\/css/ : part.endsWith('.svg') ? /^image\/svg/ : /^text\/javascript/);
    assert.equal((await get(gateway.url + part, { headers: { 'if-none-match': headers.get('etag') } })).status, 304);
    assert.match(headers.get('content-security-policy'), /default-src 'none'/);
    bytes += text.length;
  }
  assert.ok(bytes < 60000, `${bytes} bytes`);
  assert.doesNotMatch(page.text, /<script>|<style|style=|onclick=/, 'nothing inline');
  assert.match((await get(`${gateway.url}/robots.txt`)).text, /User-agent/);
  assert.equal((await get(`${gateway.url}/favicon.ico`)).status, 200);
});

await test('playground: off means 404, but for robots.txt', async () => {
  const off = await startGateway(engine.target, ['--playground', 'off']);
  for (const [part, status] of [['/', 404], ['/assets/playground.js', 404], ['/favicon.ico', 404], ['/robots.txt', 200]])
    assert.equal((await get(off.url + part)).status, status, part);
  await stop(off.child);
});

/* ---- asking ---- */

await test('playground: a prompt is typed, the answer grows, and its figures come', async () => {
  const page = await open();
  await page.click('#prompt');
  await setting(page, 'max_tokens', 80);
  await page.locator('#prompt').pressSequentially('Tell me a tale');
  await page.click('#send');
  const lengths = new Set();
  for (const end = Date.now() + 10000; Date.now() < end && (await page.locator('.running').count()) > 0; await sleep(60))
    lengths.add((await page.locator('.text p').textContent()).length);
  assert.ok(lengths.size > 4, `the text was seen at ${[...lengths]}`);
  const figures = await page.locator('.figures').innerText();
  assert.match(figures, /[\d.]+ tokens\/s/);
  assert.match(figures, /first after [\d.]+ m?s/);
  assert.match(figures, /prompt \d+/);
  assert.match(figures, /80 tokens/);
  assert.match(figures, /length/);
  assert.equal(await page.locator('#announce').textContent().then((t) => t.startsWith('Answer: ')), true, 'said once, at the end');
  await close(page);
});

await test('playground: stop cancels in the engine and keeps what came', async () => {
  const page = await open(), before = await metric(engine.admin, 'bitnet_cancellations_total');
  await setting(page, 'max_tokens', 2000);
  await send(page, 'A long one');
  await page.waitForFunction(() => document.querySelector('.text p').textContent.length > 40);
  assert.equal(await metric(engine.admin, 'bitnet_requests_running'), 1);
  assert.equal(await page.textContent('#send'), 'Stop');
  await shot(page, 'streaming');
  await page.click('#send');
  await ended(page);
  await until('cancelled in the engine', 5000, async () => (await metric(engine.admin, 'bitnet_cancellations_total')) > before);
  await until('nothing runs', 5000, async () => (await metric(engine.admin, 'bitnet_requests_running')) === 0);
  assert.match(await page.locator('.figures').innerText(), /stopped/);
  assert.ok((await answers(page))[0].length > 40);
  assert.equal(await page.textContent('#send'), 'Send');
  await close(page);
});

await test('playground: a chat has a memory; edit, regenerate, copy and clear', async () => {
  const page = await open(), sent = bodies(page);
  await setting(page, 'max_tokens', 12);
  await page.fill('#system', 'Be brief.');
  await send(page, 'one');
  await ended(page);
  await send(page, 'two');
  await ended(page);
  const [first] = await answers(page);
  assert.deepEqual(sent[1].messages.map((m) => m.role), ['system', 'user', 'assistant', 'user']);
  assert.equal(sent[1].messages[2].content.trim(), first.replace(/^Answer\n+/, '').trim());
  await page.locator('.foot >> text=Regenerate').last().click();
  assert.equal(await page.locator('.asks:enabled').count(), 0, 'one at a time');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt', 'the focus is not lost');
  await ended(page);
  assert.deepEqual(sent[2], sent[1]);
  await page.locator('.foot >> text=Copy').first().click();
  await page.waitForFunction(() => [...document.querySelectorAll('.foot button')].some((b) => b.textContent === 'Copied'));
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), sent[1].messages[2].content);
  await page.locator('.asked >> text=Edit').first().click();
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('.turn').count(), 2);
  await page.locator('.asked >> text=Edit').first().click();
  await page.locator('.asked textarea').fill('uno');
  await page.keyboard.press('Control+Enter');
  await ended(page);
  assert.equal(await page.locator('.turn').count(), 1, 'what followed the old words is gone');
  assert.deepEqual(sent[3].messages.at(-1), { role: 'user', content: 'uno' });
  await page.click('#clear');
  assert.equal(await page.locator('.turn').count(), 0);
  assert.ok(await page.isVisible('#examples button'));
  await close(page);
});

await test('playground: settings go into the request of each endpoint, within their ranges', async () => {
  const page = await open(), sent = bodies(page);
  for (const [name, value] of [['temperature', 0.5], ['top_p', 0.8], ['top_k', 20], ['min_p', 0.05], ['max_tokens', 5], ['seed', 7],
                               ['repetition_penalty', 1.1], ['presence_penalty', 0.1], ['frequency_penalty', -0.1], ['stop', 'END\n\\n\\n']])
    await setting(page, name, value);
  const ours = { model: 'null-model', temperature: 0.5, top_p: 0.8, top_k: 20, max_tokens: 5, repetition_penalty: 1.1, seed: 7 };
  const theirs = { ...ours, min_p: 0.05, presence_penalty: 0.1, frequency_penalty: -0.1, stop: ['END', '\n\n'], stream: true, stream_options: { include_usage: true } };
  for (const mode of ['chat', 'text', 'native']) {
    await page.check(`[value=${mode}]`);
    await send(page, 'x');
    await ended(page);
  }
  assert.equal(await page.locator('.fault').count(), 0, await page.locator('#turns').innerText());
  assert.deepEqual(sent[0], { messages: [{ role: 'user', content: 'x' }], ...theirs });
  assert.deepEqual(sent[1], { prompt: 'x', ...theirs });
  assert.deepEqual(sent[2], { prompt: 'x', ...ours, stop_sequences: ['END', '\n\n'] });
  assert.match(await page.locator('.figures').last().innerText(), /queue [\d.]+ ms/);
  await setting(page, 'temperature', 3);
  await send(page, 'not sent');
  assert.equal(sent.length, 3);
  await page.click('#reset');
  await send(page, 'sent');
  await page.press('#prompt', 'Escape');
  await ended(page);
  assert.deepEqual(sent[3], { model: 'null-model', prompt: 'sent', max_tokens: 400 });
  await close(page);
});

await test('playground: the live figures follow the engine', async () => {
  const page = await open();
  await setting(page, 'max_tokens', 500);
  await send(page, 'Go on');
  const shown = (label, pattern) => page.waitForFunction(([name, source]) => [...document.querySelectorAll('figcaption')]
    .some((c) => c.textContent.startsWith(name) && new RegExp(source).test(c.lastChild.textContent)), [label, pattern], { timeout: 15000 });
  await shown('Tokens a second', '^[1-9]');
  await shown('Requests', '^1 running');
  await shown('KV cache', '^(0\\.[1-9]|[1-9])');
  assert.match(await page.locator('#plots path.line').first().getAttribute('d'), /^M[\d.]+ [\d.]+h0(L[\d.]+ [\d.]+)+$/);
  assert.match(await page.locator('#plots svg').first().getAttribute('aria-label'), /Tokens a second: now .*; highest/);
  await page.keyboard.press('Escape');
  await ended(page);
  await close(page);
});

await test('playground: figures that the server does not tell are not made up', async () => {
  const page = await open(gateway.url, {}, (fresh) => fresh.route('**/health', (r) => r.fulfill({ json: { status: 'healthy', components: {} } })));
  assert.match(await page.textContent('#facts-live'), /with an API key/);
  assert.equal(await page.locator('figure:visible').count(), 0);
  await close(page);
});

/* ---- theme, keyboard, access ---- */

await test('playground: the theme is the system\'s until it is chosen, and is remembered', async () => {
  const page = await open(gateway.url, { colorScheme: 'dark' });
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await paper();
  assert.equal(await page.getAttribute('#theme', 'aria-pressed'), 'true');
  await page.click('#theme');
  const light = await paper();
  assert.notEqual(light, dark);
  await page.reload();
  assert.equal(await paper(), light);
  assert.equal(await page.getAttribute('#theme', 'aria-pressed'), 'false');
  await close(page);
});

await test('playground: all of it by keyboard', async () => {
  const page = await open(gateway.url, { reducedMotion: 'reduce' });
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.textContent);
  const tabTo = async (what) => {
    for (let i = 0; i < 60; i++) {
      if ((await focused()) === what) return;
      await page.keyboard.press('Tab');
    }
    throw new Error(`Tab never came to ${what}`);
  };
  await page.evaluate(() => document.activeElement.blur());
  await page.evaluate(() => window.getSelection().removeAllRanges());
  await tabTo('skip');
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'prompt');
  await page.keyboard.type('By hand /');
  assert.equal(await page.inputValue('#prompt'), 'By hand /', 'a slash in a text is one');
  await page.keyboard.press('Control+Enter');
  await page.waitForFunction(() => document.querySelector('.text p')?.textContent.length > 20);
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.running .text p'), '::after').animationName), 'none');
  await page.keyboard.press('Escape');
  await ended(page);
  assert.match(await page.locator('.figures').innerText(), /stopped/);
  await page.locator('#show-code').focus();
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, 'solid', 'focus is seen');
  await page.keyboard.press('Enter');
  await page.locator('#tab-curl').focus();
  await page.keyboard.press('ArrowRight');
  assert.equal(await focused(), 'tab-openai');
  assert.match(await page.textContent('#snippet-text'), /from openai import OpenAI/);
  await page.keyboard.press('Escape');
  assert.equal(await page.isVisible('#code'), false);
  assert.equal(await focused(), 'show-code');
  await page.keyboard.press('/');
  assert.equal(await focused(), 'prompt');
  assert.equal(await page.inputValue('#prompt'), '');
  await close(page);
});

await test('playground: axe finds nothing serious in either theme', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await open(gateway.url, { colorScheme });
    const check = async (state) => {
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
      const serious = violations.filter((v) => ['serious', 'critical'].includes(v.impact));
      assert.deepEqual(serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(' ')}`), [], `${colorScheme}, ${state}`);
    };
    await check('empty');
    await shot(page, `empty-${colorScheme}`);
    await setting(page, 'max_tokens', 40);
    await setting(page, 'stop', 'a\nb\nc\nd\ne');
    await send(page, 'too many stops');
    await ended(page);
    assert.equal(await page.locator('.fault').count(), 1);
    page.complaints.length = 0; // the 400 that was asked for
    await setting(page, 'stop', '');
    await send(page, 'fine');
    await ended(page);
    await check('a conversation with an error');
    await shot(page, `conversation-${colorScheme}`);
    await page.click('#show-code');
    await check('code');
    await shot(page, `code-${colorScheme}`);
    await close(page);
  }
});

await test('playground: a small screen is not scrolled sideways', async () => {
  const page = await open(gateway.url, { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true });
  const fits = async (state) => assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, state);
  await fits('empty');
  await page.click('#show-panel');
  await fits('settings');
  await shot(page, 'small-settings');
  await setting(page, 'max_tokens', 0);
  await page.click('#show-panel');
  await send(page, 'w'.repeat(300));
  assert.equal(await page.evaluate(() => document.activeElement.id), 'set-max_tokens', 'what is wrong is shown');
  await setting(page, 'max_tokens', 30);
  await page.click('#show-panel');
  await page.click('#send');
  await ended(page);
  await fits('a long word');
  assert.equal(await page.evaluate(() => document.querySelector('#scroll').scrollWidth <= 360), true);
  await shot(page, 'small');
  await close(page);
});

/* ---- what must not happen, and what may ---- */

await test('playground: what a model or a user writes stays text', async () => {
  const page = await open(), probe = '<img src=x onerror="window.hit=1"><script>window.hit=2</script>';
  const event = (delta, reason = null) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`;
  await page.route('**/v1/chat/completions', (route) => route.fulfill({
    contentType: 'text/event-stream',
    body: `${event({ content: probe })}${event({ content: `\n\`\`\`html\n${probe}\n\`\`\`\n` })}${event({}, 'stop')}data: [DONE]\n\n`,
  }));
  await send(page, probe);
  await ended(page);
  assert.equal(await page.textContent('.asked p'), probe);
  assert.equal(await page.textContent('.text p'), `${probe}\n`);
  assert.equal(await page.textContent('.text pre'), `${probe}\n`);
  assert.equal(await page.locator('#turns img, #turns script').count(), 0);
  await page.click('#show-code');
  assert.equal(await page.locator('dialog img').count(), 0);
  assert.equal(await page.evaluate(() => window.hit), undefined);
  await close(page);
});

await test('playground: inline scripts and styles are refused by the policy', async () => {
  const page = await open();
  const refused = page.evaluate(() => new Promise((resolve) => document.addEventListener('securitypolicyviolation', (e) => resolve(e.effectiveDirective))));
  await page.evaluate(() => document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hit = 1' })));
  assert.match(await refused, /^script-src/);
  assert.equal(await page.evaluate(() => window.hit), undefined);
  assert.equal(page.complaints.length, 1, 'which is how the other cases would see one');
  await page.context().close();
});

await test('playground: 401 asks for a key, which is used at once and kept in the tab only', async () => {
  const page = await open(), seen = [];
  await page.route('**/v1/chat/completions', async (route) => {
    const key = await route.request().headerValue('authorization');
    seen.push(key);
    if (key === 'Bearer s3cret') return route.continue();
    const error = { code: 'AUTHENTICATION_REQUIRED', message: 'a key is needed', request_id: 'r-1', recovery_suggestions: [] };
    return route.fulfill({ status: 401, contentType: 'application/json', body: JSON.stringify({ error }) });
  });
  await setting(page, 'max_tokens', 5);
  await send(page, 'Let me in');
  await page.waitForSelector('#key:focus');
  const fault = await page.locator('.fault').innerText();
  for (const part of ['AUTHENTICATION_REQUIRED', 'a key is needed', 'HTTP 401', 'request r-1']) assert.ok(fault.includes(part), fault);
  await shot(page, 'key');
  await page.keyboard.type('s3cret');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => !document.querySelector('.running') && !document.querySelector('.fault') && document.querySelector('.figures'));
  assert.deepEqual(seen, [null, 'Bearer s3cret']);
  await page.click('#show-code');
  assert.match(await page.textContent('#snippet-text'), /Bearer \$BITNET_API_KEY/);
  assert.doesNotMatch(await page.textContent('body'), /s3cret/);
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage)).then((s) => s.includes('s3cret')), false);
  await page.context().close();
});

await test('playground: 429 says when to come back', async () => {
  const page = await open();
  const error = { code: 'RATE_LIMIT_EXCEEDED', message: 'too many requests', request_id: 'r-2', recovery_suggestions: ['slow down'] };
  await page.route('**/v1/chat/completions', (r) => r.fulfill({ status: 429, contentType: 'application/json', headers: { 'retry-after': '17' }, body: JSON.stringify({ error }) }));
  await send(page, 'Again');
  const fault = await page.locator('.fault').innerText();
  for (const part of ['RATE_LIMIT_EXCEEDED', 'too many requests', 'slow down', 'HTTP 429', 'request r-2', 'retry after 17 s']) assert.ok(fault.includes(part), fault);
  await page.context().close();
});

await test('playground: an engine that goes and a gateway that goes are both seen, and what came stays', async () => {
  const own = await startEngine(['--null-model', '--null-step-us', '12000']);
  const front = await startGateway(own.target);
  await until('pair ready', 30000, async () => (await get(`${front.url}/health/ready`)).status === 200);
  const page = await open(front.url), state = (name) => page.waitForSelector(`#health[data-state=${name}]`, { timeout: 15000 });
  await setting(page, 'max_tokens', 2000);
  await send(page, 'Long');
  await page.waitForFunction(() => document.querySelector('.text p').textContent.length > 40);
  await stop(own.child, 'SIGKILL');
  await ended(page);
  assert.match(await page.locator('.fault').innerText(), /SERVICE_UNAVAILABLE/);
  assert.ok((await answers(page))[0].length > 40);
  await state('unhealthy');
  await send(page, 'Still there?');
  await ended(page);
  assert.match(await page.locator('.fault').last().innerText(), /SERVICE_UNAVAILABLE[\s\S]*HTTP 503[\s\S]*retry after \d+ s/);
  await shot(page, 'engine-gone');
  await stop(front.child, 'SIGKILL');
  await state('offline');
  await send(page, 'And you?');
  await ended(page);
  assert.match(await page.locator('.fault').last().innerText(), /NETWORK.*cannot be reached/);
  await page.context().close();
});

/* ---- the same request elsewhere ---- */

// Stands in for the openai package, which neither Debian nor npm has for Python: the same calls, sent as that package sends them.
const OPENAI = `
import json, requests
from types import SimpleNamespace as Object
def objects(value):
    if isinstance(value, dict): return Object(**{k: objects(v) for k, v in value.items()})
    return [objects(v) for v in value] if isinstance(value, list) else value
class Calls:
    def __init__(self, url, key): self.url, self.key = url, key
    def create(self, *, model, extra_body=None, **rest):
        known = {"messages", "prompt", "temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty", "seed", "stop", "stream", "stream_options"}
        assert not set(rest) - known, set(rest) - known
        answer = requests.post(self.url, json={"model": model, **rest, **(extra_body or {})}, headers={"Authorization": "Bearer " + self.key}, stream=True)
        assert answer.ok, answer.text
        for line in answer.iter_lines():
            if line.startswith(b"data: {"):
                chunk = objects(json.loads(line[6:]))
                for choice in chunk.choices:
                    if hasattr(choice, "delta") and not hasattr(choice.delta, "content"): choice.delta.content = None
                yield chunk
class OpenAI:
    def __init__(self, *, base_url, api_key):
        self.chat = Object(completions=Calls(base_url + "/chat/completions", api_key))
        self.completions = Calls(base_url + "/completions", api_key)
`;

await test('playground: curl and Python run as printed and give the same answer', async () => {
  const page = await open(tales.gateway.url), folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-snippets-'));
  const prompt = `It's "so" $HOME \`id\` !x \\n\nünï 🦊 {end}`;
  writeFileSync(path.join(folder, 'openai.py'), OPENAI);
  for (const [name, value] of [['max_tokens', 24], ['seed', 7], ['top_k', 40], ['min_p', 0.01], ['stop', 'x\'"\n\\n\\n\\n']]) await setting(page, name, value);
  await page.fill('#system', 'You\'re "it".');
  for (const mode of ['chat', 'text', 'native']) {
    await page.check(`[value=${mode}]`);
    await send(page, prompt);
    await ended(page);
    const turn = page.locator('.turn').last();
    await turn.locator('.foot >> text=Copy').click();
    const answer = await page.evaluate(() => navigator.clipboard.readText());
    assert.ok(answer.length > 10);
    await turn.locator('.foot >> text=Code').click();
    const snippet = async (tab) => {
      await page.click(`#tab-${tab}`);
      await page.click('#code .dialog-foot button');
      return page.evaluate(() => navigator.clipboard.readText());
    };
    const { stdout } = await run('bash', ['-c', await snippet('curl')]);
    const text = stdout.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)))
      .map((e) => e.text ?? e.choices?.[0]?.delta?.content ?? e.choices?.[0]?.text ?? '').join('');
    assert.equal(text, answer, `curl, ${mode}`);
    for (const tab of mode === 'native' ? ['requests'] : ['requests', 'openai']) {
      const python = await run('/usr/bin/python3', ['-c', await snippet(tab)], { env: { ...process.env, PYTHONPATH: folder, PYTHONIOENCODING: 'utf-8' } });
      assert.equal(python.stdout, `${answer}\n`, `${tab}, ${mode}`);
    }
    await page.click('#close-code');
  }
  rmSync(folder, { recursive: true });
  await close(page);
});

await test('playground: a real model tells a tale', async () => {
  const page = await open(tales.gateway.url);
  assert.match(await page.textContent('#facts'), /tales · bitnet-b1.58 · 11.0 million parameters/);
  await setting(page, 'max_tokens', 60);
  await setting(page, 'seed', 7); // not every tale is long
  await page.locator('#examples button').first().click();
  await ended(page);
  assert.ok((await answers(page))[0].length > 80);
  await shot(page, `tale-${path.basename(model, '.gguf')}`);
  await close(page);
});

await browser.close();
if (!process.env.PLAYGROUND_SHOTS) rmSync(shots, { recursive: true });
await done();
