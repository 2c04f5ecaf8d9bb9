/**
 * The worker: one engine, and a queue of commands for it, run strictly one after another since the engine's methods
 * must not overlap. Aborts overtake the queue and reach a running command through its callbacks' `false`.
 */

import { readable, type DataFile } from './data-files.js';
import { WebLoraError, errorData, type ErrorData } from './errors.js';
import { stopped } from './http.js';
import type {
  Command,
  CommandArguments,
  CommandEvent,
  CommandName,
  CommandResult,
  Commands,
  FromWorker,
  LoadSettings,
  PostedSource,
  ToWorker,
} from './protocol.js';
import { openSource, type OpenOptions } from './sources.js';
import { RunWriter } from './runs/writer.js';
import { createRun, train, type Inputs, type Listener } from './training.js';
import type {
  AdapterFiles,
  DataSettings,
  DatasetReport,
  DeviceInfo,
  HubSource,
  ModelInfo,
  Profile,
  Progress,
  RunConfig,
  TrainOptions,
  TrainResult,
} from './types.js';
import { createWasmEngine, type ByteSource, type WasmEngine } from './wasm.js';

/** Commands for which to be stopped is an end like any other. */
const ENDS_WHEN_STOPPED: readonly CommandName[] = ['train', 'resumeRun', 'generate'];

let engine: WasmEngine | undefined;
/** What the engine was given last. */
let inputs: Inputs = {};
let crash: ErrorData | undefined;
let crashed: (error: ErrorData) => void;
/** Rejects when the engine dies: a panic inside a wasm future never settles the promise that waits for it. */
const death = new Promise<never>((_, reject) => (crashed = reject));
death.catch(() => undefined);
let queue: Promise<void> = Promise.resolve();
const aborts = new Map<number, AbortController>();

self.addEventListener('message', ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === 'abort') {
    aborts.get(data.id)?.abort();
    return;
  }
  const { id, command } = data;
  const abort = new AbortController();
  aborts.set(id, abort);
  queue = queue.then(async () => {
    try {
      if (crash) throw new WebLoraError(crash);
      if (abort.signal.aborted && !ENDS_WHEN_STOPPED.includes(command.type)) throw stopped();
      const result = await Promise.race([run(id, command, abort.signal), death]);
      post({ kind: 'result', id, result }, transfers(result));
    } catch (error) {
      const data = errorData(error);
      if (data.code === 'crashed') die(error);
      post({ kind: 'error', id, error: data });
    } finally {
      aborts.delete(id);
    }
  });
});
self.addEventListener('error', (event) => die(event.error ?? event.message));
self.addEventListener('unhandledrejection', (event) => die(event.reason));

function die(cause: unknown): void {
  if (crash) return;
  crash = { ...errorData(cause), code: 'crashed' };
  crashed(crash);
  post({ kind: 'crashed', error: crash });
}

