/** The models kept in this browser: to load again without the network, to go on with, to delete. */

import { hubCache, type CachedModel, type HubSource } from 'web-lora';
import { toError, type App } from './app.js';
import { announce, byId, element, showText } from './dom.js';
import { formatBytes } from './format.js';
import type { Load } from './model-step.js';

/** Wires the list. What is whole is given to `load`, what is not to `open`. */
export function keptModels(app: App, load: Load, open: (source: HubSource) => void): void {
  const error = byId('kept-error');
  let models: CachedModel[] = [];

  const use = (source: HubSource) => load(source, error);
  const read = async () => {
    models = await hubCache.list();
    draw();
  };
  const remove = async (model: CachedModel) => {
    showText(error, undefined);
    try {
      await hubCache.delete(model);
      announce(`${model.source.repo} is deleted.`);
    } catch (thrown) {
      showText(error, toError(thrown).message);
    }
    await read();
    byId(models.length > 0 ? 'kept-title' : 'model-title').focus();
  };
  const draw = () => {
    const bytes = models.reduce((sum, { cachedBytes }) => sum + cachedBytes, 0);
    byId('kept').hidden = models.length === 0;
    byId('kept-size').textContent = formatBytes(bytes);
    byId('kept-models').replaceChildren(...models.map((model) => row(model, model.complete ? use : open, remove)));
    app.update({});
  };

  void read();
  let wasLoading = false;
  app.onChange(({ loading }) => {
    if (wasLoading && !loading) void read();
    wasLoading = loading !== undefined;
  });
}

function row(model: CachedModel, use: (source: HubSource) => void, remove: (model: CachedModel) => void): HTMLElement {
  const { source, revision, sizeBytes, cachedBytes, complete } = model;
  const button = (text: string, press: () => void) => {
    const made = element('button', { text });
    made.type = 'button';
    made.setAttribute('aria-label', `${text} ${source.repo} ${source.file}`);
    made.addEventListener('click', press);
    return made;
  };
  const size = complete ? formatBytes(sizeBytes) : `${formatBytes(cachedBytes)} of ${formatBytes(sizeBytes)}`;
  const facts = [source.file, revision === 'main' ? '' : revision.slice(0, 12), size].filter(Boolean).join(' · ');
  const words = element('div', {}, element('p', { text: source.repo }), element('p', { className: 'quiet', text: facts }));
  const load = button(complete ? 'Use' : 'Go on', () => use(source));
  const actions = element('div', { className: 'actions' }, load, button('Delete', () => remove(model)));
  return element('li', {}, words, actions);
}
