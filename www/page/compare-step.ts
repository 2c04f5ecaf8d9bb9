/** The same question to the model before and after. */

import type { GenerateOptions } from 'web-lora';
import type { App } from './app.js';
import { byId, showText } from './dom.js';

/** Wires the comparison. */
export function compareStep(app: App): void {
  const error = byId('compare-error');
  const ask = byId<HTMLButtonElement>('compare-ask');
  const stop = byId<HTMLButtonElement>('compare-stop');
  const strength = byId<HTMLInputElement>('strength');
  let abort = new AbortController();

  const answer = async (target: HTMLElement, options: GenerateOptions) => {
    if (abort.signal.aborted) return;
    target.dataset.state = 'writing';
    try {
      const { text } = await app.engine.generate(options, {
        signal: abort.signal,
        onToken: (piece) => target.append(piece),
      });
      target.textContent = text;
    } finally {
      delete target.dataset.state;
    }
  };

  byId('compare-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const prompt = byId<HTMLTextAreaElement>('prompt').value;
    const options: GenerateOptions = {
      ...(app.state.model?.hasChatTemplate ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
      maxNewTokens: Number(byId<HTMLInputElement>('max-new-tokens').value),
      temperature: Number(byId<HTMLInputElement>('temperature').value),
    };
    const base = byId('answer-base');
    const tuned = byId('answer-tuned');
    base.textContent = '';
    tuned.textContent = '';
    showText(error, undefined);
    abort = new AbortController();
    void app.run(
      'compare',
      async () => {
        await answer(base, { ...options, strength: 0 });
        await answer(tuned, { ...options, strength: Number(strength.value) });
      },
      (failure) => showText(error, failure.message),
    );
  });
  stop.addEventListener('click', () => abort.abort());
  strength.addEventListener('input', () => {
    const text = `${Math.round(Number(strength.value) * 100)} %`;
    byId('strength-value').textContent = text;
    strength.setAttribute('aria-valuetext', text);
  });
  // Enter asks, as in any chat; Shift and Enter begins a new line.
  byId('prompt').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || ask.disabled) return;
    event.preventDefault();
    byId<HTMLFormElement>('compare-form').requestSubmit();
  });

  app.onChange(({ model, adapter, busy, trouble }) => {
    const asking = busy === 'compare';
    byId('compare-step').toggleAttribute('data-locked', !model || !adapter);
    const focused = document.activeElement === ask || document.activeElement === stop;
    ask.hidden = asking;
    stop.hidden = !asking;
    ask.disabled = busy !== undefined || !model || !adapter || trouble !== undefined;
    if (focused) (asking ? stop : ask).focus();
  });
}
