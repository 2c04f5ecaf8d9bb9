/** The engine as the main thread sees it: the same methods, run in a worker of its own. */

import { filesOf, packAdapter, unpackAdapter } from './adapter-files.js';
import { dataFiles } from './data-files.js';
import { Connection, type CallOptions, type EngineWorker } from './connection.js';
import { WebLoraError, errorData, type ErrorCode } from './errors.js';
import { onHidden } from './hidden.js';
import { stopped } from './http.js';
import { compareLogits, mergedModel, writeMerged, type Logits } from './merged.js';
import type { AdapterCard } from './model-card.js';
import { platform } from './platform.js';
import type {
  CommandArguments,
  CommandEvent,
  CommandName,
  CommandResult,
  PostedSource,
} from './protocol.js';
import { outliving } from './recovery.js';
import { rememberedProducts, rememberProducts } from './remembered.js';
import { checkSettings } from './settings.js';
import { Task } from './task.js';
import type {
  AdapterEntry,
  AdapterFiles,
  AdapterFormat,
  AdapterFrom,
  AdapterInfo,
  AdapterOptions,
  AdapterSpectrum,
  BatchReport,
  CombineOptions,
  CompressOptions,
  DataInput,
  DataSummary,
  DatasetReport,
  DeviceInfo,
  EngineOptions,
  EvaluateOptions,
  Evaluation,
  ExportedFile,
  Forecast,
  GenerateCallbacks,
  GenerateOptions,
  GenerateResult,
  HubSource,
  LoadDatasetOptions,
  LoadModelOptions,
  LogitsOptions,
  MergedCheck,
  MergedModel,
  MergeOptions,
  MergeReport,
  ModelInfo,
  ModelSource,
  OptimOptions,
  OptimReport,
  PlanMemoryOptions,
  Profile,
  Progress,
  RebuiltAdapter,
  Stoppable,
  TrainCallbacks,
  TrainOptions,
  TrainPlan,
  TrainResult,
  TrainStep,
  WeightedAdapter,
} from './types.js';

/** What a merged model is asked where nothing else is wanted. */
const CHECK_PROMPTS = ['Hello! Who are you?', 'The capital of France is', 'Once upon a time there was'];

/** Failures after which the engine cannot hand out its adapter, so that the copy on this side has to do. */
const LOSSES: readonly ErrorCode[] = ['crashed', 'device_lost', 'disposed', 'gpu', 'out_of_memory'];

/** What the client stands on, which in Node is another. */
export interface Host {
  startWorker(): EngineWorker;
  /** The absolute address of what a model is called by. */
  address(source: string | URL): string;
  /** The folder at a path, where there are paths. */
  folder?(path: string): Promise<FileSystemDirectoryHandle>;
}

const BROWSER: Host = {
  startWorker: () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'web-lora' }),
  address: (source) => new URL(source, location.href).href,
};

/** Starts a worker, compiles the engine in it and asks for a GPU. */
export async function createEngine(options: EngineOptions & Stoppable = {}): Promise<Engine> {
  return Engine.create(options, BROWSER);
}

/**
 * A model, its examples and its adapter on one GPU. Calls may be made at any time; they run one after another. Made
 * by {@link createEngine}.
 *
 * Every method takes a signal. What it stops rejects with code `cancelled`, but for training and answering, where stopping
 * is an end like any other. What only tells or works something out rejects at once. What changes something, and is neither
 * loading a model nor an evaluation, is stopped only while it waits for its turn: then it is either done or not begun.
 */
export class Engine {
  readonly #host: Host;
  readonly #options: EngineOptions;
  #connection: Connection;
  /** While a new worker takes the place of one that died, calls wait. */
  #revival: Promise<void> | undefined;
  #device: DeviceInfo | undefined;
  #model: CommandArguments<'loadModel'> | undefined;
  #lastAdapter: AdapterFiles | undefined;
  /** The copy is of the adapter in use, and newer than any step by hand. */
  #isCopied = false;
  readonly #unwatch: () => void;

  private constructor(options: EngineOptions, host: Host) {
    this.#options = options;
    this.#host = host;
    this.#connection = new Connection(host.startWorker());
    this.#unwatch = onHidden(() => this.#connection.save());
  }

