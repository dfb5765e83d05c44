// A client of a gateway's name that retries as SDKs do (OpenAI's: twice, on connections that fail, 408, 409, 429 and 5xx, after 0.5 s, 1 s, .. up to 8 s,
// a quarter less at random, or what Retry-After says). A stream that breaks is asked for anew as well: that is the application's part.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const worthIt = (status) => status === 408 || status === 409 || status === 429 || status >= 500;

export class RetryingClient {
  n_retries = 0;
  reasons = {};
  constructor(base, { retries = 2, timeoutMs = 30000 } = {}) {
    Object.assign(this, { base, retries, timeoutMs, agent: new http.Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 64 }) });
  }
  close() { this.agent.destroy(); }

  // {ok, status, text, retryAfter, why}; status 0 where there was no whole answer.
  #once(path, body) {
    return new Promise((resolve) => {
      let text = '', over = false, status = 0;
      const end = (why, ok = false, retryAfter) => {
        if (over) return;
        over = true;
        clearTimeout(timer);
        resolve({ ok, status: why && !ok && status === 200 ? 0 : status, text, retryAfter, why });
      };
      const request = http.request(this.base + path, { method: 'POST', agent: this.agent, headers: { 'content-type': 'application/json' } }, (response) => {
        status = response.statusCode;
        response.setEncoding('utf8');
        response.on('data', (part) => { text += part; });
        response.on('error', (error) => end(error.code ?? 'broken'));
        response.on('end', () => {
          const broken = /\nevent: error\n|^event: error\n/.test(text) || (path.endsWith('/stream') && status === 200 && !/event: complete\n/.test(text));
          if (status === 200 && !broken) end(undefined, true);
          else end(broken ? 'stream' : String(status), false, Number(response.headers['retry-after']) || undefined);
        });
      });
      const timer = setTimeout(() => { request.destroy(); end('timeout'); }, this.timeoutMs);
      request.on('error', (error) => end(error.code ?? String(error)));
      request.end(JSON.stringify(body));
    });
  }

  // The last attempt's answer; `tries` it took.
  async ask(streaming, body) {
    for (let n = 0; ; n++) {
      const answer = await this.#once(streaming ? '/v1/inference/stream' : '/v1/inference', body);
      if (answer.ok || n === this.retries || (answer.status !== 0 && !worthIt(answer.status))) return { ...answer, tries: n + 1 };
      this.n_retries++;
      this.reasons[answer.why] = (this.reasons[answer.why] ?? 0) + 1;
      await sleep(answer.retryAfter && answer.retryAfter <= 60 ? answer.retryAfter * 1000 : Math.min(500 * 2 ** n, 8000) * (1 - 0.25 * Math.random()));
    }
  }
}
