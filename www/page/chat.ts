/** A conversation with the model before and after, side by side. */

import type { AdapterInfo, GenerateOptions, Message } from 'web-lora';
import type { App } from './app.js';
import { showCertainty } from './certainty.js';
import { byId, element, showText } from './dom.js';
import type { Sample } from './samples.js';

type Side = 'base' | 'tuned';

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

  const askBoth = async (question: string, row: HTMLElement) => {
    const options = {
      maxNewTokens: Number(byId<HTMLInputElement>('max-new-tokens').value),
      temperature: Number(byId<HTMLInputElement>('temperature').value),
      ...(byId<HTMLInputElement>('certainty').checked ? { topLogprobs: 3 } : {}),
    };
    const [base, tuned] = [...row.querySelectorAll<HTMLElement>('.answer')];
    if (!base || !tuned) return;
    const turn = {
      prompt: question,
      base: await answer(base, { ...options, ...conversation('base', question), strength: 0 }),
      tuned: await answer(tuned, { ...options, ...conversation('tuned', question), strength: Number(strength.value) }),
    };
    turns.push(turn);
  };

  const send = (question: string) => {
    showText(error, undefined);
    const row = turnRow(question);
    log.append(row);
    log.setAttribute('aria-busy', 'true');
    abort = new AbortController();
    void app
      .run(
        'compare',
        () => askBoth(question, row),
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

  let adapterBefore: AdapterInfo | undefined;
  let sampleBefore: Sample | undefined;
  app.onChange(({ model, adapter, dataSource, busy, trouble }) => {
    const asking = busy === 'compare';
    // Answers of another adapter are no part of a conversation with this one.
    if (adapter !== adapterBefore && adapter) beginAnew();
    adapterBefore = adapter ?? adapterBefore;
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

function turnRow(question: string): HTMLElement {
  const side = (kind: Side, title: string) => {
    const text = element('p', { className: 'answer' });
    text.dataset.side = kind;
    return element('div', { className: `side ${kind}` }, element('h3', { text: title }), text);
  };
  const answers = element('div', { className: 'answers' }, side('base', 'Before'), side('tuned', 'After'));
  return element('div', { className: 'turn' }, element('p', { className: 'said', text: question }), answers);
}
