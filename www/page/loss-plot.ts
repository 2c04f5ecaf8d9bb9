/** The live plot of the loss: each step faintly, and a trailing mean that shows where it goes. */

import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { formatLoss } from './format.js';

const HEIGHT = 220;
/** The mean goes over this part of the training; where that is a step or less, it is the loss itself. */
const MEAN_SPAN = 1 / 15;

/** One plot in `box`, cleared for each training. */
export class LossPlot {
  readonly #box: HTMLElement;
  #plot: uPlot | undefined;
  #steps: number[] = [];
  #losses: number[] = [];
  #means: number[] = [];
  #total = 1;

  constructor(box: HTMLElement) {
    this.#box = box;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(box);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#build());
  }

  /** Begins a curve of `total` steps. */
  start(total: number): void {
    this.#steps = [];
    this.#losses = [];
    this.#means = [];
    this.#total = total;
    this.#build();
    this.#label();
  }

  /** Adds a step. */
  add(step: number, loss: number): void {
    this.#steps.push(step);
    this.#losses.push(loss);
    const span = this.#losses.slice(-Math.max(1, Math.round(this.#total * MEAN_SPAN)));
    this.#means.push(span.reduce((sum, value) => sum + value, 0) / span.length);
    this.#plot?.setData(this.#data());
    this.#label();
  }

  #label(): void {
    const [first] = this.#losses;
    const last = this.#losses.at(-1);
    const course =
      first === undefined || last === undefined
        ? 'no step yet'
        : `from ${formatLoss(first)} to ${formatLoss(last)} in ${this.#losses.length} of ${this.#total} steps`;
    this.#box.setAttribute('aria-label', `Loss at each step: ${course}`);
  }

  #data(): uPlot.AlignedData {
    return [this.#steps, this.#losses, this.#means];
  }

  #size(): { width: number; height: number } {
    return { width: this.#box.clientWidth, height: HEIGHT };
  }

  #build(): void {
    this.#plot?.destroy();
    const style = getComputedStyle(this.#box);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const font = `12px ${style.fontFamily}`;
    const axis: uPlot.Axis = {
      stroke: colour('--quiet'),
      font,
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    // Few steps are told apart, many are a line.
    const few = this.#total <= 20;
    this.#plot = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [12, 12, 0, 0],
        scales: {
          x: { time: false, range: () => [1, Math.max(this.#total, 2)] },
          y: { range: (_, min, max) => [Math.min(0, min), Math.max(max * 1.08, 0.1)] },
        },
        series: [
          {},
          { stroke: colour('--accent-faint'), width: 1.5, points: { show: false } },
          { stroke: colour('--accent'), width: 2.5, points: { show: few, size: 6, fill: colour('--accent') } },
        ],
        axes: [
          { ...axis, size: 28, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
          { ...axis, size: 44 },
        ],
      },
      this.#data(),
      this.#box,
    );
  }
}
