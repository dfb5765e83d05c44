// The page: what its parts (settings, turns, live figures, code) have to do with each other.
import { Live } from './live.js';
import { Settings } from './settings.js';
import * as snippets from './snippets.js';
import { ApiError, ask, buildBody, endpoints, errorOf, generate, headers } from './stream.js';
import { Turn, button, copyButton, grow } from './turns.js';

const $ = (id) => document.getElementById(id);
const WIDE = matchMedia('(min-width: 68rem)'), DARK = matchMedia('(prefers-color-scheme: dark)'), FINE = matchMedia('(pointer: fine)');

const EXAMPLES = {
  tales: {
    chat: ['Tell me a tale about a fox and a rabbit.', 'Tell me a tale about a little bear who lost his way.', 'Tell me a tale about a king and a clever girl.'],
    other: ['Once upon a time there was a little girl who', 'The old owl looked down from the tree and said,', 'Far away, where the snow never melts,'],
  },
  any: {
    chat: ['Explain in two sentences why the sky is blue.', 'Write a short poem about the first snow.', 'Name three uses of a paper clip, the last one surprising.'],
    other: ['Once upon a time there was a little girl who', 'The three laws of motion are', 'def fibonacci(n):'],
  },
};

const mode = () => document.querySelector('[name=mode]:checked').value;
const model = () => $('model').value;
let key = '';
try { key = sessionStorage.getItem('key') ?? ''; } catch { /* memory only, then */ }
let turns = [], running = null, retry = null; // running: the turn being answered; retry: what waits for a key
let listed = false; // the models are known, or wait for a key

const settings = new Settings($('controls'));
const live = new Live($('plots'), $('facts-live'), { key: () => key, onHealth: showHealth });
const say = (text) => ($('announce').textContent = text);

/* ---- asking ---- */

// What is sent for a turn: the turns of a chat before it are its context.
function bodyOf(turn) {
  const system = $('system').value.trim(), chat = turn.mode === 'chat';
  const before = turns.slice(0, turns.includes(turn) ? turns.indexOf(turn) : turns.length).filter((t) => t.mode === 'chat' && t.answer);
  const messages = [
    ...(system ? [{ role: 'system', content: system }] : []),
    ...before.flatMap((t) => [{ role: 'user', content: t.prompt }, { role: 'assistant', content: t.answer }]),
    { role: 'user', content: turn.prompt },
  ];
  return buildBody(turn.mode, model(), settings.values(turn.mode), chat ? { messages } : { prompt: turn.prompt });
}

// A setting out of its range is shown, which takes the panel.
function valid(what) {
  if (settings.valid(what)) return true;
  showPanel(true);
  return settings.valid(what);
}

async function run(turn) {
  if (running || !valid(turn.mode)) return;
  // In a chat the turns after this one answered what is about to change.
  if (turn.mode === 'chat') drop(turns.slice(turns.indexOf(turn) + 1).filter((t) => t.mode === 'chat'));
  running = turn;
  turn.body = bodyOf(turn);
  turn.begin();
  turn.controller = new AbortController();
  showState();
  // The button that asked for this is gone, and the focus with it.
  if (document.activeElement === document.body && FINE.matches) $('prompt').focus({ preventScroll: true });
  say('Answering');
  try {
    await generate(turn.mode, turn.body, { key, signal: turn.controller.signal, figures: turn.figures, onText: (text) => {
      const follow = atEnd();
      turn.add(text);
      if (follow) toEnd();
    } });
  } catch (error) {
    turn.stopped = error.name === 'AbortError';
    if (error.code === 'MODEL_NOT_FOUND') loadModels();
    if (!turn.stopped) turn.error = error instanceof ApiError ? error : new ApiError(String(error), { code: 'PAGE' });
  }
  const follow = atEnd();
  running = null;
  turn.end();
  showState();
  if (follow) toEnd();
  say(turn.error ? `Error: ${turn.error.message}` : `${turn.stopped ? 'Stopped' : 'Answer'}: ${turn.answer}`);
  if (turn.error?.status === 401) askKey(turn);
}

