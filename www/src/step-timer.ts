/** Speed and time left, from the steps seen so far. */

/** Steps that an estimate looks back over: enough to smooth, few enough to follow a change. */
const WINDOW = 8;

interface Lap {
  ms: number;
  tokens: number;
}

/** A stopwatch for one training run. */
export class StepTimer {
  #last: number;
  #laps: Lap[] = [];
  #warm = false;

  /** `now` is when the first step starts, in milliseconds. */
  constructor(now: number) {
    this.#last = now;
  }

  /** A step has ended. The first one also warms the GPU up, so it counts only until there is another. */
  lap(now: number, step: { step: number; steps: number; tokens: number }) {
    if (this.#laps.length === 1 && !this.#warm) {
      this.#laps = [];
      this.#warm = true;
    }
    this.#laps.push({ ms: now - this.#last, tokens: step.tokens });
    if (this.#laps.length > WINDOW) this.#laps.shift();
    this.#last = now;
    const ms = this.#laps.reduce((sum, lap) => sum + lap.ms, 0);
    const tokens = this.#laps.reduce((sum, lap) => sum + lap.tokens, 0);
    return {
      tokensPerSecond: ms > 0 ? (tokens * 1000) / ms : 0,
      secondsLeft: ((step.steps - step.step) * ms) / this.#laps.length / 1000,
    };
  }
}
