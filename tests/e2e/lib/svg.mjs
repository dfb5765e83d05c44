// The picture of a run over time: panels above each other on one axis of seconds, and what was done to the system as bars above them. Colours follow the
// reader's light or dark scheme.
const WIDTH = 1100, LEFT = 132, RIGHT = 1076, ROW = 13;

const style = `<style>
:root{color-scheme:light dark}
text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:16px;font-weight:600}.name{font-weight:600}.mark{font-size:10px}
.paper{fill:#fff}.grid{stroke:#ddd}.axis{stroke:#888}.event{fill:#c2410c;fill-opacity:.55}.shade{fill:#c2410c;fill-opacity:.07}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}
.a{stroke:#1f6fd6}.b{stroke:#c2410c}.c{stroke:#15803d}.d{stroke:#7c3aed}
@media (prefers-color-scheme:dark){text{fill:#ddd}.paper{fill:#16181d}.grid{stroke:#343840}.axis{stroke:#7a808c}
.a{stroke:#6cabff}.b{stroke:#ff9a5c}.c{stroke:#5fd38a}.d{stroke:#b79bff}}
</style>`;

const escaped = (text) => String(text).replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]);
const line = (kind, x1, y1, x2, y2) => `<line class="${kind}" x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}"/>`;

// 1, 2 or 5 times a power of ten, at least v.
function nice(v) {
  const ten = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= v * (1 - 1e-9));
}

// panels: [{title, log, series: [{label, values: [{t, v}]}]}]; events: [{t, seconds, name}]; t in seconds up to `seconds`.
export function picture({ title, subtitle, seconds, events, panels }) {
  const kinds = [...new Set(events.map((e) => e.name))].sort();
  const top = 84 + kinds.length * ROW, height = 150, gap = 52, total = top + panels.length * (height + gap) + 30;
  const x = (t) => LEFT + (t / seconds) * (RIGHT - LEFT);
  const out = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${total}" width="${WIDTH}" height="${total}" role="img">`, `<title>${escaped(title)}</title>`, style,
               `<rect class="paper" width="${WIDTH}" height="${total}"/>`, `<text class="title" x="${LEFT}" y="30">${escaped(title)}</text>`, `<text x="${LEFT}" y="50">${escaped(subtitle)}</text>`];
  kinds.forEach((name, i) => out.push(`<text class="mark" x="${LEFT - 8}" y="${70 + i * ROW + 8}" text-anchor="end">${escaped(name)}</text>`));
  for (const e of events) {
    const y = 70 + kinds.indexOf(e.name) * ROW, width = Math.max(2, x(e.t + e.seconds) - x(e.t));
    out.push(`<rect class="event" x="${x(e.t).toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${ROW - 3}"><title>${escaped(`${e.name} ${e.target ?? ''} at ${e.t.toFixed(1)} s, ${e.seconds.toFixed(1)} s`)}</title></rect>`);
  }
  panels.forEach((panel, i) => out.push(...drawPanel(panel, top + i * (height + gap) + 20, height, x)));
  const step = nice(seconds / 10), bottom = top + panels.length * (height + gap) - gap + 20;
  for (let t = 0; t <= seconds * (1 + 1e-9); t += step) out.push(`<text x="${x(t).toFixed(1)}" y="${bottom + 20}" text-anchor="middle">${t}</text>`);
  out.push(`<text x="${(LEFT + RIGHT) / 2}" y="${bottom + 40}" text-anchor="middle">seconds</text>`, '</svg>');
  return out.join('\n');
}

function drawPanel({ title, log, series }, top, height, x) {
  const values = series.flatMap((s) => s.values.map((p) => p.v)).filter((v) => v > 0), bottom = top + height;
  const high = Math.max(...values, log ? 1 : 1e-9), low = log ? Math.floor(Math.log10(Math.min(...values, high))) : 0;
  const step = log ? 1 : nice(high / 5), end = log ? Math.max(Math.ceil(Math.log10(high)), low + 1) : Math.ceil(high / step - 1e-9) * step;
  const y = (v) => bottom - Math.min(1, Math.max(0, ((log ? (v > 0 ? Math.log10(v) : low) : v) - low) / (end - low))) * height;
  const out = [];
  for (let i = low; i <= end * (1 + 1e-9); i += step) {
    const v = log ? 10 ** i : i;
    out.push(line('grid', LEFT, y(v), RIGHT, y(v)), `<text x="${LEFT - 8}" y="${(y(v) + 4).toFixed(1)}" text-anchor="end">${Number(v.toPrecision(6))}</text>`);
  }
  out.push(`<text class="name" x="${LEFT}" y="${top - 8}">${escaped(title)}</text>`, line('axis', LEFT, top, LEFT, bottom), line('axis', LEFT, bottom, RIGHT, bottom));
  let at = LEFT + 40 + 7.5 * title.length;
  series.forEach((s, i) => {
    const kind = 'abcd'[i % 4];
    out.push(`<polyline class="${kind}" points="${s.values.map((p) => `${x(p.t).toFixed(1)},${y(p.v).toFixed(1)}`).join(' ')}"/>`,
             line(kind, at, top - 12, at + 22, top - 12), `<text x="${at + 28}" y="${top - 8}">${escaped(s.label)}</text>`);
    at += 50 + 7 * s.label.length;
  });
  return out;
}