function post(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

function emit(id: number, event: CommandEvent, transfer: Transferable[] = []): void {
  post({ kind: 'event', id, event }, transfer);
}

async function run(id: number, command: Command, signal: AbortSignal): Promise<CommandResult<CommandName>> {
  if (command.type === 'create') return create(command.options);
  if (!engine) throw new WebLoraError({ code: 'not_ready', message: 'The engine has not been created.' });
  const wasm = engine;
  const onProgress = (progress: Progress) => {
    emit(id, { type: 'progress', progress });
    return !signal.aborted;
  };
  const listener: Listener = { emit: (event, transfer) => emit(id, event, transfer), onProgress, signal };
  switch (command.type) {
    case 'loadModel':
      return loadModel(wasm, command.source, command.options, signal, onProgress);
    case 'planMemory':
      return withFiles(command.source, { signal, onProgress, headersOnly: true }, (files) =>
        wasm.planMemory(files, command.options),
      );
    case 'loadDataset':
      return readDataset(wasm, command.files, command.evalFiles, command.options);
    case 'inspectData': {
      const [file = command.file] = await readable([command.file]);
      return wasm.inspectData(file);
    }
    case 'clearDataset':
      delete inputs.data;
      wasm.clearDataset();
      return undefined;
    case 'newAdapter':
      inputs.adapter = command.options;
      return wasm.newAdapter(command.options);
    case 'loadAdapter':
      inputs.adapter = undefined;
      return wasm.loadAdapter(command.files.config, command.files.weights);
    case 'adapterInfo':
      return wasm.adapterInfo();
    case 'saveAdapter':
      return wasm.saveAdapter();
    case 'exportAdapter':
      return wasm.exportAdapter(command.format);
    case 'addAdapter':
      return wasm.addAdapter(command.name, command.from);
    case 'useAdapter':
      return wasm.useAdapter(command.name);
    case 'listAdapters':
      return wasm.listAdapters();
    case 'removeAdapter':
      return wasm.removeAdapter(command.name);
    case 'inspectAdapter':
      return wasm.inspectAdapter(command.from);
    case 'compressAdapter':
      return wasm.compressAdapter(command.options, command.from);
    case 'combineAdapters':
      return wasm.combineAdapters(command.parts, command.options);
    case 'train':
      return startRun(wasm, command, listener);
    case 'resumeRun':
      return resumeRun(wasm, command.run, listener);
    case 'startTraining':
      return wasm.startTraining(command.options, onProgress);
    case 'forwardBackward':
      return wasm.forwardBackward(Uint32Array.from(command.examples), command.weight);
    case 'optimStep':
      return wasm.optimStep(command.options);
    case 'saveState':
      return wasm.saveState();
    case 'loadState':
      await wasm.loadState(command.state);
      return undefined;
    case 'endTraining':
      wasm.endTraining();
      return undefined;
    case 'evaluate':
      return wasm.evaluate(command.options, onProgress);
    case 'profile':
      return profile(wasm, command.options, onProgress);
    case 'generate':
      return wasm.generate(command.options, (text) => {
        emit(id, { type: 'token', text });
        return !signal.aborted;
      });
    default:
      return command satisfies never;
  }
}

async function create(options: Commands['create']['options']): Promise<DeviceInfo> {
  if (!navigator.gpu) {
    const message = self.isSecureContext
      ? 'This browser has no WebGPU.'
      : 'WebGPU needs a page from https or localhost.';
    throw new WebLoraError({ code: 'no_webgpu', message });
  }
  // A browser that withholds the description makes all adapters look alike to the engine.
  const adapter = await adapterName();
  const known = options.products?.device.startsWith(`${adapter} `) ? options.products : undefined;
  const products = known && { ...known, device: known.device.slice(adapter.length + 1) };
  engine = await createWasmEngine({ ...options, products });
  const device = engine.device();
  const chosen = engine.products();
  return {
    ...device,
    name: device.name || adapter,
    products: { ...chosen, device: `${adapter} ${chosen.device}` },
  };
}

/** What the browser tells of its adapter where it withholds the description that the engine goes by. */
async function adapterName(): Promise<string> {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  const { vendor = '', architecture = '' } = adapter?.info ?? {};
  return [vendor, architecture].filter(Boolean).join(' ') || 'GPU';
}

/** Hands on the files of a source. What is thrown is what a read failed with, where one did. */
async function withFiles<Result>(
  source: PostedSource,
  options: OpenOptions,
  use: (files: readonly ByteSource[]) => Promise<Result>,
): Promise<Result> {
  const failures: unknown[] = [];
  try {
    return await use(watched(await openSource(source, options), failures));
  } catch (error) {
    if (options.signal.aborted) throw stopped();
    throw failures[0] ?? error;
  }
}

/** The same sources; what fails in a read is kept, as the engine can only say that a read failed. */
function watched(files: readonly ByteSource[], failures: unknown[]): ByteSource[] {
  return files.map((file) => ({
    name: file.name,
    size: file.size,
    async read(offset, length) {
      try {
        return await file.read(offset, length);
      } catch (error) {
        failures.push(error);
        throw errorData(error);
      }
    },
  }));
}

/** Trains, as a run that is kept where it has a name. */
async function startRun(
  wasm: WasmEngine,
  { options, run, resume }: CommandArguments<'train'>,
  listener: Listener,
): Promise<TrainResult> {
  const writer = run === undefined ? undefined : await createRun(run, inputs, options);
  if (writer) {
    // An adapter that was there before is where the run starts from.
    if (!inputs.adapter && wasm.adapterInfo()) await writer.startFrom(await wasm.saveAdapter());
    listener.emit({ type: 'run', run: writer.info.id });
  }
  try {
    return await train(wasm, options, listener, { state: resume, writer }, inputs.hasChatTemplate ?? false);
  } finally {
    writer?.close();
  }
}

/** Keeps in mind what a run is made of, and loads the model. */
async function loadModel(
  wasm: WasmEngine,
  source: PostedSource,
  options: LoadSettings,
  signal: AbortSignal,
  onProgress: (progress: Progress) => boolean,
): Promise<ModelInfo> {
  inputs = {};
  const info = await withFiles(source, { signal, onProgress }, (files) => wasm.loadModel(files, options, onProgress));
  const { name, modelType, parameters, dtype, hasChatTemplate } = info;
  const model = { name, modelType, parameters, dtype, options };
  inputs = { model: 'files' in source ? model : { ...model, source: kept(source) }, hasChatTemplate };
  return info;
}

/** A source as it may be written down: without the token. */
function kept(source: Exclude<PostedSource, { files: File[] }>): string | HubSource {
  if ('url' in source) return source.url;
  const { token: _, ...hub } = source.hub;
  return hub;
}

/** Goes on with a run that is kept: with its model, which is loaded unless it is there, its examples and its adapter. */
async function resumeRun(wasm: WasmEngine, id: string, listener: Listener): Promise<TrainResult> {
  const { writer, state, data } = await RunWriter.open(id);
  try {
    const { config } = writer.info;
    if (writer.info.status === 'done') throw new WebLoraError({ code: 'not_ready', message: 'This run is done.' });
    await ensureModel(wasm, config.model, listener);
    const trained = data.length - (config.data.evalFiles ?? 0);
    await readDataset(wasm, data.slice(0, trained), data.slice(trained), config.data.options);
    inputs.adapter = config.adapter;
    // What the factors are comes with the state; here it matters which there are.
    const adapter = await writer.startingAdapter();
    if (adapter) wasm.loadAdapter(adapter.config, adapter.weights);
    else await wasm.newAdapter(config.adapter ?? {});
    listener.emit({ type: 'run', run: id });
    return await train(wasm, config.training, listener, { state, writer }, inputs.hasChatTemplate ?? false);
  } finally {
    writer.close();
  }
}

async function ensureModel(wasm: WasmEngine, wanted: RunConfig['model'], listener: Listener): Promise<void> {
  const alike = (model: RunConfig['model'] | undefined) =>
    model && (['name', 'modelType', 'parameters', 'dtype'] as const).every((key) => model[key] === wanted[key]);
  if (alike(inputs.model)) return;
  const { source, options } = wanted;
  if (!source) {
    const message = `This run is of ${wanted.name}, from files of this device: choose them again, then go on.`;
    throw new WebLoraError({ code: 'not_ready', message });
  }
  const posted = typeof source === 'string' ? { url: source } : { hub: source };
  await loadModel(wasm, posted, options, listener.signal, listener.onProgress);
  if (alike(inputs.model)) return;
  const message = `${wanted.name} is no longer the model that the run was of.`;
  throw new WebLoraError({ code: 'bad_file', file: wanted.name, message });
}

async function readDataset(
  wasm: WasmEngine,
  files: readonly DataFile[],
  evalFiles: readonly DataFile[],
  options: DataSettings,
): Promise<DatasetReport> {
  const { format } = options;
  const report = wasm.loadDataset(await readable(files, format), await readable(evalFiles, format), options);
  inputs.data = { files, evalFiles, options };
  return report;
}

async function profile(
  engine: WasmEngine,
  options: TrainOptions,
  onProgress: (progress: Progress) => boolean,
): Promise<Profile> {
  await engine.startTraining(options, onProgress);
  const profile = await engine.profile();
  engine.endTraining();
  return profile;
}

/** Buffers to move rather than copy: those of an adapter, of a run or of exported files. */
function transfers(result: CommandResult<CommandName> | AdapterFiles): Transferable[] {
  if (result instanceof Uint8Array) return [result.buffer];
  if (Array.isArray(result)) return result.flatMap((entry) => ('bytes' in entry ? [entry.bytes.buffer] : []));
  if (typeof result !== 'object' || !('config' in result)) return [];
  return [result.config.buffer, result.weights.buffer];
}
