/** Step 3, below the loss: where the time of a training step goes. */

import type { Profile, ProfileOp } from 'web-lora';
import type { App } from './app.js';
import { byId, element, showText } from './dom.js';
import { formatCount, formatMilliseconds, formatSpeed } from './format.js';
import type { Settings } from './settings.js';

/** Wires the panel. */
export function profilePanel(app: App, settings: Settings): void {
  const error = byId('profile-error');
  const run = byId<HTMLButtonElement>('profile-run');
  const status = byId('profile-status');

  const show = ({ ops, seconds, tokens, timestamps }: Profile) => {
    const clock = timestamps ? 'by the GPU’s clock' : 'by waiting for each kernel';
    status.textContent = `${formatCount(tokens)} tokens in ${formatMilliseconds(seconds)}, ${clock}`;
    byId('profile-ops').replaceChildren(...ops.map(rowOf));
    byId('profile-table').hidden = false;
  };

  run.addEventListener('click', () => {
    showText(error, undefined);
    status.textContent = 'Measuring';
    void app.run(
      'profile',
      async () => show(await app.engine.profile(settings.training((app.state.dataset?.preferencePairs ?? 0) > 0))),
      (failure) => {
        status.textContent = '';
        showText(error, failure.message);
      },
    );
  });

  app.onChange(({ model, dataset, busy, trouble }) => {
    run.disabled = busy !== undefined || !model || !dataset || trouble !== undefined;
  });
}

function rowOf({ phase, module, kernel, seconds, share, gigaflopsPerSecond, gigabytesPerSecond }: ProfileOp): HTMLElement {
  const bar = element('span', { className: 'share' });
  bar.style.width = `${(100 * share).toFixed(2)}%`;
  const name = element('td', { text: `${phase} ${module.replace(/^layers\./, '')}` });
  name.append(element('span', { className: 'quiet', text: ` ${kernel}` }), bar);
  const cells = [
    `${(100 * share).toFixed(1)} %`,
    formatMilliseconds(seconds),
    gigaflopsPerSecond > 0 ? formatSpeed(gigaflopsPerSecond) : '',
    formatSpeed(gigabytesPerSecond),
  ];
  return element('tr', {}, name, ...cells.map((text) => element('td', { text })));
}
