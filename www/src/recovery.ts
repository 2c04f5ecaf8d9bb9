/**
 * A training that outlives its GPU and its worker. What it takes lies in the tab's storage (runs/) and in the caller's
 * hands: the newest checkpoint of the run, and where the model came from.
 */

import { errorData, WebLoraError, type ErrorCode } from './errors.js';
import type { CommandArguments, CommandEvent } from './protocol.js';
import type { TrainResult } from './types.js';

/** Failures that a new worker may not meet again. */
const PASSING: readonly ErrorCode[] = ['device_lost', 'crashed'];
/** A worker that was ended may hold its run for a moment yet. */
const RELEASE_MS = 10_000;
const RETRY_MS = 100;

type OnEvent = (event: CommandEvent) => void;

/** Ways to go on. */
export interface Means {
  onEvent: OnEvent;
  signal: AbortSignal;
  /** Makes a new worker and loads the model into it. */
  revive(failure: WebLoraError): Promise<void>;
  /** Goes on with a run that is kept, beside the adapters that there were. */
  resume(run: CommandArguments<'resumeRun'>, onEvent: OnEvent): Promise<TrainResult>;
}

/**
 * Trains as `first` does and, where the run is kept, goes on from its newest checkpoint when the GPU is lost or the engine
 * dies: once, and again only after another checkpoint, as what fails at the same place twice would do so for ever.
 */
export async function outliving(
  first: (onEvent: OnEvent) => Promise<TrainResult>,
  { onEvent, signal, revive, resume }: Means,
): Promise<TrainResult> {
  let run: CommandArguments<'resumeRun'> | undefined;
  let saved = 0;
  let recoveredAt: number | undefined;
  const listen = (event: CommandEvent) => {
    if (event.type === 'run') run = { run: event.run, shelf: event.shelf };
    if (event.type === 'saved') saved = event.step;
    onEvent(event);
  };
  let attempt = first;
  for (;;) {
    try {
      return await attempt(listen);
    } catch (error) {
      const { code } = errorData(error);
      const again = recoveredAt !== undefined && saved <= recoveredAt;
      if (!(error instanceof WebLoraError) || !PASSING.includes(code) || run === undefined || again || signal.aborted) throw error;
      recoveredAt = saved;
      await revive(error).catch((then: unknown) => {
        // Who stopped it meanwhile is told what there was to stop for.
        throw signal.aborted ? error : then;
      });
      const kept = run;
      attempt = (onEvent) => released(() => resume(kept, onEvent), signal);
    }
  }
}

/** Tries again while whoever held the run before has not let it go. */
async function released<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
  const until = performance.now() + RELEASE_MS;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (errorData(error).code !== 'in_use' || signal.aborted || performance.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
