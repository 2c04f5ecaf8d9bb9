/**
 * The worker: one engine, and a queue of commands for it, run strictly one after another since the engine's methods
 * must not overlap. Aborts overtake the queue and reach a running command through its callbacks' `false`.
 */

import { WebLoraError, errorData, type ErrorData } from './errors.js';
import { stopped } from './http.js';
import type {
  Command,
  CommandEvent,
  CommandName,
  CommandResult,
  Commands,
  FromWorker,
  PostedSource,
  ToWorker,
} from './protocol.js';
import { openSource, type OpenOptions } from './sources.js';
import { StepTimer } from './step-timer.js';
import type { AdapterFiles, DeviceInfo, Profile, Progress, TrainOptions, TrainResult } from './types.js';
import { createWasmEngine, type ByteSource, type WasmEngine } from './wasm.js';

/** While training, the main thread gets a copy of the adapter after so many steps or so long, whichever is first. */
const ADAPTER_COPY_STEPS = 10;
const ADAPTER_COPY_MS = 30_000;

let engine: WasmEngine | undefined;
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
  switch (command.type) {
    case 'loadModel':
      return withFiles(command.source, { signal, onProgress }, (files) =>
        wasm.loadModel(files, command.options, onProgress),
      );
    case 'planMemory':
      return withFiles(command.source, { signal, onProgress, headersOnly: true }, (files) =>
        wasm.planMemory(files, command.options),
      );
    case 'loadDataset':
      return wasm.loadDataset(command.file, command.bytes, command.options);
    case 'clearDataset':
      wasm.clearDataset();
      return undefined;
    case 'newAdapter':
      return wasm.newAdapter(command.options);
    case 'loadAdapter':
      return wasm.loadAdapter(command.files.config, command.files.weights);
    case 'adapterInfo':
      return wasm.adapterInfo();
    case 'saveAdapter':
      return wasm.saveAdapter();
    case 'train':
      return train(wasm, id, command.options, signal, onProgress);
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

async function train(
  engine: WasmEngine,
  id: number,
  options: TrainOptions,
  signal: AbortSignal,
  onProgress: (progress: Progress) => boolean,
): Promise<TrainResult> {
  let steps = 0;
  let done = false;
  try {
    emit(id, { type: 'plan', plan: await engine.startTraining(options, onProgress) });
    const timer = new StepTimer(performance.now());
    let copied = performance.now();
    while (!done && !signal.aborted) {
      const { report, ...state } = await engine.trainStep();
      done = state.done;
      if (report) {
        steps = report.step;
        emit(id, { type: 'step', step: { ...report, ...timer.lap(performance.now(), report) } });
        if (!done && (steps % ADAPTER_COPY_STEPS === 0 || performance.now() - copied > ADAPTER_COPY_MS)) {
          await copyAdapter(engine, id);
          copied = performance.now();
        }
      }
      // Lets an abort in: without a turn of the event loop its message would wait behind the next step.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  } catch (error) {
    const { code } = errorData(error);
    // A crashed instance must not be called again.
    if (code === 'crashed') throw error;
    engine.endTraining();
    if (code === 'cancelled') return { steps, stopped: 'cancelled' };
    throw error;
  }
  engine.endTraining();
  await copyAdapter(engine, id);
  return { steps, stopped: done ? 'end' : 'cancelled' };
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

async function copyAdapter(engine: WasmEngine, id: number): Promise<void> {
  const files = await engine.saveAdapter();
  emit(id, { type: 'adapter', files }, transfers(files));
}

/** Buffers to move rather than copy: those of an adapter. */
function transfers(result: CommandResult<CommandName> | AdapterFiles): Transferable[] {
  if (typeof result !== 'object' || !('config' in result)) return [];
  return [result.config.buffer, result.weights.buffer];
}
