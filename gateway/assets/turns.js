// One exchange on the page: what was asked, the answer as it grows, its figures or its error. Model output is text, never HTML.
const make = (tag, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
};

export const button = (text, run, fields = {}) => {
  const node = make('button', { type: 'button', textContent: text, className: 'quiet', ...fields });
  node.addEventListener('click', run);
  return node;
};

// Without TLS and not on localhost a page gets no clipboard; the old way still works.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make('textarea', { value: text, className: 'unseen' });
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}

// A button that copies what `text` gives and says so for a moment.
export function copyButton(text, label = 'Copy') {
  const node = button(label, async () => {
    node.textContent = await copy(text()).then(() => 'Copied', () => 'Not allowed');
    setTimeout(() => (node.textContent = label), 1600);
  });
  return node;
}

export const grow = (field) => {
  field.style.height = 'auto';
  field.style.height = `${Math.min(field.scrollHeight + 2, 0.4 * innerHeight)}px`;
};

export const milliseconds = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`);
const plural = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`;

const FINISH = { stop: 'came to its end', length: 'cut at the limit of tokens', deadline: 'cut by its deadline', cancelled: 'cancelled' };

// [text, explanation] of each figure that is known.
export function figuresOf(f, stopped) {
  const all = [];
  if (f.rate) all.push([`${f.rate.toFixed(1)} tokens/s`, 'after the first token, measured here']);
  if (f.firstMs !== undefined) all.push([`first after ${milliseconds(f.firstMs)}`, 'time to first token, measured here']);
  if (f.queueMs !== undefined) all.push([`queue ${milliseconds(f.queueMs)}`, 'time in the engine\'s queue']);
  if (f.promptTokens !== undefined)
    all.push([`prompt ${f.promptTokens}${f.cachedTokens ? ` (${f.cachedTokens} cached)` : ''}`, 'tokens of the prompt, and how many of them were computed before']);
  const n = f.completionTokens ?? f.pieces;
  if (n) all.push([plural(n, 'token'), f.completionTokens === undefined ? 'pieces of text that came' : 'tokens of the answer']);
  if (stopped) all.push(['stopped', 'by you; the engine has freed it']);
  else if (f.finish) all.push([f.finish, FINISH[f.finish] ?? 'why the answer ended']);
  if (f.seed !== undefined) all.push([`seed ${f.seed}`, 'gives this answer again']);
  return all;
}

export class Turn {
  // `act` has what the buttons do: again(turn), code(turn), and edit(turn, text), which is false when it cannot be sent now.
  constructor(mode, prompt, act) {
    Object.assign(this, { mode, prompt, act, answer: '', error: null, stopped: false });
    this.asked = make('div', { className: 'asked' });
    this.text = make('div', { className: 'text' });
    this.foot = make('div', { className: 'foot' });
    this.node = make('li', { className: `turn ${mode === 'chat' ? 'chat' : 'continued'}` });
    this.node.append(this.asked, make('div', { className: 'answer' }, this.text, this.foot));
    this.showPrompt();
  }

  showPrompt() {
    const text = make('p', { textContent: this.prompt });
    const actions = make('div', { className: 'actions' }, button('Edit', () => this.editPrompt(), { className: 'quiet asks' }));
    this.asked.replaceChildren(make('h3', { className: 'unseen', textContent: this.mode === 'chat' ? 'You' : 'Prompt' }), text, actions);
  }

  editPrompt() {
    const field = make('textarea', { value: this.prompt, ariaLabel: 'Edit the prompt' });
    const done = (run) => {
      if (run && !this.act.edit(this, field.value)) return;
      this.showPrompt();
      this.asked.querySelector('button').focus();
    };
    field.addEventListener('input', () => grow(field));
    field.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') done(false);
      else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) done(true);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const send = button('Send', () => done(true), { className: '' });
    this.asked.replaceChildren(field, make('div', { className: 'actions' }, send, button('Cancel', () => done(false))));
    grow(field);
    field.focus();
  }

  begin() {
    Object.assign(this, { answer: '', error: null, stopped: false, figures: {} });
    this.piece = document.createTextNode('');
    this.text.replaceChildren(make('h3', { className: 'unseen', textContent: 'Answer' }), make('p', {}, this.piece));
    this.text.hidden = false;
    this.foot.replaceChildren();
    this.node.classList.add('running');
    this.text.ariaBusy = 'true';
  }

  add(text) {
    this.answer += text;
    this.piece.appendData(text);
  }

  end() {
    // What stands between fences is code; one that is not closed runs to the end.
    if (this.answer.includes('```'))
      this.text.replaceChildren(this.text.firstChild, ...this.answer.split(/^```.*\n?/m).map((textContent, i) => make(i % 2 ? 'pre' : 'p', { textContent })));
    this.node.classList.remove('running');
    this.text.ariaBusy = 'false';
    const figures = figuresOf(this.figures, this.stopped).map(([text, title]) => make('span', { textContent: text, title }));
    const actions = make('div', { className: 'actions' }, ...(this.answer ? [copyButton(() => this.answer)] : []),
                         button(this.error ? 'Try again' : 'Regenerate', () => this.act.again(this), { className: 'quiet asks' }), button('Code', () => this.act.code(this)));
    this.text.hidden = !this.answer;
    this.foot.replaceChildren(...(this.error ? [this.fault()] : []), make('p', { className: 'figures' }, ...figures), actions);
  }

  // The API's error as it is.
  fault() {
    const { message, code, status, requestId, retryAfter, suggestions } = this.error;
    const details = [status && `HTTP ${status}`, requestId && `request ${requestId}`, retryAfter && `retry after ${retryAfter} s`];
    return make('div', { className: 'fault' },
      make('p', {}, make('strong', { textContent: code || 'Error' }), ' ', message),
      ...suggestions.map((text) => make('p', { className: 'suggestion', textContent: text })),
      make('p', { className: 'details', textContent: details.filter(Boolean).join(' · ') }));
  }
}
