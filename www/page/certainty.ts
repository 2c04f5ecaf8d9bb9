/** How sure the model was of each token of an answer, drawn into the answer itself. */

import type { TokenLogprob, TokenLogprobs } from 'web-lora';
import { element } from './dom.js';

/** Below these probabilities a token is marked, the more the lower. */
const LEVELS = [0.9, 0.5, 0.2];

/** Writes the answer again, token by token, and below it in words where the model was least sure. */
export function showCertainty(target: HTMLElement, tokens: readonly TokenLogprobs[]): void {
  const spans = tokens.map((token) => {
    const probability = Math.exp(token.logprob);
    const span = element('span', { className: `sure-${LEVELS.filter((level) => probability < level).length}`, text: token.text });
    span.title = [token, ...others(token)].map(spoken).join(', or ');
    return span;
  });
  target.replaceChildren(...spans);
  const [least] = [...tokens].sort((a, b) => a.logprob - b.logprob);
  if (!least) return;
  const instead = others(least)[0];
  const words = `Least sure of ${spoken(least)}${instead ? `; it might have been ${spoken(instead)}` : ''}.`;
  target.after(element('p', { className: 'quiet', text: words }));
}

function others({ text, top }: TokenLogprobs): TokenLogprob[] {
  return top.filter((other) => other.text !== text);
}

function spoken({ text, logprob }: TokenLogprob): string {
  return `“${text.trim() || text}” at ${Math.round(100 * Math.exp(logprob))} %`;
}
