/** A conversation with the model before and after, or with any two adapters, side by side. */

import type { GenerateOptions, Message } from 'web-lora';
import type { App, State } from './app.js';
import { showCertainty } from './certainty.js';
import { byId, element, showText } from './dom.js';
import type { Sample } from './samples.js';

/** Where the base answers, or an adapter that is chosen to be compared with; and where the one in use does. */
type Side = 'base' | 'tuned';
/** Who answers on each side: an adapter by its name, or the base. */
type Who = Record<Side, string | undefined>;

interface Turn {
  prompt: string;
  base: string;
  tuned: string;
}

/** Wires the conversation. */
export function chat(app: App): void {
  const error = byId('compare-error');
  const ask = byId<HTMLButtonElement>('compare-ask');
  const stop = byId<HTMLButtonElement>('compare-stop');
  const clear = byId<HTMLButtonElement>('compare-clear');
  const prompt = byId<HTMLTextAreaElement>('prompt');
  const strength = byId<HTMLInputElement>('strength');
  const log = byId('turns');
  const other = byId<HTMLSelectElement>('compare-base');
  const inUse = byId<HTMLSelectElement>('compare-tuned');
  const firstPrompt = prompt.value;
  let turns: Turn[] = [];
  let abort = new AbortController();

  /** What was said so far as this side heard it, then the question. A model without a chat template gets only that. */
  const conversation = (side: Side, question: string): Pick<GenerateOptions, 'messages' | 'prompt'> => {
    if (!app.state.model?.hasChatTemplate) return { prompt: question };
    const before = turns.flatMap((turn): Message[] => [
      { role: 'user', content: turn.prompt },
      { role: 'assistant', content: turn[side] },
    ]);
    return { messages: [...before, { role: 'user', content: question }] };
  };

  const answer = async (target: HTMLElement, options: GenerateOptions): Promise<string> => {
    if (abort.signal.aborted) return '';
    target.dataset.state = 'writing';
    try {
      const { text, logprobs } = await app.engine.generate(options, {
        signal: abort.signal,
        onToken: (piece) => target.append(piece),
      });
      if (logprobs) showCertainty(target, logprobs);
      else target.textContent = text;
      return text;
    } finally {
      delete target.dataset.state;
    }
  };

  const who = (): Who => ({ base: other.value || undefined, tuned: app.state.adapter?.name });

  const askBoth = async (question: string, row: HTMLElement, { base: first }: Who) => {
    const options = {
      maxNewTokens: Number(byId<HTMLInputElement>('max-new-tokens').value),
      temperature: Number(byId<HTMLInputElement>('temperature').value),
      ...(byId<HTMLInputElement>('certainty').checked ? { topLogprobs: 3 } : {}),
    };
    const [base, tuned] = [...row.querySelectorAll<HTMLElement>('.answer')];
    if (!base || !tuned) return;
    const before = { ...options, ...conversation('base', question) };
    const after = { ...options, ...conversation('tuned', question), strength: Number(strength.value) };
    const said =
      first === undefined
        ? await answer(base, { ...before, strength: 0 })
        : await app.adapters.lend(first, () => answer(base, { ...before, strength: after.strength }));
    turns.push({ prompt: question, base: said, tuned: await answer(tuned, after) });
  };

  const send = (question: string) => {
    showText(error, undefined);
    const answering = who();
    const row = turnRow(question, titles(answering, Number(strength.value)));
    log.append(row);
    log.setAttribute('aria-busy', 'true');
    abort = new AbortController();
    void app
      .run(
        'compare',
        () => askBoth(question, row, answering),
        (failure) => {
          row.remove();
          prompt.value = question;
          showText(error, failure.message);
        },
      )
      .finally(() => log.setAttribute('aria-busy', 'false'));
    prompt.value = '';
  };

  const beginAnew = () => {
    turns = [];
    log.replaceChildren();
    showText(error, undefined);
  };

  byId('compare-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const question = prompt.value.trim();
    if (question && !ask.disabled) send(question);
    else prompt.focus();
  });
  stop.addEventListener('click', () => abort.abort());
  clear.addEventListener('click', () => {
    beginAnew();
    app.update({});
    prompt.focus();
  });
  strength.addEventListener('input', () => {
    const text = `${Math.round(Number(strength.value) * 100)} %`;
    byId('strength-value').textContent = text;
    strength.setAttribute('aria-valuetext', text);
  });
  // Enter asks, as in any chat; Shift and Enter begins a new line.
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || ask.disabled) return;
    event.preventDefault();
    byId<HTMLFormElement>('compare-form').requestSubmit();
  });

  inUse.addEventListener('change', () => {
    void app.run('adapter', () => app.adapters.use(inUse.value), ({ message }) => showText(error, message));
  });

  let before: Pick<State, 'model' | 'busy'> = { model: undefined, busy: undefined };
  let sampleBefore: Sample | undefined;
  app.onChange((state) => {
    const { model, adapter, dataSource, busy, trouble } = state;
    const asking = busy === 'compare';
    // What was said by another model, or before a training, is no part of what is said now.
    if (model !== before.model || (before.busy === 'train' && !busy)) beginAnew();
    before = { model, busy };
    offer(state, other, inUse);
    const focused = document.activeElement === ask || document.activeElement === stop;
    ask.hidden = asking;
    stop.hidden = !asking;
    clear.hidden = asking || !log.hasChildNodes();
    ask.disabled = busy !== undefined || !model || !adapter || trouble !== undefined;
    if (focused) (asking ? stop : ask).focus();

    const sample = dataSource?.sample;
    if (sample !== sampleBefore) {
      prompt.value = sample?.prompts[0] ?? firstPrompt;
      byId('suggestions').replaceChildren(...(sample?.prompts ?? []).map((text) => element('li', {}, chip(text, send))));
      sampleBefore = sample;
    }
    for (const button of byId('suggestions').querySelectorAll('button')) button.disabled = ask.disabled;
  });
}

