/** The adapter on its way out, in the format of who is to read it, and back in; and its training as a script. */

import { packAdapter, packFiles, trainingScript, type AdapterCard, type AdapterFiles, type AdapterFormat } from 'web-lora';
import type { NamedAdapter } from './adapters.js';
import { toError, type App, type State } from './app.js';
import { announce, byId, onFiles, showFacts, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatCount, formatShort } from './format.js';
import { mergedPanel } from './merged-panel.js';
import { pushPanel } from './push-panel.js';
import type { Settings } from './settings.js';

const FORMATS: Record<AdapterFormat, { button: string; hint: string }> = {
  peft: {
    button: 'Download as zip',
    hint: 'One zip with PEFT’s two files and a README, which opens here and in Python.',
  },
  gguf: {
    button: 'Download as GGUF',
    hint: 'One file, to be given to the program together with the model as GGUF. It opens here too.',
  },
  mlx: {
    button: 'Download as zip',
    hint: 'One zip with the two files that mlx-lm looks for. It does not open here again.',
  },
};

/** Wires the download, here and in the box of trouble, and the opening of adapters. */
export function keepStep(app: App, settings: Settings): void {
  const error = byId('keep-error');
  const name = byId<HTMLInputElement>('keep-name');
  const format = byId<HTMLSelectElement>('keep-format');
  let named = '';
  let card: Omit<AdapterCard, 'name'> = { baseModel: 'unknown' };

  const open = (files: File[]) => {
    showText(error, undefined);
    void app.run(
      'adapter',
      async () => {
        await app.adapters.open(files);
        announce('The adapter is loaded. You can compare the answers now.');
      },
      (failure) => showText(error, failure.message),
    );
  };
  onFiles(byId('keep-zip-button'), byId<HTMLInputElement>('keep-zip'), open);
  onFiles(byId('keep-folder-button'), byId<HTMLInputElement>('keep-folder'), open);
  onDrop(byId('keep-drop'), open);

  const title = () => name.value.trim() || 'adapter';
  const download = (files: AdapterFiles) => {
    saveAs(packAdapter(files, { name: title(), ...card }), `${fileName(title())}.zip`);
  };
  /** The engine's adapter, or the last one that there was, which outlives model and engine. */
  const current = async () => {
    const { adapter, trouble } = app.state;
    if (adapter && !trouble) return app.engine.saveAdapter();
    return app.adapters.newest;
  };
  const save = async (chosen: AdapterFormat) => {
    if (chosen === 'peft') {
      const files = await current();
      if (files) download(files);
      return;
    }
    const files = await app.engine.exportAdapter(chosen);
    const [first] = files;
    if (chosen === 'gguf' && first) saveAs(new Blob([first.bytes]), `${fileName(title())}.gguf`);
    else saveAs(packFiles(files), `${fileName(title())}-mlx.zip`);
  };
  const attempt = async (work: () => Promise<void> | void) => {
    showText(byId('save-error'), undefined);
    try {
      await work();
    } catch (thrown) {
      showText(byId('save-error'), toError(thrown).message);
    }
  };
  byId('keep-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void attempt(() => save(format.value as AdapterFormat));
  });
  byId('keep-script').addEventListener('click', () => {
    void attempt(() => {
      const script = scriptOf(app.state, settings);
      saveAs(new Blob([script], { type: 'text/x-python' }), `${fileName(title())}.py`);
    });
  });
  mergedPanel(app, title);
  pushPanel(app, async () => ({ files: await current(), card: { name: title(), ...card } }));
  const showFormat = () => {
    const { button, hint } = FORMATS[format.value as AdapterFormat];
    byId('keep-download').textContent = button;
    byId('keep-format-hint').textContent = hint;
  };
  format.addEventListener('change', showFormat);
  showFormat();
  for (const id of ['trouble-download', 'train-unsaved-download']) {
    byId(id).addEventListener('click', () => {
      if (app.adapters.newest) download(app.adapters.newest);
    });
  }

  app.onChange((state) => {
    const { adapter, model, busy, trouble } = state;
    const kept = adapter !== undefined || app.adapters.newest !== undefined;
    byId('after').hidden = !kept;
    byId<HTMLButtonElement>('keep-download').disabled = busy !== undefined;
    for (const button of byId('keep-drop').querySelectorAll('button')) {
      button.disabled = busy !== undefined || !model || trouble !== undefined;
    }
    if (!adapter) return;
    card = cardOf(app, adapter);
    showFacts(byId('keep-facts'), {
      Rank: `${adapter.r}, alpha ${adapter.loraAlpha}`,
      Parameters: `${formatShort(adapter.parameters)}, ${((100 * adapter.parameters) / adapter.baseParameters).toFixed(1)} %`,
      Steps: formatCount(adapter.trainedSteps),
    });
    // A name that the person has typed stays, until another adapter is in use.
    const proposed = fileName([adapter.name, model?.name].filter(Boolean).join(' '));
    if (proposed !== named) name.value = proposed;
    named = proposed;
  });
}

/** What the card of an adapter tells: of settings and examples only where it was trained with them here. */
export function cardOf({ state, adapters }: App, adapter: NamedAdapter): Omit<AdapterCard, 'name'> {
  const { model, modelSource } = state;
  const source = modelSource?.source;
  const repo = typeof source === 'object' && 'repo' in source ? source.repo : undefined;
  return {
    baseModel: repo ?? model?.name ?? 'unknown',
    ...(model ? { model } : {}),
    adapter,
    ...adapters.origin(adapter.name),
  };
}

/** The training with the settings as they are now; a model or file of this device is taken to lie beside the script. */
function scriptOf({ model, modelSource, dataset, dataSource }: State, settings: Settings): string {
  const source = modelSource?.source;
  const hub = typeof source === 'object' && 'repo' in source ? source : undefined;
  const file = hub ? hub.file : model?.name;
  return trainingScript({
    ...(file?.endsWith('.gguf') ? { model: hub?.repo ?? '.', ggufFile: file } : { model: hub?.repo ?? file ?? 'model' }),
    dataFiles: dataset?.files.map(({ file: path, ...known }) => ({ path, ...known })) ?? ['examples.jsonl'],
    data: { ...settings.dataset, ...(dataSource?.mapping ? { mapping: dataSource.mapping } : {}) },
    adapter: settings.adapter,
    training: settings.training((dataset?.preferencePairs ?? 0) > 0),
  });
}

/** A name as one of a file. */
export function fileName(text: string): string {
  return text.toLowerCase().replace(/[^\p{L}\p{N}._]+/gu, '-').replace(/^[-.]+|[-.]+$/g, '') || 'adapter';
}

/** Hands a file to the person. */
export function saveAs(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
