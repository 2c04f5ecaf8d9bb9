/** The adapter on its way out, in the format of who is to read it, and back in; and its training as a script. */

import { packAdapter, packFiles, trainingScript, type AdapterCard, type AdapterFiles, type AdapterFormat } from 'web-lora';
import { toError, type App, type State } from './app.js';
import { announce, byId, onFiles, showFacts, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatCount, formatLoss, formatShort } from './format.js';
import type { Settings } from './settings.js';

const FORMATS: Record<AdapterFormat, { button: string; hint: string }> = {
  peft: {
    button: 'Download as zip',
    hint: 'One zip with PEFT’s two files and a README, which opens here and in Python.',
  },
  gguf: {
    button: 'Download as GGUF',
    hint: 'One file, to be given to the program together with the model as GGUF. It does not open here again.',
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

  const title = () => name.value.trim() || 'adapter';
  const download = (files: AdapterFiles) => {
    saveAs(packAdapter(files, { name: title(), ...card }), `${fileName(title())}.zip`);
  };
  /** The engine's adapter, or the last one that there was, which outlives model and engine. */
  const current = async () => {
    const { adapter, trouble } = app.state;
    if (adapter && !trouble) return app.engine.saveAdapter();
    return app.lastAdapter;
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
  const showFormat = () => {
    const { button, hint } = FORMATS[format.value as AdapterFormat];
    byId('keep-download').textContent = button;
    byId('keep-format-hint').textContent = hint;
  };
  format.addEventListener('change', showFormat);
  showFormat();
  for (const id of ['trouble-download', 'train-unsaved-download']) {
    byId(id).addEventListener('click', () => {
      if (app.lastAdapter) download(app.lastAdapter);
    });
  }

  app.onChange((state) => {
    const { adapter, model, dataset, busy, trouble } = state;
    const kept = adapter !== undefined || app.lastAdapter !== undefined;
    byId('after').hidden = !kept;
    byId<HTMLButtonElement>('keep-download').disabled = busy !== undefined;
    for (const button of byId('keep-drop').querySelectorAll('button')) {
      button.disabled = busy !== undefined || !model || trouble !== undefined;
    }
    if (!adapter) return;
    card = cardOf(state);
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

function cardOf({ model, dataset, adapter, lastLoss }: State): Omit<AdapterCard, 'name'> {
  const facts: Record<string, string> = {};
  if (adapter) {
    facts['Rank and alpha'] = `${adapter.r} and ${adapter.loraAlpha}${adapter.useRslora ? ', rsLoRA' : ''}`;
    facts['Target modules'] = adapter.targetModules.join(', ');
    facts['Steps'] = formatCount(adapter.trainedSteps);
  }
  if (dataset) facts['Examples'] = `${formatCount(dataset.examples)}, from ${dataset.file}`;
  if (lastLoss !== undefined) facts['Loss at the end'] = formatLoss(lastLoss);
  return { baseModel: model?.name ?? 'unknown', facts };
}

/** The training with the settings as they are now; a model or file of this device is taken to lie beside the script. */
function scriptOf({ model, modelSource, dataset }: State, settings: Settings): string {
  const source = modelSource?.source;
  const hub = typeof source === 'object' && 'repo' in source ? source : undefined;
  const file = hub ? hub.file : model?.name;
  return trainingScript({
    ...(file?.endsWith('.gguf') ? { model: hub?.repo ?? '.', ggufFile: file } : { model: hub?.repo ?? file ?? 'model' }),
    dataFiles: [dataset?.file ?? 'examples.jsonl'],
    data: settings.dataset,
    adapter: settings.adapter,
    training: settings.training((dataset?.preferencePairs ?? 0) > 0),
  });
}

function fileName(text: string): string {
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
