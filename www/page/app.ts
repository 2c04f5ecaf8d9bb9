/**
 * What the page knows, in one place: the engine, what is loaded in it, and what it is busy with. Sections read it,
 * change it through `update` and `run`, and draw themselves again on every change.
 */

import {
  createEngine,
  WebLoraError,
  type DataMapping,
  type DatasetReport,
  type Engine,
  type ErrorCode,
  type Evaluation,
  type LoadDatasetOptions,
  type ModelInfo,
  type ModelSource,
  type Progress,
  type Quantization,
  type TrainOptions,
  type Variant,
} from 'web-lora';
import { Adapters, type NamedAdapter } from './adapters.js';
import type { Sample } from './samples.js';

/** What the engine is busy with. */
export type Task = 'engine' | 'model' | 'data' | 'train' | 'profile' | 'compare' | 'adapter' | 'merge';

/** Examples as they came, kept so that they can be read again for another model or length. */
export interface DataSource {
  name: string;
  data: Blob | File[];
  /** What its columns are, where the person has said so. */
  mapping?: DataMapping;
  /** Where they ship with the page. */
  sample?: Sample;
}

/** What is there right now. */
export interface State {
  engine: Engine | undefined;
  busy: Task | undefined;
  /** Why there is no engine, or no longer one. */
  trouble: WebLoraError | undefined;
  /** How far a model is that is being loaded. */
  loading: Progress | undefined;
  model: ModelInfo | undefined;
  modelSource: { source: ModelSource; quantize: Quantization | undefined } | undefined;
  /** What the matrices of the next model are to be made into. */
  quantize: Quantization | undefined;
  dataset: DatasetReport | undefined;
  dataSource: DataSource | undefined;
  /** All on this model, by name. */
  adapters: readonly NamedAdapter[];
  /** The one of them that is in use. */
  adapter: NamedAdapter | undefined;
  /** Of the training under way, or of the last one. */
  lastRun: LastRun | undefined;
}

/** Settings, and the last of what was measured. */
export interface LastRun {
  training?: TrainOptions;
  loss?: number;
  evaluation?: Evaluation;
}

/** Errors after which only a new engine helps: what a GPU has failed at once, it is not asked again. */
const FATAL: readonly ErrorCode[] = ['no_webgpu', 'no_adapter', 'device_lost', 'out_of_memory', 'gpu', 'crashed'];

/** The page's state and its listeners. */
export class App {
  readonly #dataSettings: () => LoadDatasetOptions;
  #readWith: string | undefined;
  readonly adapters = new Adapters(this);
  readonly state: State = {
    engine: undefined,
    busy: undefined,
    trouble: undefined,
    loading: undefined,
    model: undefined,
    modelSource: undefined,
    quantize: undefined,
    dataset: undefined,
    dataSource: undefined,
    adapters: [],
    adapter: undefined,
    lastRun: undefined,
  };
  readonly #draw: ((state: State) => void)[] = [];

  /** `dataSettings` tells how examples are to be read, whenever they are. */
  constructor(dataSettings: () => LoadDatasetOptions) {
    this.#dataSettings = dataSettings;
  }

  /** Draws a section now and after every change. */
  onChange(draw: (state: State) => void): void {
    this.#draw.push(draw);
    draw(this.state);
  }

  update(change: Partial<State>): void {
    Object.assign(this.state, change);
    for (const draw of this.#draw) draw(this.state);
  }

  /** The engine, or the error that says why there is none. */
  get engine(): Engine {
    if (this.state.engine) return this.state.engine;
    throw this.state.trouble ?? new WebLoraError({ code: 'not_ready', message: 'The engine is still starting.' });
  }

  /** Loads a model in the place of the one before, and reads the examples again with its tokenizer. */
  async loadModel(source: ModelSource, quantize?: Quantization, signal?: AbortSignal): Promise<void> {
    this.adapters.forget();
    await this.#load(source, quantize, signal);
  }

  async #load(source: ModelSource, quantize?: Quantization, signal?: AbortSignal): Promise<void> {
    const onProgress = (loading: Progress) => this.update({ loading });
    const nothing = { model: undefined, modelSource: undefined, dataset: undefined, adapters: [], adapter: undefined };
    this.update({ ...nothing, loading: { phase: 'open', loaded: 0, total: 1 } });
    try {
      const options = { onProgress, ...(signal ? { signal } : {}), ...(quantize ? { quantize } : {}) };
      const model = await this.engine.loadModel(source, options);
      this.update({ model, modelSource: { source, quantize } });
    } finally {
      this.update({ loading: undefined });
    }
    await this.refreshExamples();
  }

  /** Reads examples into the engine. */
  async readExamples(source: DataSource): Promise<void> {
    const settings = this.#dataSettings();
    const { data, name, mapping } = source;
    const named = data instanceof Blob ? { name } : {};
    const options = { ...named, ...settings, ...(mapping ? { mapping } : {}) };
    const dataset = await this.engine.loadDataset(data, options);
    this.#readWith = JSON.stringify(settings);
    this.update({ dataset, dataSource: source });
  }

  /** Reads the examples there are again, where the model or a setting has changed since. */
  async refreshExamples(): Promise<void> {
    const { dataSource, dataset } = this.state;
    const fresh = dataset && this.#readWith === JSON.stringify(this.#dataSettings());
    if (dataSource && !fresh) await this.readExamples(dataSource);
  }

  /**
   * Runs a task while everything else waits. What fails is told to `fail`, which a cancelled task is not; where only
   * a new engine helps, the page is told as well.
   */
  async run(task: Task, work: () => Promise<void>, fail: (error: WebLoraError) => void): Promise<void> {
    if (this.state.busy) return;
    this.update({ busy: task });
    let error: WebLoraError | undefined;
    try {
      await work();
    } catch (thrown) {
      error = toError(thrown);
    }
    const fatal = error !== undefined && FATAL.includes(error.code);
    this.update(fatal ? { busy: undefined, trouble: error } : { busy: undefined });
    if (error && !fatal && error.code !== 'cancelled') fail(error);
  }

  /** Starts an engine, or starts again after a failure: with the model, examples and adapters that there were. */
  async start(): Promise<void> {
    const { engine: before, modelSource } = this.state;
    this.adapters.rescue();
    const restart = async () => {
      before?.dispose();
      const engine = await createEngine({ variant: forcedVariant() });
      this.update({ engine, trouble: undefined, model: undefined, dataset: undefined, adapters: [], adapter: undefined });
      if (!modelSource) return;
      await this.#load(modelSource.source, modelSource.quantize);
      await this.adapters.restore();
    };
    await this.run('engine', restart, (trouble) => this.update({ trouble }));
  }
}

/** `?variant=` of the page's address; the engine refuses what it does not know. */
function forcedVariant(): Variant | undefined {
  return (new URLSearchParams(location.search).get('variant') as Variant | null) ?? undefined;
}

/** Whatever was thrown, as an error with a message for people. */
export function toError(thrown: unknown): WebLoraError {
  if (thrown instanceof WebLoraError) return thrown;
  console.error(thrown);
  return new WebLoraError({ code: 'crashed', message: `The page made a mistake: ${String(thrown)}` });
}
