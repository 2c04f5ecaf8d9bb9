/** What an adapter has learned, module by module, and a smaller one that does nearly the same. */

import type { AdapterInfo, AdapterSpectrum, ModuleSpectrum, RebuiltAdapter } from 'web-lora';
import type { App } from './app.js';
import { announce, byId, element, showText } from './dom.js';
import { formatCount, formatLoss } from './format.js';
import { shape } from './svg.js';

const CELL = 22;
const GAP = 3;
const LABELS = 84;
const BAR_HEIGHT = 70;

/** Wires the panel. It is drawn when asked for: an adapter changes with every step. */
export function insidePanel(app: App): void {
  const error = byId('inside-error');
  const look = byId<HTMLButtonElement>('inside-look');
  const rank = byId<HTMLInputElement>('inside-rank');
  const shrink = byId<HTMLButtonElement>('inside-shrink');
  const use = byId<HTMLButtonElement>('inside-use');
  let smaller: RebuiltAdapter | undefined;
  let known: AdapterInfo | undefined;

  const attempt = (work: () => Promise<void>) => {
    showText(error, undefined);
    void app.run('adapter', work, ({ message }) => showText(error, message));
  };
  look.addEventListener('click', () =>
    attempt(async () => {
      const spectrum = await app.engine.inspectAdapter();
      draw(spectrum);
      byId('inside-result').hidden = false;
    }),
  );
  shrink.addEventListener('click', () =>
    attempt(async () => {
      smaller = await app.engine.compressAdapter({ r: Number(rank.value) });
      const off = (100 * smaller.relativeError).toFixed(1);
      showText(byId('inside-smaller'), `${formatCount(smaller.parameters)} numbers, ${off} % off what it was.`);
      use.hidden = false;
    }),
  );
  use.addEventListener('click', () =>
    attempt(async () => {
      if (!smaller) return;
      const { engine, state } = app;
      const evaluates = (state.dataset?.evalExamples ?? 0) > 0;
      // Pairs are scored by the loss that they were learned with.
      const { loss, beta } = app.adapters.origin(state.adapter?.name ?? '')?.training ?? {};
      const by = loss && loss !== 'sft' ? { loss, ...(beta === undefined ? {} : { beta }) } : {};
      const before = evaluates ? await engine.evaluate(by) : undefined;
      await app.adapters.add(`${state.adapter?.name ?? 'adapter'}, rank ${rank.value}`, smaller.files);
      const after = evaluates ? await engine.evaluate(by) : undefined;
      const change = before && after ? ` Loss on held-out examples: ${formatLoss(before.loss)} before, ${formatLoss(after.loss)} now.` : '';
      showText(byId('inside-smaller'), `The smaller adapter is in use.${change}`);
      announce('The smaller adapter is in use.');
    }),
  );

  app.onChange(({ adapter, busy, trouble }) => {
    const idle = busy === undefined && adapter !== undefined && trouble === undefined;
    for (const button of [look, shrink, use]) button.disabled = !idle;
    // What was seen of another adapter says nothing of this one.
    if (adapter === known) return;
    known = adapter;
    byId('inside-result').hidden = true;
    use.hidden = true;
    showText(byId('inside-smaller'), undefined);
    smaller = undefined;
    if (adapter) rank.value = String(Math.max(1, Math.floor(adapter.r / 2)));
  });
}

/** A cell for each module, by layer and kind: the darker, the more has changed there. */
function draw({ modules, norm }: AdapterSpectrum): void {
  const places = modules.map((module) => ({ module, ...placeOf(module.name) }));
  const kinds = [...new Set(places.map(({ kind }) => kind))];
  const layers = [...new Set(places.map(({ layer }) => layer))].sort((a, b) => a - b);
  const most = Math.max(...modules.map((module) => module.norm), Number.MIN_VALUE);
  const [width, height] = [LABELS + layers.length * (CELL + GAP), kinds.length * (CELL + GAP) + 20];
  const cells = places.map(({ module, layer, kind }) => {
    const at = { x: LABELS + layers.indexOf(layer) * (CELL + GAP), y: kinds.indexOf(kind) * (CELL + GAP) };
    const cell = shape('rect', { ...at, width: CELL, height: CELL, rx: 4, fill: 'var(--accent)', 'fill-opacity': 0.06 + (0.94 * module.norm) / most });
    cell.append(shape('title', {}, sentence(module)));
    cell.addEventListener('click', () => drawModule(module));
    return cell;
  });
  const rows = kinds.map((kind, at) =>
    shape('text', { x: 0, y: at * (CELL + GAP) + CELL * 0.7, class: 'picture-text' }, kind),
  );
  const foot = shape('text', { x: LABELS, y: height - 4, class: 'picture-text' }, `layers ${layers[0]} to ${layers.at(-1)}`);
  const picture = shape(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, width, role: 'img', 'aria-label': 'How much each module has changed, by layer; the table below says the same' },
    ...rows,
    ...cells,
    foot,
  );
  byId('inside-picture').replaceChildren(picture);
  const strongest = [...modules].sort((a, b) => b.norm - a.norm);
  byId('inside-words').textContent = `‖ΔW‖ is ${norm.toPrecision(3)} over all modules. Most has changed in ${strongest[0]?.name ?? 'none'}.`;
  byId('inside-rows').replaceChildren(...strongest.map(rowOf));
  if (strongest[0]) drawModule(strongest[0]);
}

/** The singular values of one module, as bars. */
function drawModule(module: ModuleSpectrum): void {
  const most = Math.max(module.singularValues[0] ?? 0, Number.MIN_VALUE);
  const bars = module.singularValues.map((value, at) => {
    const height = Math.max(1, (BAR_HEIGHT * value) / most);
    const bar = shape('rect', { x: at * 14, y: BAR_HEIGHT - height, width: 10, height, rx: 2, fill: 'var(--accent)' });
    bar.append(shape('title', {}, `${at + 1}: ${value.toPrecision(3)}`));
    return bar;
  });
  const width = Math.max(14, module.singularValues.length * 14);
  const label = `Singular values of ${module.name}, from the largest to the smallest`;
  const picture = shape('svg', { viewBox: `0 0 ${width} ${BAR_HEIGHT}`, width, height: BAR_HEIGHT, role: 'img', 'aria-label': label }, ...bars);
  byId('inside-module').replaceChildren(picture, element('figcaption', { text: sentence(module) }));
}

function sentence({ name, norm, effectiveRank, r, kept }: ModuleSpectrum): string {
  const first = Math.round(100 * (kept[0] ?? 0));
  return `${name}: ‖ΔW‖ ${norm.toPrecision(3)}, uses ${effectiveRank.toFixed(1)} of its ${r} directions, the first alone is ${first} %`;
}

function rowOf({ name, norm, effectiveRank, r, kept }: ModuleSpectrum): HTMLElement {
  const half = kept[Math.ceil(r / 2) - 1] ?? 0;
  const cells = [name, norm.toPrecision(3), `${effectiveRank.toFixed(1)} of ${r}`, `${Math.round(100 * half)} %`];
  return element('tr', {}, ...cells.map((text) => element('td', { text })));
}

/** `model.layers.3.self_attn.q_proj` as layer 3 and `q_proj`. */
function placeOf(name: string): { layer: number; kind: string } {
  const layer = Number(/\.(\d+)\./.exec(name)?.[1] ?? 0);
  return { layer, kind: name.slice(name.lastIndexOf('.') + 1) };
}
