/** The course of a training: loss and evaluations, learning rate, gradient norm, and what there is to know just now. */

import type { EvalStep, Rewards, TrainPlan, TrainStep } from 'web-lora';
import { byId, showFacts } from './dom.js';
import { formatBytes, formatDuration, formatLoss, formatSpeed } from './format.js';
import { drawMemory } from './memory-picture.js';
import { Plot } from './plot.js';

/** The mean goes over this part of the training; where that is a step or less, it is the loss itself. */
const MEAN_SPAN = 1 / 15;
const SMALL = 120;

/** Cleared for each training. */
export class TrainCharts {
  readonly #loss = new Plot(byId('loss-plot'), {
    name: 'Loss',
    height: 220,
    format: short,
    curves: [
      { colour: '--accent-faint', width: 1.5, points: false },
      { colour: '--accent', width: 2.5 },
      { colour: '--second', width: 2, points: true },
    ],
  });
  readonly #rate = new Plot(byId('rate-plot'), { name: 'Learning rate', height: SMALL, format: short, curves: [{ colour: '--accent', width: 2 }] });
  readonly #norm = new Plot(byId('norm-plot'), { name: 'Gradient norm', height: SMALL, format: short, curves: [{ colour: '--accent', width: 2 }] });
  readonly #rewards = new Plot(byId('rewards-plot'), {
    name: 'Rewards',
    height: SMALL,
    format: short,
    curves: [
      { colour: '--accent', width: 2 },
      { colour: '--second', width: 2 },
    ],
  });
  readonly #accuracy = new Plot(byId('accuracy-plot'), { name: 'Share of pairs told apart', height: SMALL, format: percent, curves: [{ colour: '--accent', width: 2 }] });
  #losses: number[] = [];
  #span = 1;
  #tiles: Record<string, string> = {};

  start({ steps, memory }: TrainPlan): void {
    this.#losses = [];
    this.#span = Math.max(1, Math.round(steps * MEAN_SPAN));
    for (const plot of [this.#loss, this.#rate, this.#norm, this.#rewards, this.#accuracy]) plot.start(steps);
    for (const chart of ['rewards-chart', 'accuracy-chart']) byId(chart).hidden = true;
    byId('loss-course').textContent = '';
    byId('loss-held-out').hidden = true;
    this.#tiles = {};
    this.#tell({ Memory: formatBytes(memory.total) });
    drawMemory(byId('memory-picture'), memory);
  }

  add({ step, steps, loss, learningRate, gradNorm, skipped, rewards, tokensPerSecond, secondsLeft }: TrainStep): void {
    this.#losses.push(loss);
    const span = this.#losses.slice(-this.#span);
    this.#loss.add(step, [loss, span.reduce((sum, value) => sum + value, 0) / span.length, null]);
    this.#rate.add(step, [learningRate]);
    this.#norm.add(step, [skipped ? null : gradNorm]);
    const course = this.#loss.course();
    if (course) byId('loss-course').textContent = `${formatLoss(course[0])} → ${formatLoss(course[1])}`;
    if (rewards) this.#addRewards(step, rewards);
    this.#tell({
      Speed: `${formatSpeed(tokensPerSecond)} tokens/s`,
      'Time left': step === steps ? 'none' : secondsLeft === undefined ? '…' : formatDuration(secondsLeft),
    });
  }

  /** Marks an evaluation in the plot of the loss. One before the first step stands at it. */
  evaluate({ step, loss, perplexity, rewards }: EvalStep): void {
    this.#loss.add(Math.max(1, step), [null, null, loss]);
    byId('loss-held-out').hidden = false;
    this.#tell(
      rewards
        ? { 'Loss on held-out pairs': formatLoss(loss), 'Prefers what was chosen, held out': `${percent(rewards.accuracy)} of pairs` }
        : { 'Loss on held-out examples': formatLoss(loss), Perplexity: perplexity.toFixed(2) },
    );
  }

  /** Of examples that are pairs. */
  #addRewards(step: number, { chosen, rejected, accuracy, margin }: Rewards): void {
    for (const chart of ['rewards-chart', 'accuracy-chart']) byId(chart).hidden = false;
    this.#rewards.add(step, [chosen, rejected]);
    this.#accuracy.add(step, [accuracy]);
    byId('accuracy-now').textContent = percent(accuracy);
    this.#tell({ 'Prefers what was chosen': `${percent(accuracy)} of pairs`, 'Reward margin': formatLoss(margin) });
  }

  #tell(facts: Record<string, string>): void {
    this.#tiles = { ...this.#tiles, ...facts };
    showFacts(byId('train-tiles'), this.#tiles);
  }
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** A tick of an axis. */
function short(value: number): string {
  if (value === 0) return '0';
  return Math.abs(value) < 0.01 ? value.toExponential(1).replace('.0', '') : String(Number(value.toPrecision(3)));
}
