/** What a command says while it works: on stderr, so that stdout is for what was asked for. */

import type { Progress, TrainStep } from '../../types.js';

const PHASES: Record<Progress['phase'], string> = {
  wait: 'waiting for another download of this model',
  verify: 'checking what was downloaded before',
  download: 'downloading',
  open: 'reading the headers',
  weights: 'loading the weights',
  compile: 'compiling',
  evaluate: 'evaluating',
  write: 'writing the merged model',
  upload: 'uploading',
};
/** Where lines cannot be written over, one now and then is enough. */
const LINE_MS = 2000;

/** One line that is written over on a terminal, and lines now and then elsewhere. */
export class StatusLine {
  #last = -Infinity;
  #shown = false;

  constructor(readonly stream: NodeJS.WriteStream) {}

  progress = ({ phase, loaded, total, secondsLeft }: Progress): void => {
    const share = total > 0 ? ` ${Math.floor((100 * loaded) / total)} %` : '';
    this.#show(`${PHASES[phase]}${share}${left(secondsLeft)}`, loaded >= total);
  };

  step({ step, steps, loss, learningRate, tokensPerSecond, secondsLeft }: TrainStep): void {
    const speed = `${Math.round(tokensPerSecond)} tokens/s`;
    const rate = `lr ${learningRate.toExponential(1)}`;
    this.#show(`step ${step}/${steps}  loss ${loss.toFixed(4)}  ${rate}  ${speed}${left(secondsLeft)}`, step === steps);
  }

  /** A line that stays. */
  say(text: string): void {
    this.clear();
    this.stream.write(`${text}\n`);
  }

  clear(): void {
    if (this.#shown) this.stream.write('\r\x1b[K');
    this.#shown = false;
  }

  #show(text: string, last: boolean): void {
    if (this.stream.isTTY) {
      this.stream.write(`\r\x1b[K${text.slice(0, this.stream.columns - 1)}`);
      this.#shown = true;
      return;
    }
    const now = performance.now();
    if (!last && now - this.#last < LINE_MS) return;
    this.#last = now;
    this.stream.write(`${text}\n`);
  }
}

function left(seconds: number | undefined): string {
  if (seconds === undefined) return '';
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours > 0) return `  ${hours} h ${minutes} min left`;
  return minutes > 0 ? `  ${minutes} min ${whole % 60} s left` : `  ${whole} s left`;
}
