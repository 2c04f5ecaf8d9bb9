/** What GPU memory a training would take with the settings as they are, and with one of them changed. */

import type { MemoryPlan, PlanMemoryOptions } from 'web-lora';
import { toError, type App, type State } from './app.js';
import { byId, element, showText } from './dom.js';
import { formatBytes } from './format.js';
import { drawMemory, memoryBar } from './memory-picture.js';
import type { Settings } from './settings.js';

/** While someone types, nothing is worked out yet. */
const PAUSE_MS = 400;
/** Most tokens that the engine takes at once of its own accord, unless an example is longer. */
const PASS = 512;

interface Change {
  name: string;
  options: PlanMemoryOptions;
}

/** Wires the fold: it is worked out when it is open, and again when a setting changes. */
export function memoryPlan(app: App, settings: Settings): void {
  const fold = byId<HTMLDetailsElement>('memory-plan');
  const error = byId('memory-plan-error');
  let asking = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let known: string | undefined;

  const draw = async () => {
    const { modelSource, dataset, model } = app.state;
    if (!fold.open || !modelSource || !model || !dataset) return;
    const set = { ...planOf(settings, dataset), ...(modelSource.quantize ? { quantize: modelSource.quantize } : {}) };
    const asked = JSON.stringify([model.name, set]);
    if (asked === known) return;
    known = asked;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const plan = (options: PlanMemoryOptions) => app.engine.planMemory(modelSource.source, options, { signal });
    try {
      showText(error, undefined);
      const now = await plan(set);
      drawMemory(byId('memory-plan-picture'), now);
      byId('memory-plan-words').textContent = `For ${set.tokensPerPass} tokens at once, the most that these examples need.`;
      const others: [name: string, memory: MemoryPlan][] = [];
      for (const { name, options } of changes(set, model.targetModules)) others.push([name, await plan(options)]);
      const most = Math.max(now.total, ...others.map(([, { total }]) => total));
      byId('memory-plan-rows').replaceChildren(...others.map(([name, memory]) => rowOf(name, memory, now, most)));
    } catch (thrown) {
      if (known === asked) known = undefined;
      if (signal.aborted) return;
      showText(error, toError(thrown).message);
    }
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(() => void draw(), PAUSE_MS);
  };
  fold.addEventListener('toggle', () => void draw());
  settings.onInput(soon);
  app.onChange(({ busy }) => {
    // A training would have to wait for the answers.
    if (busy) asking.abort();
    else soon();
  });
}

/** All bars are on one scale, on which `most` bytes are the whole width. */
function rowOf(name: string, memory: MemoryPlan, now: MemoryPlan, most: number): HTMLElement {
  const change = memory.total - now.total;
  const difference = change === 0 ? 'none' : `${change < 0 ? '−' : '+'}${formatBytes(Math.abs(change))}`;
  const words = element('td', { text: name });
  words.append(memoryBar(memory, memory.total / most));
  const cells = [formatBytes(memory.total), difference].map((text) => element('td', { text }));
  return element('tr', {}, words, ...cells);
}

/** The settings as they are. */
function planOf(settings: Settings, { longest, preferencePairs }: NonNullable<State['dataset']>): Required<Pick<PlanMemoryOptions, 'r' | 'tokensPerPass'>> & PlanMemoryOptions {
  const pairs = preferencePairs > 0;
  const { r = 8, targetModules = [] } = settings.adapter;
  const { useDora, loraDropout, excludeModules, layersToTransform, rankPattern, bias, modulesToSave } = settings.adapter;
  const { batchSize = 1, loss, optim, loraplusLrRatio, labelSmoothingFactor, neftuneNoiseAlpha, evalSteps } = settings.training(pairs);
  const example = pairs ? 2 * longest : longest;
  const adapter = { useDora, loraDropout, excludeModules, layersToTransform, rankPattern, bias, modulesToSave };
  const given = { ...adapter, loss, optim, loraplusLrRatio, labelSmoothingFactor, neftuneNoiseAlpha, evalSteps };
  return {
    ...(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as PlanMemoryOptions),
    r,
    targetModules,
    tokensPerPass: Math.max(16, example, Math.min(PASS, batchSize * example)),
  };
}

/** One thing changed at a time. */
function changes(set: ReturnType<typeof planOf>, all: readonly string[]): Change[] {
  const { r, tokensPerPass, optim, targetModules } = set;
  const attention = all.filter((name) => /^(q|v)_proj$|^(qkv_proj|c_attn|attn\.c_attn)$/.test(name));
  const some = Array.isArray(targetModules) && targetModules.length < all.length;
  const halved = Math.max(16, Math.ceil(tokensPerPass / 2));
  return [
    { name: `Rank ${2 * r}`, options: { ...set, r: 2 * r } },
    ...(r > 1 ? [{ name: `Rank ${Math.ceil(r / 2)}`, options: { ...set, r: Math.ceil(r / 2) } }] : []),
    { name: `Half the length, ${halved} tokens`, options: { ...set, tokensPerPass: halved } },
    optim === 'adamw_8bit'
      ? { name: 'Moments in 32 bits', options: { ...set, optim: 'adamw' } }
      : { name: 'Moments in 8 bits', options: { ...set, optim: 'adamw_8bit' } },
    ...(some ? [{ name: 'All targets', options: { ...set, targetModules: [...all] } }] : []),
    ...(!some && attention.length > 0 ? [{ name: `Only ${attention.join(' and ')}`, options: { ...set, targetModules: attention } }] : []),
  ];
}
