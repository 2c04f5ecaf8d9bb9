/**
 * Uploads to the Hub. In a worker of its own, as the Hub says where large files go, and the page itself may connect to
 * nobody else (policy.ts).
 */

import { pushToHub, WebLoraError, type ErrorData, type ExportedFile, type Progress, type PushOptions, type PushResult } from 'web-lora';

/** What the page sends once; anything after it means to stop. */
export interface Push {
  files: readonly ExportedFile[];
  options: Omit<PushOptions, 'onProgress' | 'signal'>;
}

/** What comes back: progress, and one of the others at the end. */
export type Pushed = { progress: Progress } | { result: PushResult } | { error: ErrorData };

const abort = new AbortController();
const post = (message: Pushed) => self.postMessage(message);

self.addEventListener('message', ({ data }: MessageEvent<Push | 'stop'>) => {
  if (data === 'stop') {
    abort.abort();
    return;
  }
  const { signal } = abort;
  pushToHub(data.files, { ...data.options, onProgress: (progress) => post({ progress }), signal }).then(
    (result) => post({ result }),
    (error: unknown) => {
      // Anything but the package's own is a mistake of this file, and told as one by the page.
      if (error instanceof WebLoraError) post({ error: error.data });
      else throw error;
    },
  );
});
