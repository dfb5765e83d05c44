// The controls of sampling: one row of the table is one control. What is left empty is not sent, and the server's default
// (the placeholder) counts.
const OPENAI = ['chat', 'text'], ALL = ['chat', 'text', 'native'];
const LENGTH = 400; // max_tokens to begin with: the endpoints' own defaults are 2048, 16 and 100

export const table = [
  { name: 'temperature', label: 'Temperature', modes: ALL, min: 0, max: 2, step: 0.05, usual: 0.7, help: '0 takes the likeliest token always' },
  { name: 'top_p', label: 'Top-p', modes: ALL, min: 0, max: 1, step: 0.01, usual: 0.9, help: 'least set of tokens with this share of probability' },
  { name: 'top_k', label: 'Top-k', modes: ALL, min: 1, max: 1000, step: 1, usual: 50, slider: 200, help: 'the k likeliest tokens only' },
  { name: 'min_p', label: 'Min-p', modes: OPENAI, min: 0, max: 1, step: 0.01, usual: 0, help: 'tokens at least this likely, against the likeliest' },
  { name: 'max_tokens', label: 'Max tokens', modes: ALL, min: 1, max: 2048, step: 1, value: LENGTH, usual: LENGTH, help: 'where an answer is cut' },
  { name: 'repetition_penalty', label: 'Repetition penalty', modes: ALL, min: 0, max: 2, step: 0.05, usual: 1, help: '1 is off' },
  { name: 'presence_penalty', label: 'Presence penalty', modes: OPENAI, min: -2, max: 2, step: 0.1, usual: 0, help: '0 is off' },
  { name: 'frequency_penalty', label: 'Frequency penalty', modes: OPENAI, min: -2, max: 2, step: 0.1, usual: 0, help: '0 is off' },
  { name: 'seed', label: 'Seed', modes: ALL, min: 0, max: 4294967295, step: 1, usual: 'random', slider: 0, help: 'the same seed gives the same answer' },
  { name: 'stop', label: 'Stop at', modes: ALL, lines: true, help: 'one text a line, up to 4 (10 for inference) of 64 characters; \\n is a line break' },
];

const make = (tag, fields = {}) => Object.assign(document.createElement(tag), fields);

function number(row) {
  const id = `set-${row.name}`;
  const input = make('input', { id, type: 'number', min: row.min, max: row.max, step: row.step % 1 ? 'any' : row.step,
                                placeholder: row.usual, value: row.value ?? '', inputMode: 'decimal' });
  const parts = [make('label', { htmlFor: id, textContent: row.label, title: row.help }), input];
  if (row.slider !== 0) {
    // For the pointer: the number beside it is what keyboards and screen readers use.
    const slider = make('input', { type: 'range', min: row.min, max: row.slider ?? row.max, step: row.step, tabIndex: -1 });
    const follow = () => {
      slider.value = input.value === '' ? row.usual : input.value;
      slider.classList.toggle('usual', input.value === '');
    };
    slider.ariaHidden = 'true';
    slider.addEventListener('input', () => {
      input.value = slider.value;
      slider.classList.remove('usual');
      input.dispatchEvent(new Event('change', { bubbles: true }));
    });
    input.addEventListener('input', follow);
    follow();
    parts.push(slider);
    row.follow = follow;
  }
  return [parts, input];
}

function lines(row) {
  const id = `set-${row.name}`, hint = make('small', { id: `${id}-help`, textContent: row.help });
  const input = make('textarea', { id, rows: 1, placeholder: 'Nowhere', spellcheck: false });
  input.setAttribute('aria-describedby', hint.id);
  return [[make('label', { htmlFor: id, textContent: row.label }), input, hint], input];
}

export class Settings {
  constructor(parent) {
    this.rows = table.map((row) => {
      const [parts, input] = row.lines ? lines(row) : number(row);
      const box = make('div', { className: row.lines ? 'control' : 'control number' });
      box.append(...parts);
      parent.append(box);
      return { ...row, box, input };
    });
  }

  // Shows the controls that this mode's endpoint takes.
  show(mode) {
    for (const row of this.rows) row.box.hidden = !row.modes.includes(mode);
  }

  reset() {
    for (const row of this.rows) {
      row.input.value = row.value ?? '';
      row.follow?.();
    }
  }

  // False when a control holds what its range forbids; the browser then says so beside it.
  valid(mode) {
    return this.rows.every((row) => !row.modes.includes(mode) || row.input.reportValidity());
  }

  values(mode) {
    const out = {};
    for (const row of this.rows) {
      const text = row.input.value;
      if (!row.modes.includes(mode) || text.trim() === '') continue;
      out[row.name] = row.lines ? text.split('\n').filter(Boolean).map((line) => line.replaceAll('\\n', '\n')) : Number(text);
    }
    return out;
  }
}
