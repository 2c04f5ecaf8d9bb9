/** Terms explained where they appear: a small button beside each, and its sentences in a popover. */

import { byId, element } from './dom.js';

/** Each with its name as people say it. */
const TERMS = {
  token: ['token', 'Models read and write in tokens: pieces of text, of which a short word is one and a long word two or three.'],
  supervised: ['supervised', 'The tokens that the model is trained to say, as the answers are. It reads the others, as the questions, but does not learn to say them.'],
  lora: ['LoRA', 'Low-rank adaptation: the model’s own numbers stay as they are, and two thin matrices A and B beside each large one are trained instead. Their product is added to it.'],
  r: ['rank', 'How thin the matrices A and B are. A higher rank holds more and takes more memory; 8 is enough for a style.'],
  loraAlpha: ['alpha', 'How much the product of A and B counts: it is multiplied by alpha divided by the rank.'],
  learningRate: ['learning rate', 'How far one step moves the numbers. Too high, and training jumps about; too low, and little changes.'],
  steps: ['step', 'One adjustment of the adapter, after a look at a few examples.'],
  batchSize: ['batch', 'The examples that one step looks at together.'],
  warmupSteps: ['warm-up', 'The first steps are made smaller, while it is not yet clear where to go.'],
  loss: ['loss', 'How surprised the model is by the answers it should give. It falls while the model learns; 0 would mean it knows each word beforehand.'],
  evalShare: ['evaluation', 'Some examples are kept out of training and tried now and then. When their loss rises while the other falls, the model is learning by heart.'],
  perplexity: ['perplexity', 'Among how many tokens the model might as well have guessed, each time. It is the loss said in another way.'],
  gradientNorm: ['gradient norm', 'How strongly a step wants to change the adapter. A sudden peak means that an example was unlike the others.'],
  rewards: ['reward', 'How much the training has come to favour an answer. Those of chosen answers should come to lie above those of rejected ones; how far is the margin.'],
  accuracy: ['pairs told apart', 'The share of the pairs in a step in which the chosen answer has the larger reward. Half is what chance gives.'],
  seed: ['seed', 'The number from which all that is random is drawn. The same seed gives the same result.'],
  strength: ['strength', 'How much of the adapter is added: 0 is the model as it was, 100 % as trained, 200 % twice as much, which exaggerates.'],
} as const satisfies Record<string, readonly [name: string, text: string]>;

export type Term = keyof typeof TERMS;

/** Whether there is something to say about it. */
export function isTerm(name: string): name is Term {
  return name in TERMS;
}

/** Puts buttons where index.html has `data-term`. */
export function glossary(): void {
  for (const place of document.querySelectorAll<HTMLElement>('[data-term]')) {
    const { term = '' } = place.dataset;
    if (!isTerm(term)) throw new Error(`the glossary has no ${term}`);
    place.replaceWith(termButton(term));
  }
  const popover = byId('glossary');
  popover.addEventListener('toggle', (event) => {
    if ((event as ToggleEvent).newState === 'closed') opener?.setAttribute('aria-expanded', 'false');
  });
  addEventListener('scroll', () => popover.hidePopover(), { passive: true });
}

let opener: HTMLElement | undefined;

/** A button that explains a term. */
export function termButton(term: Term): HTMLButtonElement {
  const button = element('button', { className: 'term', text: '?' });
  button.type = 'button';
  button.setAttribute('aria-label', `What is ${TERMS[term][0]}?`);
  button.setAttribute('aria-expanded', 'false');
  button.setAttribute('aria-controls', 'glossary');
  const popover = byId('glossary');
  // The press that closes comes after the browser has closed it already.
  let wasOpen = false;
  button.addEventListener('pointerdown', () => (wasOpen = button.getAttribute('aria-expanded') === 'true'));
  button.addEventListener('click', () => {
    const open = wasOpen || button.getAttribute('aria-expanded') === 'true';
    wasOpen = false;
    popover.hidePopover();
    if (!open) show(button, term);
  });
  return button;
}

function show(button: HTMLElement, term: Term): void {
  const popover = byId('glossary');
  const [name, text] = TERMS[term];
  popover.replaceChildren(element('p', { className: 'title', text: name }), element('p', { text }));
  // Right after its button, so that a screen reader comes to it next.
  button.after(popover);
  popover.showPopover();
  const { left, bottom, top } = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  popover.style.left = `${Math.max(12, Math.min(left - 16, innerWidth - width - 12))}px`;
  popover.style.top = `${bottom + 8 + height > innerHeight ? Math.max(8, top - height - 8) : bottom + 8}px`;
  opener = button;
  button.setAttribute('aria-expanded', 'true');
}
