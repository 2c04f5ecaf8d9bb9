/**
 * The worker: one engine, and a queue of commands for it, run strictly one after another since the engine's methods
 * must not overlap. Aborts overtake the queue and reach a running command through its callbacks' `false`.
 */

import { readable } from './data-files.js';
import { WebLoraError, errorData, type ErrorData } from './errors.js';
import { stopped } from './http.js';
import {
  ENDS_WHEN_STOPPED,
  type Command,
  type CommandEvent,
  type CommandName,
  type CommandResult,
  type Commands,
  type FromWorker,
  type ToWorker,
} from './protocol.js';
import { Session } from './session.js';
import { fileSource, withFiles } from './sources.js';
import type { Listener } from './training.js';
import type { AdapterFiles, DeviceInfo, Profile, Progress, TrainOptions } from './types.js';
import { createWasmEngine, mortal, type WasmEngine, type WasmMerged } from './wasm.js';

/** Once it has been created. */
let engine: { wasm: WasmEngine; session: Session } | undefined;
/** Merged models that are being read. */
const merges = new Map<number, WasmMerged>();
let nextMerged = 1;
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
  if (data.kind === 'save') {
    engine?.session.saveSoon();
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
  const { wasm, session } = engine;
  const onProgress = (progress: Progress) => {
    emit(id, { type: 'progress', progress });
    return !signal.aborted;
  };
  const listener: Listener = { emit: (event, transfer) => emit(id, event, transfer), onProgress, signal };
  switch (command.type) {
    case 'loadModel':
      return session.loadModel(command.source, command.options, listener);
    case 'planMemory':
      return withFiles(session.known(command.source), { signal, onProgress, headersOnly: true }, (files) =>
        wasm.planMemory(files, command.options),
      );
    case 'loadDataset':
      return session.loadDataset(command.files, command.evalFiles, command.options);
    case 'inspectData': {
      const [file = command.file] = await readable([command.file]);
      return wasm.inspectData(file);
    }
    case 'clearDataset':
      session.clearDataset();
      return undefined;
    case 'newAdapter':
      return session.newAdapter(command.options);
    case 'loadAdapter':
      return session.loadAdapter(command.files);
    case 'readAdapterGguf':
      return wasm.readAdapterGguf(fileSource(command.file, 'adapter.gguf'));
    case 'adapterInfo':
      return wasm.adapterInfo();
    case 'saveAdapter':
      return wasm.saveAdapter();
    case 'exportAdapter':
      return wasm.exportAdapter(command.format);
    case 'openMerged': {
      const merged = await wasm.merge(command.options);
      const id = nextMerged++;
      merges.set(id, merged);
      return { id, ...merged.report() };
    }
    case 'readMerged': {
      const merged = merges.get(command.merged);
      if (!merged) throw new WebLoraError({ code: 'not_ready', message: 'This merged model has been closed.' });
      return merged.read(command.file, command.offset, command.length);
    }
    case 'closeMerged':
      merges.get(command.merged)?.free();
      merges.delete(command.merged);
      return undefined;
    case 'addAdapter':
      return wasm.addAdapter(command.name, command.from);
    case 'useAdapter':
      return session.useAdapter(command.name);
    case 'listAdapters':
      return wasm.listAdapters();
    case 'removeAdapter':
      return session.removeAdapter(command.name);
    case 'inspectAdapter':
      return wasm.inspectAdapter(command.from);
    case 'compressAdapter':
      return wasm.compressAdapter(command.options, command.from);
    case 'combineAdapters':
      return wasm.combineAdapters(command.parts, command.options);
    case 'train':
      return session.train(command, listener);
    case 'resumeRun':
      return session.resumeRun(command, listener);
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
    case 'logits':
      return wasm.logits(command.options);
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
  const adapter = await adapterName(options.patience);
  const known = options.products?.device.startsWith(`${adapter} `) ? options.products : undefined;
  const products = known && { ...known, device: known.device.slice(adapter.length + 1) };
  const wasm = mortal(await createWasmEngine({ ...options, products }), death);
  engine = { wasm, session: new Session(wasm) };
  const device = wasm.device();
  const chosen = wasm.products();
  return {
    ...device,
    name: device.name || adapter,
    products: { ...chosen, device: `${adapter} ${chosen.device}` },
  };
}

/**
 * What the browser tells of its adapter where it withholds the description that the engine goes by. One that says nothing
 * at all is the engine's to give up on.
 */
async function adapterName(patience = 180): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), 1000 * patience)));
  const asked = navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  const adapter = await Promise.race([asked, silence]);
  clearTimeout(timer);
  const { vendor = '', architecture = '' } = adapter?.info ?? {};
  return [vendor, architecture].filter(Boolean).join(' ') || 'GPU';
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

/** Buffers to move rather than copy: those of an adapter, of a run, of logits or of files written. */
function transfers(result: CommandResult<CommandName> | AdapterFiles): Transferable[] {
  if (result instanceof Uint8Array || result instanceof Float32Array) return [result.buffer];
  if (Array.isArray(result)) return result.flatMap((entry) => ('bytes' in entry ? [entry.bytes.buffer] : []));
  if (typeof result !== 'object' || !('config' in result)) return [];
  return [result.config.buffer, result.weights.buffer];
}