const act = {
  again: (turn) => run(turn),
  edit(turn, text) {
    if (running || !text.trim()) return false;
    turn.prompt = text;
    run(turn);
    return true;
  },
  code: (turn) => showCode(turn.mode, turn.body),
};

function send(text) {
  if (running || !text.trim() || !valid(mode())) return;
  const turn = new Turn(mode(), text, act);
  turns.push(turn);
  $('turns').append(turn.node);
  $('prompt').value = '';
  grow($('prompt'));
  toEnd();
  run(turn);
}

function drop(some) {
  for (const turn of some) turn.node.remove();
  turns = turns.filter((turn) => !some.includes(turn));
}

function clear() {
  running?.controller.abort();
  drop(turns);
  showState();
  $('prompt').focus();
}

const atEnd = () => $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 60;
const toEnd = () => ($('scroll').scrollTop = $('scroll').scrollHeight);

/* ---- what is shown ---- */

function showState() {
  for (const node of document.querySelectorAll('.asks')) node.disabled = Boolean(running);
  $('send').textContent = running ? 'Stop' : 'Send';
  $('send').classList.toggle('stop', Boolean(running));
  $('empty').hidden = turns.length > 0;
  $('clear').hidden = turns.length === 0;
}

function showMode() {
  const chat = mode() === 'chat';
  settings.show(mode());
  $('system-row').hidden = !chat;
  $('path').textContent = `POST ${endpoints[mode()].path}`;
  $('prompt-label').textContent = chat ? 'Message' : 'Prompt';
  $('prompt').placeholder = chat ? 'Write a message' : 'Write a beginning; the model goes on';
  $('greeting').textContent = chat ? 'What shall we talk about?' : 'How does it begin?';
  const examples = (EXAMPLES[model()] ?? EXAMPLES.any)[chat ? 'chat' : 'other'];
  $('examples').replaceChildren(...examples.map((text) => {
    const item = document.createElement('li');
    item.append(button(text, () => send(text), { className: 'example' }));
    return item;
  }));
}

function showHealth(health, status) {
  const state = !health ? 'offline' : health.status;
  const broken = Object.entries(health?.components ?? {}).find(([, part]) => part.status !== 'healthy');
  const was = $('health').dataset.state;
  $('health').dataset.state = state;
  $('health-text').textContent = health ? state : status ? `health is ${status}` : 'no connection';
  $('health').title = broken?.[1].message ?? (health ? `bitnetd ${health.version ?? ''}` : '');
  if (was !== state && was !== 'unknown' && state !== 'healthy') say(`The server is ${$('health-text').textContent}. ${$('health').title}`);
  if (state === 'offline' || state === 'unhealthy') listed = false;
  else if (!listed) loadModels();
}

