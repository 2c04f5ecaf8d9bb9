/** One live plot over the steps of a training. */

import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

/** One curve, in a colour of the page's style. */
export interface Curve {
  colour: string;
  width: number;
  /** Marks each value, for curves that have few. */
  points?: boolean;
}

export interface PlotOptions {
  name: string;
  height: number;
  curves: readonly Curve[];
  format: (value: number) => string;
}

/** Values at some steps; `null` where a curve has none. */
export class Plot {
  readonly #box: HTMLElement;
  readonly #options: PlotOptions;
  #plot: uPlot | undefined;
  #steps: number[] = [];
  #values: (number | null)[][] = [];
  #total = 1;

  constructor(box: HTMLElement, options: PlotOptions) {
    this.#box = box;
    this.#options = options;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(box);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#plot && this.#build());
  }

  /** Begins curves of `total` steps. */
  start(total: number): void {
    this.#steps = [];
    this.#values = this.#options.curves.map(() => []);
    this.#total = total;
    this.#build();
    this.#label();
  }

  /** Adds the values of a step, or completes those it has. */
  add(step: number, values: readonly (number | null)[]): void {
    const known = this.#steps.lastIndexOf(step);
    const at = known >= 0 ? known : this.#steps.push(step) - 1;
    for (const [curve, value] of values.entries()) {
      const row = this.#values[curve];
      if (row) row[at] = value ?? row[at] ?? null;
    }
    this.#plot?.setData(this.#data());
    this.#label();
  }

  /** The first and the last value of a curve. */
  course(curve = 0): [first: number, last: number] | undefined {
    const values = (this.#values[curve] ?? []).filter((value) => value !== null);
    const [first, last] = [values[0], values.at(-1)];
    return first === undefined || last === undefined ? undefined : [first, last];
  }

  #label(): void {
    const { name, format } = this.#options;
    const course = this.course();
    const words = course ? `from ${format(course[0])} to ${format(course[1])} in ${this.#steps.length} of ${this.#total} steps` : 'no step yet';
    this.#box.setAttribute('aria-label', `${name} at each step: ${words}`);
  }

  #data(): uPlot.AlignedData {
    return [this.#steps, ...this.#values];
  }

  #size(): { width: number; height: number } {
    return { width: this.#box.clientWidth, height: this.#options.height };
  }

  #build(): void {
    this.#plot?.destroy();
    const style = getComputedStyle(this.#box);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const { curves, format, height } = this.#options;
    const axis: uPlot.Axis = {
      stroke: colour('--quiet'),
      font: `12px ${style.fontFamily}`,
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    // Few steps are told apart, many are a line.
    const few = this.#total <= 20;
    const series = curves.map(({ colour: name, width, points }): uPlot.Series => {
      const stroke = colour(name);
      return { stroke, width, spanGaps: true, points: { show: points ?? few, size: 6, fill: stroke } };
    });
    this.#plot = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [12, 12, 0, 0],
        scales: {
          x: { time: false, range: () => [1, Math.max(this.#total, 2)] },
          y: { range: (_, min, max) => [Math.min(0, min), max > 0 ? max * 1.08 : 0.1] },
        },
        series: [{}, ...series],
        axes: [
          { ...axis, size: 28, grid: { show: false }, space: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
          { ...axis, size: 52, space: height / 6, values: (_, values) => values.map(format) },
        ],
      },
      this.#data(),
      this.#box,
    );
  }
}