  /** @internal */
  static async create({ signal, ...options }: EngineOptions & Stoppable, host: Host): Promise<Engine> {
    if (signal?.aborted) throw stopped();
    checkSettings(options);
    const engine = new Engine(options, host);
    const stop = () => engine.#connection.stop(stopped().data);
    signal?.addEventListener('abort', stop);
    try {
      engine.#device = await engine.#call('create', { options: { ...options, products: rememberedProducts() } });
      if (!options.variant) rememberProducts(engine.#device.products);
      return engine;
    } catch (error) {
      engine.dispose();
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /** The GPU in use. */
  get device(): DeviceInfo {
    if (!this.#device) throw new WebLoraError({ code: 'not_ready', message: 'The engine has not been created.' });
    return this.#device;
  }

  /**
   * The newest copy of a trained or loaded adapter on this side. Training refreshes it now and then and at its end,
   * and nothing that happens to the worker or the GPU can take it away.
   */
  get lastAdapter(): AdapterFiles | undefined {
    return this.#lastAdapter;
  }

  /** Streams a model to the GPU, from the Hub by way of the tab's storage. Takes the place of the model before, with its examples and adapter. */
  async loadModel(source: ModelSource, options: LoadModelOptions = {}): Promise<ModelInfo> {
    const { onProgress, signal, ...settings } = options;
    checkSettings(settings);
    const onEvent = (event: CommandEvent) => event.type === 'progress' && onProgress?.(event.progress);
    // Only a page can ask that what is downloaded be not the first to go. It is kept either way while there is room.
    if (isHub(source)) await platform().storage.persist().catch(() => false);
    const model = { source: this.#posted(source), options: settings };
    this.#model = undefined;
    this.#isCopied = false;
    const info = await this.#call('loadModel', model, { onEvent, signal });
    this.#model = model;
    return info;
  }

  /**
   * The GPU memory that training would take, known before any of it is. The model need not be loaded: only the headers
   * of its files are read, which for a model of the Hub need not be downloaded, and what is loaded stays.
   */
  async planMemory(
    source: ModelSource,
    options: PlanMemoryOptions = {},
    { signal }: Stoppable = {},
  ): Promise<Forecast> {
    checkSettings(options);
    return this.#call('planMemory', { source: this.#posted(source), options }, { signal });
  }

  /**
   * Reads examples from one file or several: JSON lines, JSON, CSV, TSV, Parquet or text, in the shapes that are common
   * or with columns as `mapping` says.
   */
  async loadDataset(
    data: DataInput | readonly DataInput[],
    options: LoadDatasetOptions = {},
    { signal }: Stoppable = {},
  ): Promise<DatasetReport> {
    const { name, evalData, ...settings } = options;
    checkSettings(settings);
    const files = await dataFiles(data, name);
    const evalFiles = evalData === undefined ? [] : await dataFiles(evalData, 'evaluation');
    const transfer = [...files, ...evalFiles].map(({ bytes }) => bytes.buffer);
    return this.#call('loadDataset', { files, evalFiles, options: settings }, { signal, transfer });
  }

  /** Says what is in a file of examples: its format, columns and first rows. Needs no model. */
  async inspectData(
    data: DataInput,
    { name }: { name?: string } = {},
    { signal }: Stoppable = {},
  ): Promise<DataSummary> {
    const [file] = await dataFiles(data, name);
    return this.#call('inspectData', { file: file! }, { signal, transfer: [file!.bytes.buffer] });
  }

  /** Forgets the examples. */
  async clearDataset({ signal }: Stoppable = {}): Promise<void> {
    await this.#call('clearDataset', {}, { signal });
  }

  /** Puts a fresh adapter, which changes nothing yet, in the place of the one before. */
  async newAdapter(options: AdapterOptions = {}, { signal }: Stoppable = {}): Promise<AdapterInfo> {
    checkSettings(options);
    this.#isCopied = false;
    return this.#call('newAdapter', { options }, { signal });
  }

  /**
   * Loads an adapter: PEFT's two files, a zip of them, or the files of its folder; or one in llama.cpp's format, a GGUF of
   * factors.
   */
  async loadAdapter(from: AdapterFiles | Blob | readonly File[], { signal }: Stoppable = {}): Promise<AdapterInfo> {
    const files = await this.#unpacked(from);
    const info = await this.#call('loadAdapter', { files }, { signal });
    this.#keep(files);
    return info;
  }

  /** The adapter in use, if there is one. */
  async adapterInfo({ signal }: Stoppable = {}): Promise<AdapterInfo | undefined> {
    return this.#call('adapterInfo', {}, { signal });
  }

  /**
   * The adapter as PEFT's two files. Where the engine is gone, the last copy of it, unless it was trained by hand or changed
   * for another since.
   */
  async saveAdapter({ signal }: Stoppable = {}): Promise<AdapterFiles> {
    try {
      return await this.#call('saveAdapter', {}, { signal });
    } catch (error) {
      if (this.#lastAdapter && this.#isCopied && LOSSES.includes(errorData(error).code)) return this.#lastAdapter;
      throw error;
    }
  }

  /** The adapter as one zip with a README.md. */
  async saveAdapterZip(card: AdapterCard, stoppable: Stoppable = {}): Promise<Blob> {
    return packAdapter(await this.saveAdapter(stoppable), card);
  }

  /**
   * The adapter as the files of a format: `adapter_config.json` and `adapter_model.safetensors`, `adapter.gguf`, or
   * `adapter_config.json` and `adapters.safetensors`. Rejects with `unsupported` where GGUF has no name for a module.
   */
  async exportAdapter(format: AdapterFormat, { signal }: Stoppable = {}): Promise<ExportedFile[]> {
    if (format === 'peft') return filesOf(await this.saveAdapter({ signal }));
    return this.#call('exportAdapter', { format }, { signal });
  }

  /**
   * The model with its adapter as one model, W + ΔW: the files of a Hugging Face folder, to be streamed wherever they are
   * wanted. Their bytes are made as they are read, of the files that the model was loaded from, which must still be there.
   * A training under way is waited for by every read; what is trained or loaded later changes nothing in them.
   */
  async openMerged(options: MergeOptions = {}, { signal }: Stoppable = {}): Promise<MergedModel> {
    checkSettings(options);
    const opened = await this.#call('openMerged', { options }, { signal });
    const read = (file: number, offset: number, length: number) =>
      this.#call('readMerged', { merged: opened.id, file, offset, length });
    return mergedModel(opened, read, async () => void (await this.#call('closeMerged', { merged: opened.id })));
  }

  /**
   * The same, written to a folder: one that a person has chosen (`showDirectoryPicker`) or of the page's own storage; in
   * Node also a path. Files of the same names are written over. When stopped, nothing of them stays.
   */
  async saveMerged(
    folder: FileSystemDirectoryHandle | string,
    options: MergeOptions = {},
    { onProgress, signal }: Stoppable & { onProgress?: (progress: Progress) => void } = {},
  ): Promise<MergeReport> {
    const merged = await this.openMerged(options, { signal });
    try {
      await writeMerged(merged, await this.#folder(folder), { onProgress, signal });
    } finally {
      await merged.close();
    }
    const { files: _, close: __, ...report } = merged;
    return report;
  }

  /**
   * Loads a merged model in a second engine, beside this one, and compares its logits with those of this one's base and
   * adapter. Takes the GPU memory of that model besides, and as long as loading it.
   */
  async checkMerged(
    source: ModelSource,
    { prompts = CHECK_PROMPTS, onProgress, signal }: Stoppable & { prompts?: readonly string[]; onProgress?: (progress: Progress) => void } = {},
  ): Promise<MergedCheck> {
    const both: Omit<Logits, 'merged'>[] = [];
    for (const prompt of prompts) {
      const base = await this.logits({ prompt, strength: 0 }, { signal });
      both.push({ base, adapter: await this.logits({ prompt }, { signal }) });
    }
    const other = await Engine.create({ variant: this.device.products.variant, signal }, this.#host);
    try {
      await other.loadModel(source, { ...(onProgress ? { onProgress } : {}), ...(signal ? { signal } : {}) });
      const all: Logits[] = [];
      for (const [at, prompt] of prompts.entries()) all.push({ ...both[at]!, merged: await other.logits({ prompt }, { signal }) });
      return compareLogits(all);
    } finally {
      other.dispose();
    }
  }

  /**
   * Keeps an adapter under a new name, ready for {@link useAdapter}: its files, another of the engine's by its name, or a
   * copy of the one in use where nothing is given. What is in use stays so, and nothing is taken of the GPU.
   */
  async addAdapter(
    name: string,
    from?: AdapterFrom | Blob | readonly File[],
    { signal }: Stoppable = {},
  ): Promise<AdapterInfo> {
    const source = from === undefined || typeof from === 'string' ? from : await this.#unpacked(from);
    return this.#call('addAdapter', { name, from: source }, { signal });
  }

  /**
   * Puts the adapter of this name in use: it answers, and is trained, saved and replaced from here on; the one before is
   * kept as it is. Without a name, the one that newAdapter or loadAdapter made, or where there is none the base alone.
   * The base model stays loaded. Says what is in use now.
   */
  async useAdapter(name?: string, { signal }: Stoppable = {}): Promise<AdapterInfo | undefined> {
    this.#isCopied = false;
    return this.#call('useAdapter', { name }, { signal });
  }

  /** All adapters there are, the one without a name first. */
  async listAdapters({ signal }: Stoppable = {}): Promise<AdapterEntry[]> {
    return this.#call('listAdapters', {}, { signal });
  }

  /** Forgets the adapter of this name. */
  async removeAdapter(name: string, { signal }: Stoppable = {}): Promise<void> {
    this.#isCopied = false;
    await this.#call('removeAdapter', { name }, { signal });
  }

  /** What an adapter has learned, by the singular values of its ΔW: the one in use, another by its name, or files. */
  async inspectAdapter(from?: AdapterFrom, { signal }: Stoppable = {}): Promise<AdapterSpectrum> {
    return this.#call('inspectAdapter', { from }, { signal });
  }

  /**
   * The nearest adapter of a smaller rank. The one it is made of, as in {@link inspectAdapter}, stays as it is: give the
   * files to {@link addAdapter} or {@link loadAdapter} to use them.
   */
  async compressAdapter(
    options: CompressOptions,
    from?: AdapterFrom,
    { signal }: Stoppable = {},
  ): Promise<RebuiltAdapter> {
    checkSettings(options);
    return this.#call('compressAdapter', { options, from }, { signal });
  }

  /** One adapter that does what several do together, each as much as its weight says. They stay as they are. */
  async combineAdapters(
    adapters: readonly WeightedAdapter[],
    options: CombineOptions = {},
    { signal }: Stoppable = {},
  ): Promise<RebuiltAdapter> {
    [options, ...adapters].forEach(checkSettings);
    const parts = adapters.map(({ name, files, weight }) => ({ from: files ?? name, weight }));
    return this.#call('combineAdapters', { parts, options }, { signal });
  }

  /**
   * Trains the adapter on the examples: to be awaited, or looped over for its steps. Stopping by `signal` is an end like
   * any other and does not reject.
   *
   * A run that is kept outlives the loss of the GPU and a crash of the engine: a new worker loads the model again and goes
   * on from the newest checkpoint, to the same bytes, beside all other adapters; steps after that are told again. It
   * does so once for each checkpoint. Otherwise the error rejects, and {@link resumeRun} of a new engine goes on.
   */
  train(options: TrainOptions = {}, callbacks: TrainCallbacks = {}): Task<TrainStep, TrainResult> {
    return new Task(callbacks.signal, async (signal, give) => {
      checkSettings(options);
      const { run, resume } = callbacks;
      // Only a page can ask that what is kept be not the first to go.
      if (run !== undefined) await platform().storage.persist().catch(() => false);
      const first = (onEvent: (event: CommandEvent) => void) =>
        this.#call('train', { options, run, resume }, { onEvent, signal });
      return this.#outliving(first, signal, callbacks, give);
    });
  }

  /**
   * Goes on with a run that is kept, from its newest checkpoint to its end. Its model is loaded unless it is there, its
   * examples and adapter take the place of those there are. Rejects with `not_ready` where the model was a file of this
   * device that must be chosen again.
   */
  resumeRun(id: string, callbacks: Omit<TrainCallbacks, 'run' | 'resume'> = {}): Task<TrainStep, TrainResult> {
    return new Task(callbacks.signal, (signal, give) => {
      const first = (onEvent: (event: CommandEvent) => void) => this.#call('resumeRun', { run: id }, { onEvent, signal });
      return this.#outliving(first, signal, callbacks, give);
    });
  }

  /** The scores of the model with its adapter on the examples held out, or on those trained on. */
  async evaluate(
    options: EvaluateOptions = {},
    { onProgress, signal }: Stoppable & { onProgress?: (progress: Progress) => void } = {},
  ): Promise<Evaluation> {
    checkSettings(options);
    const onEvent = (event: CommandEvent) => event.type === 'progress' && onProgress?.(event.progress);
    return this.#call('evaluate', { options }, { onEvent, signal });
  }

  /**
   * Gets a training ready for steps by hand: {@link forwardBackward} as often as you like, then {@link optimStep}, and so
   * on; {@link endTraining} at the end.
   */
  async startTraining(options: TrainOptions = {}, { signal }: Stoppable = {}): Promise<TrainPlan> {
    checkSettings(options);
    return this.#call('startTraining', { options }, { signal });
  }

  /**
   * Adds to the gradients those of `weight` times the mean loss of some examples, named by their place in the data. As in
   * PyTorch, what is added up waits for the optimiser's step.
   */
  async forwardBackward(
    examples: readonly number[],
    weight = 1,
    { signal }: Stoppable = {},
  ): Promise<BatchReport> {
    for (const at of examples) checkSettings({ examples: at });
    checkSettings({ weight });
    return this.#call('forwardBackward', { examples, weight }, { signal });
  }

  /** AdamW's step over the gradients added up, which are zero afterwards. */
  async optimStep(options: OptimOptions = {}, { signal }: Stoppable = {}): Promise<OptimReport> {
    checkSettings(options);
    this.#isCopied = false;
    return this.#call('optimStep', { options }, { signal });
  }

  /** The training under way as bytes: adapter, moments, step. */
  async saveState({ signal }: Stoppable = {}): Promise<Uint8Array<ArrayBuffer>> {
    return this.#call('saveState', {}, { signal });
  }

  /** Takes a training that was just started with the same model, examples, adapter and options to where it was saved. */
  async loadState(state: Uint8Array<ArrayBuffer>, { signal }: Stoppable = {}): Promise<void> {
    await this.#call('loadState', { state }, { signal });
  }

  /** Frees what training by hand needs; the adapter stays. */
  async endTraining({ signal }: Stoppable = {}): Promise<void> {
    await this.#call('endTraining', {}, { signal });
  }

  /** Times every kernel of one step of a training with these options. The adapter stays as it is. */
  async profile(options: TrainOptions = {}, { signal }: Stoppable = {}): Promise<Profile> {
    checkSettings(options);
    return this.#call('profile', { options }, { signal });
  }

  /**
   * Answers: to be awaited, or looped over for its text as it comes, in pieces. Stopping by `signal` does not reject: the
   * answer so far is the result.
   */
  generate(options: GenerateOptions, callbacks: GenerateCallbacks = {}): Task<string, GenerateResult> {
    return new Task(callbacks.signal, async (signal, give) => {
      checkSettings(options);
      const onEvent = (event: CommandEvent) => {
        if (event.type !== 'token') return;
        give(event.text);
        callbacks.onToken?.(event.text);
      };
      return this.#call('generate', { options }, { onEvent, signal });
    });
  }

  /** The logits of the token after a prompt: how much the model holds each token of its vocabulary to be the next. */
  async logits(options: LogitsOptions, { signal }: Stoppable = {}): Promise<Float32Array<ArrayBuffer>> {
    checkSettings(options);
    return this.#call('logits', { options }, { signal });
  }

  /** Ends the worker and gives the GPU's memory back. Calls under way reject with `disposed`. */
  dispose(): void {
    this.#connection.stop({ code: 'disposed', message: 'The engine was disposed of.' });
    this.#unwatch();
  }

  /** A training that goes on where it can when its worker or GPU is gone. */
  #outliving(
    first: (onEvent: (event: CommandEvent) => void) => Promise<TrainResult>,
    signal: AbortSignal,
    callbacks: TrainCallbacks,
    give: (step: TrainStep) => void,
  ): Promise<TrainResult> {
    const tell = this.#training(callbacks, give);
    let goOn = () => undefined as void;
    const onEvent = (event: CommandEvent) => {
      if (event.type === 'run') goOn();
      tell(event);
    };
    const training = outliving(first, {
      onEvent,
      signal,
      resume: (run, onEvent) => this.#connection.call('resumeRun', run, { onEvent, signal }),
      revive: (failure) => {
        // Until the run has its examples and its adapter again.
        this.#revival ??= new Promise((resolve) => {
          goOn = () => {
            this.#revival = undefined;
            resolve();
          };
        });
        callbacks.onRecovering?.(failure);
        return this.#revive(failure, onEvent, signal);
      },
    });
    return training.finally(() => goOn());
  }

  /** A new worker with the model that there was; one that came with a run comes with it again. */
  async #revive(failure: WebLoraError, onEvent: (event: CommandEvent) => void, signal: AbortSignal): Promise<void> {
    this.#connection.stop(failure.data);
    const connection = (this.#connection = new Connection(this.#host.startWorker()));
    try {
      // As products were computed before: other ways round elsewhere.
      const options = { ...this.#options, products: this.#device?.products };
      this.#device = await connection.call('create', { options });
      if (this.#model) await connection.call('loadModel', this.#model, { onEvent, signal });
    } catch (error) {
      connection.stop(failure.data);
      throw error;
    }
  }

  /** Hands on what a training tells. */
  #training(callbacks: TrainCallbacks, give: (step: TrainStep) => void): (event: CommandEvent) => void {
    return (event) => {
      if (event.type === 'step') give(event.step);
      if (event.type === 'progress') callbacks.onProgress?.(event.progress);
      if (event.type === 'run') callbacks.onRun?.(event.run);
      if (event.type === 'plan') callbacks.onPlan?.(event.plan);
      if (event.type === 'step') callbacks.onStep?.(event.step);
      if (event.type === 'evaluation') callbacks.onEval?.(event.evaluation);
      if (event.type === 'sample') callbacks.onSample?.(event.sample);
      if (event.type === 'saved') callbacks.onSaved?.(event.step);
      if (event.type === 'unsaved') callbacks.onUnsaved?.(new WebLoraError(event.error));
      if (event.type === 'adapter') this.#keep(event.files);
    };
  }

  async #unpacked(from: AdapterFiles | Blob | readonly File[]): Promise<AdapterFiles> {
    if ('weights' in from) return from;
    const [file] = from instanceof Blob ? [from] : from;
    const alone = from instanceof Blob || from.length === 1;
    const isGguf = alone && file && (await file.slice(0, 4).text()) === 'GGUF';
    return isGguf ? this.#call('readAdapterGguf', { file }) : unpackAdapter(from);
  }

  async #folder(folder: FileSystemDirectoryHandle | string): Promise<FileSystemDirectoryHandle> {
    if (typeof folder !== 'string') return folder;
    if (this.#host.folder) return this.#host.folder(folder);
    const allowed = 'a folder that a person has chosen, as a browser knows no paths';
    const message = `folder is ${folder}, allowed is ${allowed}`;
    throw new WebLoraError({ code: 'bad_setting', name: 'folder', value: folder, allowed, message });
  }

  #keep(files: AdapterFiles): void {
    this.#lastAdapter = files;
    this.#isCopied = true;
  }

  #posted(source: ModelSource): PostedSource {
    if (source instanceof File) return { files: [source] };
    if (typeof source === 'string' || source instanceof URL) return { url: this.#host.address(source) };
    if (isHub(source)) return { hub: source };
    return { files: [...source] };
  }

  async #call<Name extends CommandName>(
    type: Name,
    args: CommandArguments<Name>,
    options: CallOptions = {},
  ): Promise<CommandResult<Name>> {
    while (this.#revival) await this.#revival;
    return this.#connection.call(type, args, options);
  }
}

function isHub(source: ModelSource): source is HubSource {
  return typeof source === 'object' && 'repo' in source;
}
