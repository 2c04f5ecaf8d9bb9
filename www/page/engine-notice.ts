/** Says which GPU was found, or that there is none, or that it was lost, and what to do. */

import type { ErrorCode } from 'web-lora';
import type { App } from './app.js';
import { byId, showText } from './dom.js';

/** What a person can do about each failure that only a new engine mends. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  no_webgpu:
    'Use a current Chrome or Edge, Safari 26 or later, or Firefox 141 or later, and open this page from https or localhost.',
  no_adapter:
    'Switch on hardware acceleration in the browser’s settings and update the graphics driver. On Linux, Chrome may need chrome://flags/#enable-unsafe-webgpu.',
  device_lost:
    'The browser or the driver took the GPU away, as happens after sleep, a driver update or a step that took too long. Start again with a smaller batch or shorter examples if it comes back.',
  out_of_memory:
    'Start again with a smaller batch, a shorter maximum length, a lower rank or a smaller model, and close other tabs that use the GPU.',
  gpu: 'This is a fault of ours or of the graphics driver. Start again; if it comes back, please report it.',
  crashed: 'This is a fault of ours, not of your files. Start again; if it comes back, please report it.',
};

const SOFTWARE_NOTE =
  'No graphics card is in use, so training is slower: minutes, not seconds. If this device has one, switch on hardware acceleration in the browser’s settings.';

/** Draws the line about the GPU and, where needed, the box of trouble. */
export function engineNotice(app: App): void {
  const device = byId('device');
  const restart = byId<HTMLButtonElement>('trouble-restart');
  restart.addEventListener('click', () => void app.start());

  app.onChange(({ engine, trouble, busy }) => {
    const gpu = trouble ? undefined : engine?.device;
    device.dataset.state = trouble ? 'none' : !gpu ? 'waiting' : gpu.software ? 'software' : 'hardware';
    byId('device-text').textContent = gpu
      ? `${gpu.name}${gpu.software ? ' · software only' : ''}`
      : trouble
        ? 'No GPU in use'
        : 'Looking for a GPU…';
    showText(byId('device-note'), gpu?.software ? SOFTWARE_NOTE : undefined);

    const box = byId('trouble');
    if (trouble) byId('trouble-text').textContent = `${sentence(trouble.message)}\n${ADVICE[trouble.code] ?? ''}`.trim();
    box.hidden = !trouble;
    restart.disabled = busy !== undefined;
    byId('trouble-download').hidden = !app.adapters.newest;
  });
}

/** The engine's messages begin small and end without a stop, to be parts of longer ones. */
function sentence(message: string): string {
  const capital = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
