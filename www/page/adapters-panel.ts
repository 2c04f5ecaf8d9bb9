/** The adapters on the loaded model: to switch between, to add to, to rename, to take out, to add up. */

import { packAdapter } from 'web-lora';
import type { NamedAdapter } from './adapters.js';
import type { App, State } from './app.js';
import { announce, byId, element, onFiles, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatPlural, formatShort } from './format.js';
import { cardOf, fileName, saveAs } from './keep-step.js';
import { askName } from './rename.js';

/** Wires the panel. */
export function adaptersPanel(app: App): void {
  const error = byId('adapters-error');
  const said = byId('adapters-said');
  const list = byId('adapters-list');
  const first = byId<HTMLSelectElement>('combine-first');
  const second = byId<HTMLSelectElement>('combine-second');

  /** The focus goes to the row of what is spoken of: the list is drawn anew. */
  const attempt = (work: () => Promise<string>) => {
    showText(error, undefined);
    showText(said, undefined);
    const done = app.run(
      'adapter',
      async () => {
        const about = await work();
        focused = about;
      },
      ({ message }) => showText(error, message),
    );
    void done.then(focusRow);
  };
  let focused: string | undefined;
  const focusRow = () => {
    if (focused === undefined) return;
    const row = [...list.querySelectorAll<HTMLElement>('li')].find(({ dataset }) => dataset.name === focused);
    (row?.querySelector('button') ?? byId('tab-adapters')).focus();
    focused = undefined;
  };

  const use = (name: string) =>
    attempt(async () => {
      const begun = performance.now();
      await app.adapters.use(name);
      showText(said, `${name} is in use. The switch took ${Math.max(1, Math.round(performance.now() - begun))} ms.`);
      return name;
    });
  const rename = (name: string, place: HTMLElement) =>
    askName(place, name, (to) => {
      focused = name;
      draw(app.state);
      if (to === undefined) focusRow();
      else attempt(() => app.adapters.rename(name, to).then(() => to));
    });
  const remove = (name: string) =>
    attempt(async () => {
      await app.adapters.remove(name);
      announce(`${name} is deleted.`);
      return app.state.adapter?.name ?? '';
    });
  const download = (adapter: NamedAdapter) => {
    const files = app.adapters.files(adapter.name);
    const card = { name: adapter.name, ...cardOf(app, adapter) };
    if (files) saveAs(packAdapter(files, card), `${fileName(adapter.name)}.zip`);
  };
  const add = (files: File[]) =>
    attempt(async () => {
      await app.adapters.open(files);
      const name = app.state.adapter?.name ?? '';
      showText(said, `${name} is added, and in use.`);
      return name;
    });

  byId('combine-form').addEventListener('submit', (event) => {
    event.preventDefault();
    attempt(async () => {
      const parts = [first, second].map(({ value, id }) => ({ name: value, weight: weightOf(id) }));
      const how = byId<HTMLSelectElement>('combine-how').value as 'cat' | 'svd';
      const sum = await app.engine.combineAdapters(parts, { how });
      const name = parts.map(({ name, weight }) => (weight === 1 ? name : `${weight} ${name}`)).join(' + ');
      await app.adapters.add(name, sum.files);
      const off = how === 'cat' ? 'exactly the sum' : `${(100 * sum.relativeError).toFixed(1)} % off the sum`;
      const made = app.state.adapter?.name ?? name;
      showText(said, `${made} is made and in use: ${formatShort(sum.parameters)} numbers, ${off}.`);
      return made;
    });
  });
  onFiles(byId('adapters-file-button'), byId<HTMLInputElement>('adapters-file'), add);
  onFiles(byId('adapters-folder-button'), byId<HTMLInputElement>('adapters-folder'), add);
  onDrop(byId('adapters-drop'), add);

  const row = (adapter: NamedAdapter) => {
    const { name, r, loraAlpha, parameters, trainedSteps, inUse } = adapter;
    const steps = trainedSteps > 0 ? formatPlural(trainedSteps, 'step') : '';
    const facts = [`rank ${r}, alpha ${loraAlpha}`, `${formatShort(parameters)} numbers`, steps].filter(Boolean).join(' · ');
    const title = element('p', { className: 'summary-name', text: name });
    if (inUse) title.append(' ', element('span', { className: 'badge', text: 'in use' }));
    const words = element('div', {}, title, element('p', { className: 'quiet', text: facts }));
    const button = (text: string, press: () => void) => {
      const made = element('button', { text });
      made.type = 'button';
      made.setAttribute('aria-label', `${text}: ${name}`);
      made.addEventListener('click', press);
      return made;
    };
    const actions = element(
      'div',
      { className: 'actions' },
      ...(inUse ? [] : [button('Use', () => use(name))]),
      button('Rename', () => rename(name, words)),
      button('Download', () => download(adapter)),
      button('Delete', () => remove(name)),
    );
    const item = element('li', {}, words, actions);
    item.dataset.name = name;
    return item;
  };
  const draw = ({ adapters }: State) => {
    list.replaceChildren(...adapters.map(row));
    byId('combine').hidden = adapters.length < 2;
    const names = adapters.map(({ name }) => name);
    const fill = (select: HTMLSelectElement, but?: string) => {
      const fits = names.filter((name) => name !== but);
      const chosen = fits.includes(select.value) ? select.value : fits[0];
      select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    };
    fill(first);
    fill(second, first.value);
  };

  let drawn: State['adapters'] | undefined;
  app.onChange((state) => {
    if (state.adapters !== drawn) draw(state);
    drawn = state.adapters;
    const idle = state.busy === undefined && state.model !== undefined && state.trouble === undefined;
    for (const button of byId('panel-adapters').querySelectorAll('button')) button.disabled = !idle;
  });
}

function weightOf(select: string): number {
  const text = byId<HTMLInputElement>(`${select}-weight`).value.trim().replace('−', '-');
  return text === '' ? NaN : Number(text);
}
