/** The adapter on its way out, as a zip, and back in. */

import { packAdapter, type AdapterCard, type AdapterFiles } from 'web-lora';
import type { App, State } from './app.js';
import { announce, byId, onFiles, showFacts, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatCount, formatLoss, formatShort } from './format.js';

/** Wires the download, here and in the box of trouble, and the opening of adapters. */
export function keepStep(app: App): void {
  const error = byId('keep-error');
  const name = byId<HTMLInputElement>('keep-name');
  let named = '';

  const open = (files: File[]) => {
    showText(error, undefined);
    const [first] = files;
    const from = files.length === 1 && first ? first : files;
    void app.run(
      'adapter',
      async () => {
        app.update({ adapter: await app.engine.loadAdapter(from), lastLoss: undefined });
        announce('The adapter is loaded. You can compare the answers now.');
      },
      (failure) => showText(error, failure.message),
    );
  };
  onFiles(byId('keep-zip-button'), byId<HTMLInputElement>('keep-zip'), open);
  onFiles(byId('keep-folder-button'), byId<HTMLInputElement>('keep-folder'), open);
  onDrop(byId('keep-drop'), open);

  const download = (files: AdapterFiles) => {
    const title = name.value.trim() || 'adapter';
    saveAs(packAdapter(files, cardOf(title, app.state)), `${fileName(title)}.zip`);
  };
  byId('keep-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void app.run(
      'adapter',
      async () => download(await app.engine.saveAdapter()),
      (failure) => showText(error, failure.message),
    );
  });
  byId('trouble-download').addEventListener('click', () => {
    const files = app.state.engine?.lastAdapter;
    if (files) download(files);
  });

  app.onChange((state) => {
    const { adapter, model, dataset, busy, trouble } = state;
    byId('keep-form').hidden = !adapter;
    byId('keep-empty').hidden = adapter !== undefined;
    for (const button of byId('keep-step').querySelectorAll('button')) {
      button.disabled = busy !== undefined || !model || trouble !== undefined;
    }
    if (!adapter) return;
    showFacts(byId('keep-facts'), {
      Rank: `${adapter.r}, alpha ${adapter.loraAlpha}`,
      Parameters: `${formatShort(adapter.parameters)}, ${((100 * adapter.parameters) / adapter.baseParameters).toFixed(1)} %`,
      Steps: formatCount(adapter.trainedSteps),
    });
    // A name that the person has typed stays.
    if (name.value === named) {
      named = fileName([dataset?.file.replace(/\.\w+$/, ''), model?.name].filter(Boolean).join(' '));
      name.value = named;
    }
  });
}

function cardOf(name: string, { model, dataset, adapter, lastLoss }: State): AdapterCard {
  const facts: Record<string, string> = {};
  if (adapter) {
    facts['Rank and alpha'] = `${adapter.r} and ${adapter.loraAlpha}${adapter.useRslora ? ', rsLoRA' : ''}`;
    facts['Target modules'] = adapter.targetModules.join(', ');
    facts['Steps'] = formatCount(adapter.trainedSteps);
  }
  if (dataset) facts['Examples'] = `${formatCount(dataset.examples)}, from ${dataset.file}`;
  if (lastLoss !== undefined) facts['Loss at the end'] = formatLoss(lastLoss);
  return { name, baseModel: model?.name ?? 'unknown', facts };
}

function fileName(text: string): string {
  return text.toLowerCase().replace(/[^\p{L}\p{N}._]+/gu, '-').replace(/^[-.]+|[-.]+$/g, '') || 'adapter';
}

function saveAs(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
