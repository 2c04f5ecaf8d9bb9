/** LoRA as a picture: the matrix W that stays, and beside it B and A, whose product is added. */

import { byId, element } from './dom.js';
import { formatCount } from './format.js';
import { termButton } from './glossary.js';
import { shape } from './svg.js';

/** Longest side of W. */
const SIDE = 150;
/** So that a thin matrix is still seen. */
const THINNEST = 5;
const GAP = 34;
const TOP = 30;
/** The textbook's example, beside which that of the model is shown. */
const EXAMPLE = { rows: 512, columns: 64 };

/** Numbers in B (rows×r) and A (r×columns), and in W (rows×columns). */
function sizes(rows: number, columns: number, r: number): { trained: number; full: number; fewer: string } {
  const [trained, full] = [r * (rows + columns), rows * columns];
  const percent = Math.round(100 * (1 - trained / full));
  return { trained, full, fewer: percent > 0 ? `${percent} % fewer` : 'no fewer' };
}

/** Draws it for a square matrix of the model's width. */
export function drawLora(width: number, r: number): void {
  const figure = byId('lora-picture');
  if (!(Number.isSafeInteger(r) && r > 0)) {
    figure.replaceChildren(element('p', { className: 'quiet', text: 'The rank is a whole number from 1 on.' }));
    return;
  }
  const { trained, full, fewer } = sizes(width, width, r);
  const example = sizes(EXAMPLE.rows, EXAMPLE.columns, r);
  const caption = element(
    'figcaption',
    {},
    element('p', { text: `${formatCount(trained)} numbers are trained in place of ${formatCount(full)}: ${fewer}.` }),
    element('p', {
      className: 'quiet',
      text: `W, of ${width}×${width} as this model is wide, stays as it is; A and B learn what to add to it. Of ${EXAMPLE.rows}×${EXAMPLE.columns} it would be ${formatCount(example.trained)} of ${formatCount(example.full)}, ${example.fewer}.`,
    }),
    element('p', { className: 'terms' }, document.createTextNode('LoRA '), termButton('lora'), document.createTextNode(' rank '), termButton('r')),
  );
  figure.replaceChildren(picture(width, r, `W, ${width} by ${width}, plus B, ${width} by ${r}, times A, ${r} by ${width}`), caption);
}

function picture(width: number, r: number, label: string): SVGElement {
  const thin = Math.min(SIDE, Math.max(THINNEST, (r / width) * SIDE));
  const [b, a] = [SIDE + GAP, SIDE + GAP + thin + GAP];
  const bottom = TOP + SIDE;
  const matrix = (name: string, size: string, x: number, y: number, w: number, h: number, kind: string) => [
    shape('rect', { x, y, width: w, height: h, rx: 3, class: kind }),
    shape('text', { x: x + w / 2, y: y - 9, class: 'name' }, name),
    shape('text', { x: x + w / 2, y: y + h + 18, class: 'size' }, size),
  ];
  const sign = (text: string, x: number) => shape('text', { x, y: TOP + SIDE / 2 + 6, class: 'sign' }, text);
  return shape(
    'svg',
    { viewBox: `-16 0 ${a + SIDE + 32} ${bottom + 26}`, role: 'img', 'aria-label': label, class: 'lora' },
    ...matrix('W', `${width}×${width}`, 0, TOP, SIDE, SIDE, 'frozen'),
    sign('+', SIDE + GAP / 2),
    ...matrix('B', `${width}×${r}`, b, TOP, thin, SIDE, 'trained'),
    sign('·', b + thin + GAP / 2),
    ...matrix('A', `${r}×${width}`, a, TOP + (SIDE - thin) / 2, SIDE, thin, 'trained'),
  );
}
