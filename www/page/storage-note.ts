/** Says what the browser promises of what it keeps for this page: nothing, something, or that it stays. */

import type { App } from './app.js';
import { byId, showText } from './dom.js';
import { formatBytes } from './format.js';

const NONE =
  'This browser gives the page no storage, as in some private windows: neither a training nor a model is kept when the tab is closed. Download what you train.';

/** Draws the notes, and again whenever something may have been written. */
export function storageNote(app: App): void {
  const draw = async () => {
    const state = await stateOf();
    for (const note of document.querySelectorAll<HTMLElement>('[data-note=storage]')) showText(note, state);
    showText(byId('storage-none'), state === undefined ? NONE : undefined);
  };
  let before: string | undefined = 'engine';
  void draw();
  app.onChange(({ busy }) => {
    if (busy !== before) void draw();
    before = busy;
  });
}

/** Undefined where there is no storage. */
async function stateOf(): Promise<string | undefined> {
  try {
    const { storage } = navigator;
    await storage.getDirectory();
    const { usage = 0, quota } = await storage.estimate();
    const room = `${formatBytes(usage)} in use${quota === undefined ? '' : `, room for ${formatBytes(Math.max(0, quota - usage))} more`}.`;
    const stays = await storage.persisted();
    return `${room} ${stays ? 'The browser keeps it until you delete it.' : 'The browser may clear it when the disk is full or you have been away for long: download what matters to you.'}`;
  } catch {
    return undefined;
  }
}
