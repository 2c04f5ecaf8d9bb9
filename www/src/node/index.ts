/** The package in Node: the same engine, in a worker thread, on the GPU that the package `webgpu` brings. */

import { Worker as Thread } from 'node:worker_threads';
import { pathToFileURL } from 'node:url';
import { Engine, type Host } from '../client.js';
import type { EngineWorker } from '../connection.js';
import { WebLoraError } from '../errors.js';
import { usePlatform } from '../platform.js';
import type { FromWorker, ToWorker } from '../protocol.js';
import type { EngineOptions, Stoppable } from '../types.js';
import { diskFolder, diskPlatform, releaseLocks } from './disk.js';

export * from '../index.js';

usePlatform(diskPlatform);

/** As the browser's; what is not an address is a path. Rejects with `no_webgpu` where `webgpu` is not installed. */
export async function createEngine(options: EngineOptions & Stoppable = {}): Promise<Engine> {
  try {
    return await Engine.create(options, NODE);
  } catch (error) {
    if (!(error instanceof WebLoraError) || error.code !== 'no_webgpu') throw error;
    const message = 'Node has no GPU of its own. Install the package that brings one: npm install webgpu';
    throw new WebLoraError({ code: 'no_webgpu', message });
  }
}

const NODE: Host = {
  startWorker: () => new ThreadWorker(),
  address(source) {
    const text = String(source);
    return /^(https?|file):/.test(text) ? text : pathToFileURL(text).href;
  },
  folder: diskFolder,
};

/** A thread that looks like a browser's worker. While it has nothing to do, the process may end. */
class ThreadWorker implements EngineWorker {
  readonly #thread = new Thread(new URL('./worker.js', import.meta.url), { name: 'web-lora' });
  #busy = 0;

  constructor() {
    this.#thread.unref();
    this.#thread.on('message', ({ kind }: FromWorker) => {
      if (kind === 'result' || kind === 'error') this.#busy -= 1;
      if (this.#busy === 0 || kind === 'crashed') this.#thread.unref();
    });
  }

  postMessage(message: ToWorker, transfer: Transferable[]): void {
    if (message.kind === 'command') {
      this.#busy += 1;
      this.#thread.ref();
    }
    this.#thread.postMessage(message, transfer as ArrayBuffer[]);
  }

  addEventListener(type: 'message' | 'error', listener: (event: never) => void): void {
    const tell = (event: object) => listener(event as never);
    if (type === 'error') this.#thread.on('error', ({ message }) => tell({ message, preventDefault: () => undefined }));
    else this.#thread.on('message', (data: FromWorker) => tell({ data }));
  }

  terminate(): void {
    const { threadId } = this.#thread;
    void this.#thread.terminate().then(() => releaseLocks(threadId));
  }
}