const count = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} billion` : `${(n / 1e6).toFixed(1)} million`);

function factsOf(m) {
  const data = m?.model_metadata ?? {};
  return [m?.id, data.architecture, data.parameter_count && `${count(data.parameter_count)} parameters`,
          m?.quantization_format?.toUpperCase(), data.context_length && `${data.context_length} tokens of context`].filter(Boolean).join(' · ');
}

async function loadModels() {
  const response = await ask('/v1/models', { headers: headers(key) }).catch(() => null);
  if (!response) return;
  listed = response.ok || response.status === 401;
  if (!response.ok) {
    const error = await errorOf(response);
    $('facts').textContent = error.message;
    if (error.status === 401) askKey(null);
    return;
  }
  const list = await response.json(), chosen = model();
  const own = new Map((list.models ?? []).map((m) => [m.id, m]));
  const generates = list.data.filter(({ id }) => !own.get(id)?.computes_embeddings);
  $('model').replaceChildren(...generates.map(({ id }) => new Option(id, id, own.get(id)?.is_default, id === chosen)));
  const show = () => {
    $('facts').textContent = factsOf(own.get(model()) ?? { id: model() });
    showMode();
  };
  $('model').onchange = show;
  show();
}

/* ---- key, theme, code ---- */

// Because the server refused (`turn`: the one to send again), or because the user wants to.
function askKey(turn, refused = true) {
  retry = turn;
  $('key-label').textContent = refused ? 'This server asks for an API key.' : 'API key';
  $('key-row').hidden = false;
  if (turn) toEnd();
  $('key').focus();
}

function useKey() {
  key = $('key').value.trim();
  try { sessionStorage.setItem('key', key); } catch { /* memory only */ }
  $('key-row').hidden = true;
  $('prompt').focus();
  loadModels();
  if (retry) run(retry);
  retry = null;
}

const dark = () => document.documentElement.dataset.theme === 'dark';

function showTheme() {
  $('theme').ariaPressed = String(dark());
}

function switchTheme() {
  const theme = dark() ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem('theme', theme); } catch { /* for this visit */ }
  showTheme();
}

let shown = null;

function showTab(tab) {
  const text = snippets[tab](location.origin, shown.mode, shown.body, key);
  for (const node of $('tabs').children) {
    const selected = node.dataset.tab === tab;
    node.ariaSelected = String(selected);
    node.tabIndex = selected ? 0 : -1;
  }
  $('snippet').setAttribute('aria-labelledby', `tab-${tab}`);
  $('snippet-text').textContent = text || 'The openai package speaks the endpoints of Chat and Complete;\nthis request goes to the server\'s own.';
  $('snippet-note').textContent = key ? 'Put the key into the environment as BITNET_API_KEY.' : '';
}

function showCode(what, body) {
  shown = { mode: what, body };
  showTab(document.querySelector('[role=tab][aria-selected=true]').dataset.tab);
  $('code').showModal();
}

// The request that would go out now; with nothing written, the last one that did.
function showCurrent() {
  const text = $('prompt').value.trim(), last = turns.at(-1);
  if (!text && last?.body) showCode(last.mode, last.body);
  else showCode(mode(), bodyOf({ mode: mode(), prompt: text || $('examples').textContent && $('examples').firstChild.textContent }));
}

function turnTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...$('tabs').children], next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  showTab(next.dataset.tab);
  next.focus();
}

function showPanel(open) {
  document.body.classList.toggle('panel-open', open);
  $('show-panel').ariaExpanded = String(open);
}

/* ---- keys and buttons ---- */

function onKey(event) {
  const typing = event.target.closest?.('input:not([type=radio]):not([type=range]), textarea, select');
  if (event.key === 'Escape' && !$('code').open) {
    if (running) running.controller.abort();
    else if (!WIDE.matches && document.body.classList.contains('panel-open')) { showPanel(false); $('show-panel').focus(); }
  } else if (event.key === '/' && !typing && !$('code').open && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $('prompt').focus();
  }
}

function listen() {
  $('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    if (running) running.controller.abort();
    else send($('prompt').value);
  });
  $('prompt').addEventListener('input', () => grow($('prompt')));
  $('prompt').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    send($('prompt').value);
  });
  $('key').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    useKey();
  });
  document.addEventListener('keydown', onKey);
  $('modes').addEventListener('change', showMode);
  $('clear').addEventListener('click', clear);
  $('use-key').addEventListener('click', useKey);
  $('show-key').addEventListener('click', () => askKey(null, false));
  $('reset').addEventListener('click', () => { settings.reset(); $('system').value = ''; say('Settings are the defaults'); });
  $('theme').addEventListener('click', switchTheme);
  DARK.addEventListener('change', showTheme);
  $('show-code').addEventListener('click', showCurrent);
  $('close-code').addEventListener('click', () => $('code').close());
  $('code').addEventListener('click', (event) => event.target === $('code') && $('code').close());
  $('tabs').addEventListener('click', (event) => event.target.dataset.tab && showTab(event.target.dataset.tab));
  $('tabs').addEventListener('keydown', turnTab);
  $('copy-code').replaceWith(copyButton(() => $('snippet-text').textContent));
  $('show-panel').addEventListener('click', () => showPanel(!document.body.classList.contains('panel-open')));
  WIDE.addEventListener('change', () => showPanel(WIDE.matches));
}

if (/Mac|iPhone|iPad/.test(navigator.platform)) $('send-key').textContent = '⌘';
listen();
showTheme();
showPanel(WIDE.matches);
showMode();
showState();
live.run();
if (WIDE.matches) $('prompt').focus();
