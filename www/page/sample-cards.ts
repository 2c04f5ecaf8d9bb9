/** The shipped examples as cards to choose from. */

import { byId, element } from './dom.js';
import { SAMPLES, type Sample } from './samples.js';

/** Draws a card for each; a press hands its sample on. */
export function sampleCards(choose: (sample: Sample) => void): void {
  byId('data-samples').replaceChildren(...SAMPLES.map((sample) => element('li', {}, card(sample, () => choose(sample)))));
}

function card({ id, kind, title, shows }: Sample, press: () => void): HTMLButtonElement {
  const made = element(
    'button',
    { className: 'card' },
    element('span', { className: 'kind', text: kind }),
    element('span', { className: 'title', text: title }),
    element('span', { className: 'quiet', text: shows.ask }),
    element('span', { className: 'shown', text: shows.answer }),
  );
  made.type = 'button';
  made.dataset.sample = id;
  made.addEventListener('click', press);
  return made;
}
