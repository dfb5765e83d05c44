// Health and figures of the server, asked for every two seconds, and their plots over the last two minutes. A figure that the
// server does not give is not shown; a sample that did not come is a gap.
import { ask, headers } from './stream.js';
import { milliseconds } from './turns.js';

const PERIOD_MS = 2000, WINDOW_MS = 120000, GAP_MS = 3 * PERIOD_MS, WIDTH = 120, HEIGHT = 32;
const SVG = 'http://www.w3.org/2000/svg';

const whole = (v) => String(Math.round(v));
const short = (v) => (v >= 100 ? whole(v) : v.toFixed(1));
const percent = (v) => `${v > 0 && v < 0.1 ? (v * 100).toFixed(1) : whole(v * 100)} %`;

class Plot {
  constructor(parent, { label, names = [], format, least }) {
    const svg = document.createElementNS(SVG, 'svg'), caption = document.createElement('figcaption');
    Object.assign(this, { label, names, format, least, svg, lines: [], now: document.createElement('span') });
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    caption.append(label, this.now);
    this.figure = document.createElement('figure');
    this.figure.append(caption, svg);
    this.figure.hidden = true;
    parent.append(this.figure);
  }

  // One sample: a number for each line, undefined where there is none.
  push(values) {
    const now = performance.now();
    values.forEach((value, i) => {
      const line = (this.lines[i] ??= { samples: [], area: this.path(`area line${i}`), path: this.path(`line line${i}`) });
      line.samples = line.samples.filter(({ at }) => now - at <= WINDOW_MS);
      if (value !== undefined) line.samples.push({ at: now, value });
    });
    if (values.some((value) => value !== undefined)) this.figure.hidden = false;
    if (!this.figure.hidden) this.draw(values, now);
  }

  path(name) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    this.svg.append(path);
    return path;
  }

  draw(values, now) {
    const highest = Math.max(this.least, ...this.lines.flatMap((line) => line.samples.map(({ value }) => value)));
    for (const { samples, area, path } of this.lines) {
      let line = '', fill = '', last = null;
      for (const { at, value } of samples) {
        const x = (WIDTH * (1 - (now - at) / WINDOW_MS)).toFixed(1), y = (HEIGHT - 1 - (value / highest) * (HEIGHT - 3)).toFixed(1);
        if (!last || at - last.at > GAP_MS) {
          if (last) fill += `V${HEIGHT}Z`;
          line += `M${x} ${y}h0`;
          fill += `M${x} ${HEIGHT}V${y}`;
        } else {
          line += `L${x} ${y}`;
          fill += `L${x} ${y}`;
        }
        last = { at };
      }
      path.setAttribute('d', line);
      area.setAttribute('d', last ? `${fill}V${HEIGHT}Z` : '');
    }
    const texts = values.map((v, i) => (v === undefined ? '–' : this.format(v)) + (this.names[i] ? ` ${this.names[i]}` : ''));
    this.now.replaceChildren(...texts.map((text, i) => Object.assign(document.createElement('span'), { textContent: text, className: `of${i}` })));
    this.svg.setAttribute('aria-label', `${this.label}: now ${texts.join(', ')}; highest of the last two minutes ${this.format(highest)}`);
  }
}

export class Live {
  constructor(parent, facts, { key, onHealth }) {
    Object.assign(this, { facts, key, onHealth, last: null });
    this.rate = new Plot(parent, { label: 'Tokens a second', format: short, least: 1 });
    this.requests = new Plot(parent, { label: 'Requests', names: ['running', 'waiting'], format: whole, least: 1 });
    this.kv = new Plot(parent, { label: 'KV cache in use', format: percent, least: 1 });
    this.cpu = new Plot(parent, { label: 'CPU', format: percent, least: 1 });
  }

  // Looks at once and then for as long as the page is looked at.
  run() {
    const tick = async () => {
      if (!document.hidden) await this.look();
      setTimeout(tick, PERIOD_MS);
    };
    tick();
  }

  async look() {
    let status = 0, health = null;
    try {
      const response = await ask('/health', { headers: headers(this.key()), signal: AbortSignal.timeout(2 * PERIOD_MS) });
      status = response.status;
      health = await response.json();
    } catch { /* no connection, or no JSON */ }
    this.show(health);
    this.onHealth(health?.status ? health : null, status);
  }

  // Between two looks at the engine's own clock. One that was started again begins anew.
  tokensPerSecond(total, uptime) {
    const last = this.last;
    this.last = total === undefined ? null : { total, uptime };
    if (!this.last) return undefined;
    return last && uptime > last.uptime && total >= last.total ? (total - last.total) / (uptime - last.uptime) : 0;
  }

  show(health) {
    const system = health?.system_metrics ?? {}, load = health?.performance_indicators ?? {};
    this.rate.push([this.tokensPerSecond(system.tokens_generated, health?.uptime_seconds)]);
    this.requests.push([system.active_requests, system.queue_depth]);
    this.kv.push([system.kv_cache_utilization]);
    this.cpu.push([system.cpu_utilization]);
    // With authentication on, a stranger learns whether the server is well and no more.
    this.tell(health?.status === 'healthy' && !health.system_metrics ? [['Figures', 'with an API key']] : [
      ['Memory', system.memory_usage_bytes && `${whole(system.memory_usage_bytes / 1048576)} MB`],
      ['Mean response, 5 min', load.avg_response_time_ms !== undefined && milliseconds(load.avg_response_time_ms)],
      ['Requests a second, 5 min', load.requests_per_second !== undefined && load.requests_per_second.toFixed(2)],
      ['Errors, 5 min', load.error_rate !== undefined && `${(load.error_rate * 100).toFixed(1)} %`],
    ]);
  }

  tell(pairs) {
    this.facts.replaceChildren(...pairs.filter(([, value]) => value).flatMap(([name, value]) => {
      const row = document.createElement('div'), term = document.createElement('dt'), said = document.createElement('dd');
      term.textContent = name;
      said.textContent = value;
      row.append(term, said);
      return row;
    }));
  }
}
