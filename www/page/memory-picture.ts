/** What a training's GPU memory is made of, as one bar. */

import type { MemoryPlan } from 'web-lora';
import { element } from './dom.js';
import { formatBytes } from './format.js';

const PARTS = {
  weights: 'The model’s weights',
  adapter: 'The adapter',
  optimizer: 'Gradients and moments',
  activations: 'Activations kept for the way back',
  workspace: 'Workspace',
} as const satisfies Partial<Record<keyof MemoryPlan, string>>;

/** The bar alone, over this share of the width there is. */
export function memoryBar(plan: MemoryPlan, width = 1): HTMLElement {
  const bar = element('div', { className: 'memory-bar' });
  bar.setAttribute('aria-hidden', 'true');
  bar.style.width = `${100 * width}%`;
  for (const part of Object.keys(PARTS)) {
    const piece = element('span');
    piece.dataset.part = part;
    piece.style.flexGrow = String(plan[part as keyof typeof PARTS]);
    bar.append(piece);
  }
  return bar;
}

/** Draws a plan with its legend. */
export function drawMemory(figure: HTMLElement, plan: MemoryPlan): void {
  const legend = Object.entries(PARTS).map(([part, name]) => {
    const label = element('dt', { text: name });
    label.dataset.part = part;
    return element('div', {}, label, element('dd', { text: formatBytes(plan[part as keyof typeof PARTS]) }));
  });
  const total = element('figcaption', { text: `${formatBytes(plan.total)} of GPU memory in all` });
  figure.replaceChildren(memoryBar(plan), element('dl', { className: 'legend' }, ...legend), total);
}
