/** The adapter into a repository of one's own on the Hub. */

import { adapterFolder, WebLoraError, type AdapterCard, type AdapterFiles, type Progress, type PushResult } from 'web-lora';
import { toError, type App } from './app.js';
import { announce, byId, element, showText } from './dom.js';
import { hubEndpoint } from './hub-panel.js';
import { HubToken } from './hub-token.js';
import type { Push, Pushed } from './push-worker.js';

/** Wires the fold; `current` gives the adapter and its card. */
export function pushPanel(app: App, current: () => Promise<{ files: AdapterFiles | undefined; card: AdapterCard }>): void {
  const endpoint = hubEndpoint();
  const token = new HubToken(endpoint, () => undefined, { input: 'push-token', keep: 'push-token-keep', kept: 'push-token' });
  const repo = byId<HTMLInputElement>('push-repo');
  const error = byId('push-error');
  const status = byId('push-status');
  const update = byId<HTMLButtonElement>('push-update');
  const stop = byId('push-stop');
  let stopping = new AbortController();

  const push = async (options: { update: boolean }) => {
    showText(error, undefined);
    update.hidden = true;
    stopping = new AbortController();
    const { signal } = stopping;
    stop.hidden = false;
    showText(status, 'Connecting…');
    const onProgress = ({ loaded, total }: Progress) => showText(status, `Uploading ${Math.floor((100 * loaded) / total)} %`);
    try {
      const { files, card } = await current();
      if (!files) return;
      const name = repo.value.trim();
      const title = `Upload ${card.name}`;
      const isPrivate = byId<HTMLInputElement>('push-private').checked;
      const given = { repo: name, token: token.of(endpoint).token ?? '', endpoint, isPrivate, title, ...options };
      const { url } = await upload({ files: adapterFolder(files, card), options: given }, onProgress, signal);
      const link = element('a', { text: name });
      link.href = url;
      link.target = '_blank';
      link.rel = 'noreferrer';
      status.replaceChildren('Uploaded to ', link);
      announce('The adapter is on the Hub.');
    } catch (thrown) {
      const failure = toError(thrown);
      showText(status, failure.code === 'cancelled' ? 'Stopped.' : undefined);
      if (failure.code !== 'cancelled') showText(error, failure.message);
      update.hidden = failure.code !== 'name_taken';
    } finally {
      stop.hidden = true;
    }
  };
  byId('push-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void push({ update: false });
  });
  update.addEventListener('click', () => void push({ update: true }));
  stop.addEventListener('click', () => stopping.abort());
  app.onChange(({ busy }) => {
    byId<HTMLButtonElement>('push-go').disabled = busy !== undefined;
  });
}

/** One upload, in a worker that ends with it. */
function upload(push: Push, onProgress: (progress: Progress) => void, signal: AbortSignal): Promise<PushResult> {
  const worker = new Worker(new URL('./push-worker.ts', import.meta.url), { type: 'module' });
  const answer = new Promise<PushResult>((resolve, reject) => {
    worker.addEventListener('message', ({ data }: MessageEvent<Pushed>) => {
      if ('progress' in data) onProgress(data.progress);
      else if ('result' in data) resolve(data.result);
      else reject(new WebLoraError(data.error));
    });
    worker.addEventListener('error', ({ message }) => reject(new Error(message)));
    signal.addEventListener('abort', () => worker.postMessage('stop'));
    worker.postMessage(push);
  });
  return answer.finally(() => worker.terminate());
}
