/** The model with its adapter as one model: into a folder where the browser has them, else as a zip; and a look whether it is right. */

import { makeZip } from 'client-zip';
import { WebLoraError, type MergeDType, type MergedModel, type ModelInfo, type Progress } from 'web-lora';
import { toError, type App } from './app.js';
import { announce, byId, showText } from './dom.js';
import { formatBytes } from './format.js';
import { fileName, saveAs } from './keep-step.js';

/** A zip on its way lies in the page's own storage under this name. */
const SCRATCH = 'merged.zip';
const BYTES: Record<MergeDType, number> = { f32: 4, f16: 2, bf16: 2 };
const PLAIN = ['F32', 'F16', 'BF16'];

/** Not every browser has it. */
const picker = (window as { showDirectoryPicker?: (options: object) => Promise<FileSystemDirectoryHandle> }).showDirectoryPicker?.bind(window);

/** Wires the fold; `title` is the name that a person has given the adapter. */
export function mergedPanel(app: App, title: () => string): void {
  const status = byId('merged-status');
  const error = byId('merged-error');
  const check = byId<HTMLButtonElement>('merged-check');
  const stop = byId('merged-stop');
  const dtype = byId<HTMLSelectElement>('merged-dtype');
  /** What was written last, while it can be read again. */
  let written: FileSystemDirectoryHandle | undefined;
  let stopping = new AbortController();

  void removeScratch();

  const working = (what: string) => ({ phase, loaded, total }: Progress) => {
    const share = total > 0 ? ` ${Math.floor((100 * loaded) / total)} %` : '';
    showText(status, `${phase === 'write' ? what : 'Loading it'}${share}`);
  };
  const attempt = async (work: (signal: AbortSignal) => Promise<void>) => {
    showText(error, undefined);
    stopping = new AbortController();
    stop.hidden = false;
    try {
      const { signal } = stopping;
      const told = () => work(signal).catch((thrown: unknown) => Promise.reject(failureOf(thrown, signal)));
      await app.run('merge', told, ({ message }) => showText(error, message));
      if (stopping.signal.aborted) showText(status, 'Stopped.');
      else if (!error.hidden) showText(status, undefined);
    } finally {
      stop.hidden = true;
    }
  };

  const save = async (folder: FileSystemDirectoryHandle | undefined) => {
    written = undefined;
    check.hidden = true;
    await attempt(async (signal) => {
      const options = { dtype: dtype.value as MergeDType };
      const onProgress = working('Writing');
      if (folder) {
        const own = await folder.getDirectoryHandle(`${fileName(title())}-merged`, { create: true });
        const { sizeBytes } = await app.engine.saveMerged(own, options, { onProgress, signal });
        written = own;
        check.hidden = false;
        showText(status, `Written: ${formatBytes(sizeBytes)} in the folder ${own.name}.`);
      } else {
        const merged = await app.engine.openMerged(options, { signal });
        try {
          saveAs(await zipped(merged, onProgress, signal), `${fileName(title())}-merged.zip`);
          showText(status, `Written: ${formatBytes(merged.sizeBytes)} in one zip.`);
        } finally {
          await merged.close();
        }
      }
      announce('The merged model is written.');
    });
  };

  byId('merged-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!picker) {
      void save(undefined);
      return;
    }
    // A picker that is closed is no failure.
    picker({ id: 'web-lora', mode: 'readwrite' }).then(save, (thrown: unknown) => {
      const closed = thrown instanceof DOMException && thrown.name === 'AbortError';
      if (!closed) showText(error, toError(failureOf(thrown, stopping.signal)).message);
    });
  });
  check.addEventListener('click', () => {
    const folder = written;
    if (!folder) return;
    void attempt(async (signal) => {
      showText(status, 'Asking the model as it is…');
      const { off, moved, sameTokens } = await app.engine.checkMerged(await filesOf(folder), { signal, onProgress: working('') });
      const tokens = sameTokens ? 'The likeliest tokens are the same.' : 'A likeliest token is another one: a type with more digits is nearer.';
      showText(status, `Loaded again, it gives logits within ${figure(off)} of those of model and adapter, which moves them by up to ${figure(moved)}. ${tokens}`);
    });
  });
  stop.addEventListener('click', () => stopping.abort());

  let model: ModelInfo | undefined;
  const describe = () => {
    if (!model) return;
    const size = `It takes about ${formatBytes(model.parameters * BYTES[dtype.value as MergeDType])}.`;
    const quantised = [
      `The base is loaded as ${model.dtype}: merged are the numbers that its blocks stand for.`,
      `Made into ${model.dtype} again, the model would lose most of what was learned, which is smaller than the steps`,
      'between the numbers of a block; keep the adapter for that.',
    ].join(' ');
    byId('merged-hint').textContent = PLAIN.includes(model.dtype) ? size : `${size} ${quantised}`;
  };
  dtype.addEventListener('change', describe);
  app.onChange((state) => {
    const { adapter, busy, trouble } = state;
    byId<HTMLButtonElement>('merged-save').disabled = !adapter || busy !== undefined || trouble !== undefined;
    check.disabled = busy !== undefined || trouble !== undefined;
    if (state.model === model) return;
    model = state.model;
    // As the base has it, where a person has not chosen yet.
    if (model) dtype.value = model.dtype === 'F32' || model.dtype === 'BF16' ? model.dtype.toLowerCase() : 'f16';
    [written, check.hidden] = [undefined, true];
    showText(status, undefined);
    describe();
  });
}

/** Browsers have words of their own for what folders and storage refuse. */
function failureOf(thrown: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return new WebLoraError({ code: 'cancelled', message: 'Stopped.' });
  if (!(thrown instanceof DOMException)) return thrown;
  const full = thrown.name === 'QuotaExceededError';
  const message = full ? 'There is no room for the merged model.' : `The merged model cannot be written (${thrown.message}).`;
  return new WebLoraError({ code: full ? 'no_space' : 'bad_file', message });
}

function figure(value: number): string {
  return value === 0 ? '0' : value.toPrecision(2);
}

async function filesOf(folder: FileSystemDirectoryHandle): Promise<File[]> {
  const files: File[] = [];
  for await (const entry of folder.values()) if (entry.kind === 'file') files.push(await (entry as FileSystemFileHandle).getFile());
  return files;
}

/** All files in one zip, which goes by way of the page's storage: it may be larger than memory. */
async function zipped(merged: MergedModel, onProgress: (progress: Progress) => void, signal: AbortSignal): Promise<Blob> {
  let loaded = 0;
  const counted = new TransformStream<Uint8Array, Uint8Array>({
    transform(bytes, controller) {
      loaded += bytes.length;
      onProgress({ phase: 'write', loaded: Math.min(loaded, merged.sizeBytes), total: merged.sizeBytes });
      controller.enqueue(bytes);
    },
  });
  const zip = makeZip(merged.files.map(({ name, size, stream }) => ({ name, size, input: stream() })));
  const root = await navigator.storage.getDirectory().catch(() => undefined);
  const scratch = await root?.getFileHandle(SCRATCH, { create: true });
  // Where the page's storage cannot be written to from here, the browser finds a place for it.
  if (!scratch?.createWritable) return new Response(zip.pipeThrough(counted, { signal })).blob();
  await zip.pipeThrough(counted, { signal }).pipeTo(await scratch.createWritable(), { signal });
  return scratch.getFile();
}

/** What an earlier visit has left: while the page is open, a download may still read from it. */
async function removeScratch(): Promise<void> {
  const root = await navigator.storage.getDirectory().catch(() => undefined);
  await root?.removeEntry(SCRATCH).catch(() => undefined);
}
