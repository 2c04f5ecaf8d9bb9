/** The package in Node, whose engines get a GPU that fails. */

import { readFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';
import threads, { setEnvironmentData } from 'node:worker_threads';
import { NAMES, type Call, type Fault } from './layer.js';
import { CALLS_MADE, MOST_CALLS, NUMBERS, type Order } from './order.js';

type Package = typeof import('../../dist/node/index.js');

export interface Engines {
  webLora: Package;
  /** What the threads have counted since {@link prepare}. */
  numbers: Int32Array;
  /** The next engine's first worker gets this fault, and the null GPU is such a one. */
  prepare(fault: Fault | undefined, gpu?: Pick<Order, 'description' | 'limits'>): void;
  /** All that was asked of the GPU. */
  calls(): Call[];
  /** What the workers have written to stderr. */
  said(): string;
}

/** `dist`: the folder of the built package. `dawn`: the file of the package `webgpu`, for a GPU that is real. */
export async function openEngines(what: { dist: string; dawn?: string | undefined }): Promise<Engines> {
  const tally = new SharedArrayBuffer(4 * NUMBERS + MOST_CALLS);
  const numbers = new Int32Array(tally, 0, NUMBERS);
  const { dawn } = what;
  let order: Order = { tally, dawn: dawn && pathToFileURL(dawn).href };
  const preload = fileURLToPath(new URL('preload.mjs', import.meta.url));
  let fault: Fault | undefined;
  let made = 0;
  let said: string[] = [];
  threads.Worker = class extends threads.Worker {
    constructor(file: string | URL, options?: threads.WorkerOptions) {
      const faulty = made++ === 0 || fault?.always;
      setEnvironmentData('order', { ...order, fault: faulty ? fault : undefined } as never);
      super(file, { ...options, execArgv: ['--import', preload], stdout: true, stderr: true });
      this.stderr.on('data', (text: Buffer) => said.push(String(text)));
    }
  };
  syncBuiltinESMExports();
  const dist = pathToFileURL(what.dist);
  setEnvironmentData('wasm', (await WebAssembly.compile(await readFile(new URL('../pkg/web_lora_bg.wasm', dist)))) as never);
  return {
    webLora: (await import(new URL('node/index.js', dist).href)) as Package,
    numbers,
    prepare(next, { description, limits } = {}) {
      [fault, made, said] = [next, 0, []];
      order = { ...order, description, limits };
      numbers.fill(0);
    },
    calls: () => [...new Uint8Array(tally, 4 * NUMBERS, numbers[CALLS_MADE])].map((name) => NAMES[name] as Call),
    said: () => said.join(''),
  };
}