function chip(text: string, send: (text: string) => void): HTMLButtonElement {
  const button = element('button', { text });
  button.type = 'button';
  button.addEventListener('click', () => send(text));
  return button;
}

/** Offers every two to be compared, where there is more than one adapter. */
function offer({ adapters, adapter, busy }: State, other: HTMLSelectElement, inUse: HTMLSelectElement): void {
  byId('compare-who').hidden = adapters.length < 2;
  for (const select of [other, inUse]) select.disabled = busy !== undefined;
  const rest = adapters.filter(({ inUse }) => !inUse).map(({ name }) => name);
  const fill = (select: HTMLSelectElement, options: readonly (readonly [name: string, text: string])[], chosen: string) => {
    // One that is open stays so.
    const drawn = JSON.stringify([options, chosen]);
    if (select.dataset.drawn === drawn) return;
    select.replaceChildren(...options.map(([name, text]) => new Option(text, name, false, name === chosen)));
    select.dataset.drawn = drawn;
  };
  fill(other, [['', 'The model as it was'], ...rest.map((name) => [name, name] as const)], other.value);
  fill(inUse, adapters.map(({ name }) => [name, name] as const), adapter?.name ?? '');
}

/** What is over each answer, and in smaller letters beside it. */
function titles({ base, tuned = '' }: Who, strength: number): Record<Side, readonly [title: string, beside: string]> {
  const at = strength === 1 ? '' : `at ${Math.round(100 * strength)} %`;
  if (base !== undefined) return { base: [base, at], tuned: [tuned, at] };
  return { base: ['Before', ''], tuned: ['After', [tuned, at].filter(Boolean).join(' ')] };
}

function turnRow(question: string, over: ReturnType<typeof titles>): HTMLElement {
  const side = (kind: Side) => {
    const text = element('p', { className: 'answer' });
    text.dataset.side = kind;
    const [title, beside] = over[kind];
    const heading = element('h3', { text: title }, element('span', { className: 'quiet', text: beside }));
    return element('div', { className: `side ${kind}` }, heading, text);
  };
  const answers = element('div', { className: 'answers' }, side('base'), side('tuned'));
  return element('div', { className: 'turn' }, element('p', { className: 'said', text: question }), answers);
}
