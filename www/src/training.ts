/** The worker's half of training: the loop round the engine's steps, and what is kept of it on the way. */

import { errorData, WebLoraError } from './errors.js';
import type { CommandEvent } from './protocol.js';
import type { RunWriter } from './runs/writer.js';
import { StepTimer } from './step-timer.js';
import type { AdapterFiles, Progress, TrainOptions, TrainResult } from './types.js';
import type { WasmEngine } from './wasm.js';

/** While training, the main thread gets a copy of the adapter after so many steps or so long, whichever is first. */
const ADAPTER_COPY_STEPS = 10;
const ADAPTER_COPY_MS = 30_000;
/** A run that is kept loses at most so much, unless it says otherwise. */
const SAVE_MS = 20_000;
/** Most tokens of a sample. */
const SAMPLE_TOKENS = 48;

/** How a training speaks to the one who asked for it, and is stopped. */
export interface Listener {
  emit: (event: CommandEvent, transfer?: Transferable[]) => void;
  onProgress: (progress: Progress) => boolean;
  signal: AbortSignal;
}

/** Where a training goes on from, and where it is kept. */
export interface Kept {
  state?: Uint8Array<ArrayBuffer> | undefined;
  writer?: RunWriter | undefined;
  /** Set to save after this step, whether it is time or not. */
  asked: { save: boolean };
}

/** Trains to the end or until the signal. */
export async function train(
  engine: WasmEngine,
  options: TrainOptions,
  listener: Listener,
  { state, writer, asked }: Kept,
  hasChatTemplate: boolean,
): Promise<TrainResult> {
  const { samplePrompts = [], sampleSteps, saveSteps, ...settings } = options;
  const { emit, onProgress, signal } = listener;
  const result: TrainResult = { steps: 0, stopped: 'cancelled' };
  let ended = false;
  try {
    if (writer && !state) await writer.begin().catch((error: unknown) => unsaved(error, emit));
    const plan = await engine.startTraining(settings, onProgress);
    if (state) await engine.loadState(state);
    emit({ type: 'plan', plan });
    const copies = new Timer(ADAPTER_COPY_MS, ADAPTER_COPY_STEPS);
    const saves = new Timer(saveSteps ? Infinity : SAVE_MS, saveSteps ?? Infinity);
    const samplesEvery = sampleSteps ?? Math.max(1, Math.ceil(plan.steps / 10));
    const timer = new StepTimer(performance.now());
    // A run that dies before its first checkpoint can go on from here.
    if (writer && !state) await save(engine, writer, 0, emit);
    while (!ended && !signal.aborted) {
      const { done, stoppedEarly, report, evaluation } = await engine.trainStep();
      ended = done;
      if (done) result.stopped = stoppedEarly ? 'early' : 'end';
      if (report) {
        const step = { ...report, ...timer.lap(performance.now(), report) };
        result.steps = step.step;
        writer?.note({ type: 'step', ...step });
        emit({ type: 'step', step });
        if (step.step % samplesEvery === 0 || step.step === plan.steps) {
          for (const prompt of samplePrompts) await sample(engine, prompt, step.step, hasChatTemplate, listener, writer);
        }
      }
      if (evaluation) {
        if (evaluation.best) result.best = evaluation;
        writer?.note({ type: 'evaluation', ...evaluation });
        emit({ type: 'evaluation', evaluation });
      }
      if (report && !done && copies.isDue(report.step)) await copyAdapter(engine, emit);
      if (report && !done && writer && (saves.isDue(report.step) || asked.save)) {
        asked.save = false;
        await save(engine, writer, report.step, emit);
      }
      // Lets an abort in: without a turn of the event loop its message would wait behind the next step.
      await turn();
    }
    // What was stopped on purpose goes on where it was.
    if (writer && !ended) await save(engine, writer, result.steps, emit);
  } catch (error) {
    const { code } = errorData(error);
    if (code !== 'cancelled') {
      // Steps that were not finite were not taken: what there was before them is good.
      const files = code === 'diverged' ? await copyAdapter(engine, emit).catch(() => undefined) : undefined;
      await writer?.end('failed', files).catch(() => undefined);
      // A crashed instance must not be called again.
      if (code !== 'crashed') engine.endTraining();
      throw error;
    }
  }
  engine.endTraining();
  const files = await copyAdapter(engine, emit);
  await writer?.end(ended ? 'done' : 'stopped', files).catch((error: unknown) => unsaved(error, emit));
  return result;
}

/** A turn of the event loop. Not a timer's, which a browser may hold back in a tab that nobody sees. */
async function turn(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(undefined);
  });
  port1.close();
}

/** Whether it is time again, by steps or by the clock. */
class Timer {
  #last = performance.now();

  constructor(
    readonly ms: number,
    readonly steps: number,
  ) {}

  isDue(step: number): boolean {
    const due = step % this.steps === 0 || performance.now() - this.#last > this.ms;
    if (due) this.#last = performance.now();
    return due;
  }
}

type Emit = Listener['emit'];

/** Writes a checkpoint. Storage that is full or gone is no reason to give up what is being learned. */
async function save(engine: WasmEngine, writer: RunWriter, step: number, emit: Emit): Promise<void> {
  const state = await engine.saveState();
  try {
    await writer.save(state);
    emit({ type: 'saved', step });
  } catch (error) {
    unsaved(error, emit);
  }
}

/** What a browser's storage throws, in words. */
const WHY_UNSAVED: Record<string, string> = {
  QuotaExceededError: 'the browser’s storage for this page is full',
  NotFoundError: 'it was taken out of the browser’s storage',
};

function unsaved(error: unknown, emit: Emit): void {
  const { name, message: said } = error instanceof Error ? error : new Error(String(error));
  const neededBytes = error instanceof WebLoraError ? error.neededBytes : undefined;
  const why = WHY_UNSAVED[name] ?? said.replace(/\.$/, '');
  const message = `The run is not being saved: ${why}. Training goes on; download what it learns, or delete runs or models that you do not need.`;
  emit({ type: 'unsaved', error: { code: 'no_space', message, ...(neededBytes === undefined ? {} : { neededBytes }) } });
}

async function sample(
  engine: WasmEngine,
  prompt: string,
  step: number,
  hasChatTemplate: boolean,
  { emit, signal }: Listener,
  writer: RunWriter | undefined,
): Promise<void> {
  if (signal.aborted) return;
  const asked = hasChatTemplate ? { messages: [{ role: 'user', content: prompt }] } : { prompt };
  const { text } = await engine.generate({ ...asked, maxNewTokens: SAMPLE_TOKENS }, () => !signal.aborted);
  writer?.note({ type: 'sample', step, prompt, text });
  emit({ type: 'sample', sample: { step, prompt, text } });
}

/** Hands a copy of the adapter to the main thread, and returns one. */
async function copyAdapter(engine: WasmEngine, emit: Emit): Promise<AdapterFiles> {
  const files = await engine.saveAdapter();
  const { config, weights } = files;
  const copy = { config: config.slice(), weights: weights.slice() };
  emit({ type: 'adapter', files: copy }, [copy.config.buffer, copy.weights.buffer]);
  return files;
}
