/** Step 1: a model from this server, the Hub, a file, a folder or a URL. */

import type { ModelInfo, ModelSource, Progress, Quantization, WebLoraError } from 'web-lora';
import type { App } from './app.js';
import { announce, byId, onFiles, showFacts, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatBytes, formatCount, formatDuration, formatShort } from './format.js';
import { hubEndpoint, hubPanel } from './hub-panel.js';
import { keptModels } from './kept-models.js';

/** The model to begin with: as `make run` fetches it, or from the Hub where this server does not have it. */
const DEFAULT_MODEL = {
  url: 'models/SmolLM2-135M-Instruct.Q4_1.gguf',
  repo: 'HuggingFaceTB/SmolLM2-135M-Instruct',
  name: 'SmolLM2 135M Instruct',
  facts: 'Small and quick: a good one to begin with',
  hubSize: '272 MB, once',
};
const PHASES: Record<Progress['phase'], string> = {
  wait: 'Another tab is downloading this model: waiting for it',
  verify: 'Checking what is here already',
  download: 'Downloading',
  open: 'Opening the model',
  weights: 'Moving the weights to the GPU',
  compile: 'Getting the GPU ready',
  evaluate: 'Evaluating',
  write: 'Writing',
  upload: 'Uploading',
};
/** Loads a model; a failure is told in the element given, or at the end of the step. */
export type Load = (source: ModelSource, error?: HTMLElement) => void;

/** Phases whose progress is in bytes. */
const IN_BYTES: readonly Progress['phase'][] = ['verify', 'download', 'weights'];

/** Wires step 1. */
export function modelStep(app: App): void {
  const error = byId('model-error');
  const bar = byId<HTMLProgressElement>('model-progress');
  let changing = false;
  let abort: AbortController | undefined;

  const load: Load = (source, shown = error) => {
    for (const old of byId('model-step').querySelectorAll<HTMLElement>('.error')) showText(old, undefined);
    changing = false;
    abort = new AbortController();
    const { signal } = abort;
    void app.run(
      'model',
      async () => {
        await app.loadModel(source, app.state.quantize, signal);
        announce('The model is loaded.');
      },
      (failure: WebLoraError) => showText(shown, failure.message),
    );
  };
  const drawProgress = ({ phase, loaded, total, bytesPerSecond, secondsLeft }: Progress) => {
    const size = IN_BYTES.includes(phase) ? `: ${formatBytes(loaded)} of ${formatBytes(total)}` : '';
    const rate = bytesPerSecond === undefined ? '' : ` · ${formatBytes(bytesPerSecond)}/s`;
    const left = secondsLeft === undefined ? '' : ` · ${formatDuration(secondsLeft)} left`;
    byId('model-loading-text').textContent = PHASES[phase] + size + rate + left;
    bar.value = total > 0 ? loaded / total : 0;
    // What a download has brought stays: to stop it is to pause it.
    byId('model-cancel').textContent = phase === 'download' ? 'Pause' : 'Cancel';
  };
  const loadFiles = (files: File[]) => {
    // All parts of one model, where it is in parts; the engine says where it is more than one model.
    const ggufs = files.filter((file) => file.name.endsWith('.gguf'));
    load(ggufs.length > 0 ? ggufs : files);
  };
  const smaller = byId<HTMLSelectElement>('model-quantize');
  smaller.addEventListener('change', () => app.update({ quantize: (smaller.value as Quantization) || undefined }));

  void offerDefault(load);
  onFiles(byId('model-file-button'), byId<HTMLInputElement>('model-file'), loadFiles);
  onFiles(byId('model-folder-button'), byId<HTMLInputElement>('model-folder'), (files) => load(topLevel(files)));
  onDrop(byId('model-drop'), loadFiles);
  byId('model-cancel').addEventListener('click', () => abort?.abort());
  byId('model-change').addEventListener('click', () => {
    changing = true;
    app.update({});
    byId('model-default-use').focus();
  });
  byId('model-url-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = byId<HTMLInputElement>('model-url').value.trim();
    if (URL.canParse(text)) load(text);
    else showText(error, 'That is not an address. It should begin with https://');
  });

  app.onChange(({ model, busy, engine, trouble, loading }) => {
    const ready = model !== undefined && !changing && !loading;
    byId('model-loading').hidden = !loading;
    if (loading) drawProgress(loading);
    byId('model-ready').hidden = !ready;
    byId('model-choices').hidden = loading !== undefined || ready;
    for (const button of byId('model-choices').querySelectorAll('button')) {
      button.disabled = busy !== undefined || !engine || trouble !== undefined;
    }
    byId<HTMLButtonElement>('model-change').disabled = busy !== undefined;
    byId('model-step').toggleAttribute('data-done', ready);
    if (!model) return;
    byId('model-name').textContent = model.name;
    showFacts(byId('model-facts'), {
      Parameters: formatShort(model.parameters),
      Weights: `${formatBytes(model.weightBytes)}, ${model.dtype}`,
      ...quantizing(model),
      Layers: formatCount(model.layers),
      Context: `${formatCount(model.contextLength)} tokens`,
    });
    showText(byId('model-note'), noteOn(model));
  });
  // After the line that disables every button here: these know better when theirs are of use.
  keptModels(app, load, hubPanel(app, load));
}

/** What it cost to make weights smaller, where they were. */
function quantizing({ quantization }: ModelInfo): Record<string, string> {
  if (!quantization) return {};
  return { [`Made into ${quantization.dtype}`]: `off by ${(100 * quantization.relative).toFixed(1)} %` };
}

function noteOn(model: { hasTokenizer: boolean; hasChatTemplate: boolean }): string | undefined {
  if (!model.hasTokenizer) {
    return 'This model came without a tokenizer (tokenizer.json), so it cannot read examples. Choose the whole folder.';
  }
  if (model.hasChatTemplate) return undefined;
  return 'This model has no chat template: give it examples with prompt and completion, or with text.';
}

/** Offers the model that this server has, or the Hub's. */
async function offerDefault(load: Load): Promise<void> {
  const { repo, name, facts, hubSize } = DEFAULT_MODEL;
  const url = new URL(DEFAULT_MODEL.url, document.baseURI);
  const response = await fetch(url, { method: 'HEAD' }).catch(() => undefined);
  const here = response?.ok === true;
  const size = here ? formatBytes(Number(response.headers.get('Content-Length'))) : hubSize;
  byId('model-default-name').textContent = name;
  byId('model-default-facts').textContent = `${facts} · ${size}`;
  byId('model-default-use').textContent = here ? 'Use this model' : 'Download it';
  byId('model-default-use').addEventListener('click', () => load(here ? url : { repo, endpoint: hubEndpoint() }));
  byId('model-default').hidden = false;
}

/** A folder picker hands over subfolders too; the model is what lies directly in the folder. */
function topLevel(files: File[]): File[] {
  return files.filter((file) => file.webkitRelativePath.split('/').length <= 2);
}
