/** What the worker and the wasm module look for in a browser, as Node's worker threads and Dawn have it. */

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parentPort } from 'node:worker_threads';
import { fetchFile } from './fetch-file.js';

type Listener = (event: never) => void;

/** Makes this thread look like a browser's worker. */
export async function installGlobals(): Promise<void> {
  const webFetch = globalThis.fetch;
  const globals = {
    self: globalThis,
    isSecureContext: true,
    navigator: { gpu: await openGpu() },
    // wgpu asks for it before it looks for a GPU there.
    Window: class Window {},
    fetch: (what: string | URL | Request, init?: RequestInit) => fetchFile(what, init) ?? webFetch(what, init),
    addEventListener: listen,
    postMessage: (message: unknown, { transfer }: { transfer: ArrayBuffer[] }) => parentPort?.postMessage(message, transfer),
  };
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
}

/** Undefined where the package that brings a GPU is not installed. `WEB_LORA_DAWN` has flags for it, with spaces between. */
async function openGpu(): Promise<GPU | undefined> {
  const dawn = await importDawn();
  if (!dawn) return undefined;
  Object.assign(globalThis, dawn.globals);
  return dawn.create((process.env.WEB_LORA_DAWN ?? '').split(' ').filter(Boolean));
}

/** From beside this package or, as `npx` puts that elsewhere, from where the process was started. */
async function importDawn(): Promise<typeof import('webgpu') | undefined> {
  const missing = (error: NodeJS.ErrnoException) => {
    if (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  };
  const beside = await import('webgpu').catch(missing);
  if (beside) return beside;
  try {
    const path = createRequire(join(process.cwd(), 'web-lora')).resolve('webgpu');
    return await import(pathToFileURL(path).href);
  } catch (error) {
    return missing(error as NodeJS.ErrnoException);
  }
}

function listen(type: 'message' | 'error' | 'unhandledrejection', listener: Listener): void {
  const tell = (event: object) => listener(event as never);
  if (type === 'message') parentPort?.on('message', (data: unknown) => tell({ data }));
  if (type === 'error') process.on('uncaughtException', (error) => tell({ error, message: error.message }));
  if (type === 'unhandledrejection') process.on('unhandledRejection', (reason) => tell({ reason }));
}
