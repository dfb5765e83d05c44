// Requests to the three endpoints that stream, and what comes back: text as it arrives, then figures, or an ApiError.

export const endpoints = {
  chat: { path: '/v1/chat/completions', openai: true },
  text: { path: '/v1/completions', openai: true },
  native: { path: '/v1/inference/stream', openai: false },
};

// An error as the server tells it; `status` is 0 when none was reached.
export class ApiError extends Error {
  constructor(message, fields) {
    super(message);
    Object.assign(this, { status: 0, code: '', requestId: '', retryAfter: '', suggestions: [] }, fields);
  }
}

const pruned = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== ''));

// The request's body. `messages` is the conversation of a chat, `prompt` the text of the others.
export function buildBody(mode, model, settings, { messages, prompt }) {
  const { stop, ...sampling } = settings;
  if (mode === 'native') return pruned({ model, prompt, ...sampling, stop_sequences: stop });
  return pruned({ model, messages, prompt, ...sampling, stop, stream: true, stream_options: { include_usage: true } });
}

export const headers = (key) => ({ 'Content-Type': 'application/json', ...(key ? { Authorization: `Bearer ${key}` } : {}) });

// fetch, with a connection that fails told apart from one that was stopped.
export async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server cannot be reached. Is it running, and is this machine online?', { code: 'NETWORK' });
  }
}

export async function errorOf(response) {
  const text = await response.text().catch(() => '');
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { /* something between us and the gateway answered */ }
  return new ApiError(error.message ?? (text.slice(0, 300) || response.statusText), {
    status: response.status,
    code: error.code,
    requestId: error.request_id ?? response.headers.get('x-request-id'),
    retryAfter: response.headers.get('retry-after'),
    suggestions: error.recovery_suggestions ?? [],
  });
}

// The data of each event of a Server-Sent Events body. Comments and other fields are passed over.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === 'AbortError') throw error;
      throw new ApiError('The connection was lost in the middle of the answer.', { code: 'NETWORK' });
    });
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart());
      if (data.length > 0) yield data.join('\n');
    }
  }
}

// What an event says, in one form for the three endpoints.
function read(mode, event, figures) {
  if (mode === 'native') {
    if (event.type === 'metrics') figures.queueMs = event.queue_time_ms;
    if (event.type === 'complete')
      Object.assign(figures, { completionTokens: event.total_tokens, finish: event.finish_reason, seed: event.seed, whole: true });
    return event.type === 'token' ? event.text : '';
  }
  if (event.usage)
    Object.assign(figures, {
      promptTokens: event.usage.prompt_tokens,
      completionTokens: event.usage.completion_tokens,
      cachedTokens: event.usage.prompt_tokens_details?.cached_tokens,
    });
  const choice = event.choices?.[0];
  if (choice?.finish_reason) figures.finish = choice.finish_reason;
  return (mode === 'chat' ? choice?.delta?.content : choice?.text) ?? '';
}

// Sends and reads to the end. `onText` gets each piece; `figures` (the caller's object) fills as they become known, so that
// a stopped answer has its own too. Throws ApiError, or the AbortError of `signal`.
export async function generate(mode, body, { key, signal, onText, figures }) {
  const began = performance.now();
  let first = 0, last = 0;
  figures.pieces = 0;
  try {
    const response = await ask(endpoints[mode].path, { method: 'POST', headers: headers(key), body: JSON.stringify(body), signal });
    if (!response.ok) throw await errorOf(response);
    figures.requestId = response.headers.get('x-request-id');
    for await (const data of eventsOf(response.body)) {
      if (data === '[DONE]') {
        figures.whole = true;
        continue;
      }
      const event = JSON.parse(data), fault = event.error ?? (event.type === 'error' ? event : null);
      if (fault) throw new ApiError(fault.message, { code: fault.code, requestId: fault.request_id ?? figures.requestId });
      const text = read(mode, event, figures);
      if (!text) continue;
      last = performance.now();
      if (figures.pieces++ === 0) first = last;
      onText(text);
    }
    if (!figures.whole) throw new ApiError('The connection ended before the answer did.', { code: 'NETWORK', requestId: figures.requestId });
  } finally {
    const n = figures.completionTokens ?? figures.pieces;
    figures.totalMs = performance.now() - began;
    if (first) figures.firstMs = first - began;
    // The first token's time holds the prompt's, so the rate is that of the others.
    if (n > 1 && last > first) figures.rate = ((n - 1) * 1000) / (last - first);
  }
}
