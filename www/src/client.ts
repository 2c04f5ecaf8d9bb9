/** The engine as the main thread sees it: the same methods, run in a worker of its own. */

import { packAdapter, unpackAdapter, type AdapterCard } from './adapter-files.js';
import { WebLoraError, errorData, type ErrorCode, type ErrorData } from './errors.js';
import type {
  CommandArguments,
  CommandEvent,
  CommandName,
  CommandResult,
  FromWorker,
  PostedSource,
  ToWorker,
} from './protocol.js';
import { rememberedProducts, rememberProducts } from './remembered.js';
import { checkSettings } from './settings.js';
import type {
  AdapterFiles,
  AdapterInfo,
  AdapterOptions,
  DatasetReport,
  DeviceInfo,
  EngineOptions,
  Forecast,
  GenerateCallbacks,
  GenerateOptions,
  GenerateResult,
  LoadDatasetOptions,
  LoadModelOptions,
  ModelInfo,
  ModelSource,
  PlanMemoryOptions,
  Profile,
  TrainCallbacks,
  TrainOptions,
  TrainResult,
} from './types.js';

/** Failures after which the engine cannot hand out its adapter, so that the copy on this side has to do. */
const LOSSES: readonly ErrorCode[] = ['crashed', 'device_lost', 'disposed', 'gpu', 'out_of_memory'];

interface Pending {
  resolve: (result: never) => void;
  reject: (error: WebLoraError) => void;
  onEvent: (event: CommandEvent) => void;
}

interface CallOptions {
  onEvent?: (event: CommandEvent) => void;
  signal?: AbortSignal | undefined;
  transfer?: Transferable[];
}

/** Starts a worker, compiles the engine in it and asks for a GPU. */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  return Engine.create(options);
}

/**
 * A model, its examples and its adapter on one GPU. Calls may be made at any time; they run one after another. Made
 * by {@link createEngine}.
 */
export class Engine {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #end: ErrorData | undefined;
  #device: DeviceInfo | undefined;
  #lastAdapter: AdapterFiles | undefined;

