/** The losses of runs over one another. */

import { runs, type RunInfo } from 'web-lora';
import { byId, element } from './dom.js';
import { Plot } from './plot.js';

/** Curves are told apart by colour, and by their order in the legend. */
const COLOURS = ['--accent', '--second', '--third', '--quiet'];
/** Of the losses of single steps only their course matters here. */
const MEAN_OVER = 8;

/** Draws those given, the first four; hides the plot where there are none. */
export async function compareRuns(chosen: readonly RunInfo[]): Promise<void> {
  const figure = byId('runs-compare');
  figure.hidden = chosen.length === 0;
  const shown = chosen.slice(0, COLOURS.length);
  if (shown.length === 0) return;
  const metrics = await Promise.all(shown.map(({ id }) => runs.metrics(id)));
  const box = byId('runs-plot');
  box.replaceChildren();
  const curves = COLOURS.slice(0, shown.length).map((colour) => ({ colour, width: 2 }));
  const plot = new Plot(box, { name: 'Loss of runs', height: 220, format: (loss) => loss.toFixed(2), curves });
  plot.start(Math.max(...metrics.map(({ steps }) => steps.at(-1)?.step ?? 1)));
  for (const [at, { steps }] of metrics.entries()) {
    const losses = steps.map(({ loss }) => loss);
    for (const [index, { step }] of steps.entries()) {
      const span = losses.slice(Math.max(0, index + 1 - MEAN_OVER), index + 1);
      const mean = span.reduce((sum, loss) => sum + loss, 0) / span.length;
      plot.add(step, shown.map((_, curve) => (curve === at ? mean : null)));
    }
  }
  byId('runs-legend').replaceChildren(
    ...shown.map(({ name }, at) => element('li', { className: `curve-${at + 1}` }, element('span'), document.createTextNode(name))),
  );
}
