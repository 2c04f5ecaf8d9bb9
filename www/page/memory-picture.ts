/** What a training's GPU memory is made of, as one bar. */

import type { MemoryPlan } from 'web-lora';
import { byId, element } from './dom.js';
import { formatBytes } from './format.js';

const PARTS = {
  weights: 'The model’s weights',
  adapter: 'The adapter',
  optimizer: 'Gradients and moments',
  activations: 'Activations kept for the way back',
  workspace: 'Workspace',
} as const satisfies Partial<Record<keyof MemoryPlan, string>>;

/** Draws a plan. */
export function drawMemory(plan: MemoryPlan): void {
  const rows = Object.entries(PARTS).map(([part, name]) => ({ part, name, bytes: plan[part as keyof typeof PARTS] }));
  const bar = element('div', { className: 'memory-bar' });
  bar.setAttribute('aria-hidden', 'true');
  for (const { part, bytes } of rows) {
    const piece = element('span');
    piece.dataset.part = part;
    piece.style.flexGrow = String(bytes);
    bar.append(piece);
  }
  const legend = rows.map(({ part, name, bytes }) => {
    const label = element('dt', { text: name });
    label.dataset.part = part;
    return element('div', {}, label, element('dd', { text: formatBytes(bytes) }));
  });
  const total = element('figcaption', { text: `${formatBytes(plan.total)} of GPU memory in all` });
  byId('memory-picture').replaceChildren(bar, element('dl', { className: 'legend' }, ...legend), total);
}