  private constructor() {
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'web-lora' });
    this.#worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => this.#receive(data));
    this.#worker.addEventListener('error', (event) => {
      event.preventDefault();
      this.#stop(errorData(event.message ?? 'the worker could not be started'));
    });
  }

  /** @internal */
  static async create(options: EngineOptions): Promise<Engine> {
    const engine = new Engine();
    try {
      engine.#device = await engine.#call('create', { options: { ...options, products: rememberedProducts() } });
      if (!options.variant) rememberProducts(engine.#device.products);
      return engine;
    } catch (error) {
      engine.dispose();
      throw error;
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

  /** Streams a model to the GPU. Takes the place of the model before, with its examples and adapter. */
  async loadModel(source: ModelSource, options: LoadModelOptions = {}): Promise<ModelInfo> {
    const { onProgress, signal, ...settings } = options;
    checkSettings(settings);
    const onEvent = (event: CommandEvent) => event.type === 'progress' && onProgress?.(event.progress);
    return this.#call('loadModel', { source: posted(source), options: settings }, { onEvent, signal });
  }

  /**
   * The GPU memory that training would take, known before any of it is. The model need not be loaded: only the headers
   * of its files are read, and what is loaded stays.
   */
  async planMemory(source: ModelSource, options: PlanMemoryOptions = {}): Promise<Forecast> {
    checkSettings(options);
    return this.#call('planMemory', { source: posted(source), options });
  }

  /** Reads examples as JSON lines: with `messages`, with `prompt` and `completion`, or with `text`. */
  async loadDataset(
    data: Blob | string | Uint8Array<ArrayBuffer>,
    options: LoadDatasetOptions = {},
  ): Promise<DatasetReport> {
    const { name, ...settings } = options;
    checkSettings(settings);
    const bytes = new Uint8Array(await new Blob([data]).arrayBuffer());
    const file = name ?? (data instanceof File ? data.name : 'examples');
    return this.#call('loadDataset', { file, bytes, options: settings }, { transfer: [bytes.buffer] });
  }

  /** Forgets the examples. */
  async clearDataset(): Promise<void> {
    await this.#call('clearDataset', {});
  }

  /** Puts a fresh adapter, which changes nothing yet, in the place of the one before. */
  async newAdapter(options: AdapterOptions = {}): Promise<AdapterInfo> {
    checkSettings(options);
    return this.#call('newAdapter', { options });
  }

  /** Loads a PEFT adapter: its two files, a zip of them, or the files of its folder. */
  async loadAdapter(from: AdapterFiles | Blob | readonly File[]): Promise<AdapterInfo> {
    const files = 'weights' in from ? from : await unpackAdapter(from);
    const info = await this.#call('loadAdapter', { files });
    this.#lastAdapter = files;
    return info;
  }

  /** The adapter in use, if there is one. */
  async adapterInfo(): Promise<AdapterInfo | undefined> {
    return this.#call('adapterInfo', {});
  }

  /** The adapter as PEFT's two files. Where the engine is gone, the last copy of it. */
  async saveAdapter(): Promise<AdapterFiles> {
    try {
      return await this.#call('saveAdapter', {});
    } catch (error) {
      if (this.#lastAdapter && LOSSES.includes(errorData(error).code)) return this.#lastAdapter;
      throw error;
    }
  }

  /** The adapter as one zip with a README.md. */
  async saveAdapterZip(card: AdapterCard): Promise<Blob> {
    return packAdapter(await this.saveAdapter(), card);
  }

  /** Trains the adapter on the examples. Stopping by `signal` is an end like any other and does not reject. */
  async train(options: TrainOptions = {}, callbacks: TrainCallbacks = {}): Promise<TrainResult> {
    checkSettings(options);
    const onEvent = (event: CommandEvent) => {
      if (event.type === 'progress') callbacks.onProgress?.(event.progress);
      if (event.type === 'plan') callbacks.onPlan?.(event.plan);
      if (event.type === 'step') callbacks.onStep?.(event.step);
      if (event.type === 'adapter') this.#lastAdapter = event.files;
    };
    return this.#call('train', { options }, { onEvent, signal: callbacks.signal });
  }

  /** Times every kernel of one step of a training with these options. The adapter stays as it is. */
  async profile(options: TrainOptions = {}): Promise<Profile> {
    checkSettings(options);
    return this.#call('profile', { options });
  }

  /** Answers. Stopping by `signal` does not reject: the answer so far is the result. */
  async generate(options: GenerateOptions, callbacks: GenerateCallbacks = {}): Promise<GenerateResult> {
    checkSettings(options);
    const onEvent = (event: CommandEvent) => event.type === 'token' && callbacks.onToken?.(event.text);
    return this.#call('generate', { options }, { onEvent, signal: callbacks.signal });
  }

  /** Ends the worker and gives the GPU's memory back. Calls under way reject with `disposed`. */
  dispose(): void {
    this.#stop({ code: 'disposed', message: 'The engine was disposed of.' });
    this.#worker.terminate();
  }

  #call<Name extends CommandName>(
    type: Name,
    args: CommandArguments<Name>,
    { onEvent = () => undefined, signal, transfer = [] }: CallOptions = {},
  ): Promise<CommandResult<Name>> {
    if (this.#end) return Promise.reject(new WebLoraError(this.#end));
    const id = this.#nextId++;
    const post = (message: ToWorker) => this.#worker.postMessage(message, transfer);
    const abort = () => this.#worker.postMessage({ kind: 'abort', id } satisfies ToWorker);
    const answer = new Promise<CommandResult<Name>>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, onEvent });
    });
    post({ kind: 'command', id, command: { type, ...args } as never });
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort);
    return answer.finally(() => signal?.removeEventListener('abort', abort));
  }

  #receive(message: FromWorker): void {
    if (message.kind === 'crashed') {
      this.#stop(message.error);
      return;
    }
    const pending = this.#pending.get(message.id);
    if (!pending) return;
    if (message.kind === 'event') {
      pending.onEvent(message.event);
      return;
    }
    this.#pending.delete(message.id);
    if (message.kind === 'error') pending.reject(new WebLoraError(message.error));
    else pending.resolve(message.result as never);
  }

  #stop(error: ErrorData): void {
    this.#end ??= error;
    for (const pending of this.#pending.values()) pending.reject(new WebLoraError(this.#end));
    this.#pending.clear();
  }
}

function posted(source: ModelSource): PostedSource {
  if (source instanceof File) return { files: [source] };
  if (typeof source === 'string' || source instanceof URL) return { url: new URL(source, location.href).href };
  return { files: [...source] };
}
