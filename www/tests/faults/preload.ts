/**
 * Comes before the engine's worker in a thread of Node, and is what that finds in the place of the package `webgpu`: a
 * GPU that fails, the null one or Dawn's. The wasm module is the one that the test has compiled.
 */

import Module from 'node:module';
import { fileURLToPath } from 'node:url';
import { getEnvironmentData, isMainThread } from 'node:worker_threads';
import { FaultyGpu, NAMES } from './layer.js';
import { NullGpu, globals as nullGlobals } from './null-gpu.js';
import { BUFFERS, BYTES, CALLS_MADE, FAILED, NUMBERS, type Order } from './order.js';

const order = isMainThread ? undefined : (getEnvironmentData('order') as Order);
const dawn = order?.dawn ? ((await import(order.dawn)) as typeof import('webgpu')) : undefined;

export const globals = dawn?.globals ?? nullGlobals;

export function create(flags: string[]): object {
  const { fault, tally, description, limits } = order as Order;
  const numbers = new Int32Array(tally, 0, NUMBERS);
  const names = new Uint8Array(tally, 4 * NUMBERS);
  const faulty = new FaultyGpu(fault, (call, failed) => {
    names[Atomics.add(numbers, CALLS_MADE, 1)] = NAMES.indexOf(call);
    if (failed) Atomics.add(numbers, FAILED, 1);
  });
  const count = (buffers: number, bytes: number) => {
    Atomics.add(numbers, BUFFERS, buffers);
    Atomics.add(numbers, BYTES, bytes);
  };
  return faulty.break(dawn?.create(flags) ?? new NullGpu({ description, limits, count }));
}

if (!isMainThread) {
  const loader = Module as unknown as { _resolveFilename(name: string, ...rest: unknown[]): string };
  const resolve = loader._resolveFilename.bind(loader);
  loader._resolveFilename = (name, ...rest) => (name === 'webgpu' ? fileURLToPath(import.meta.url) : resolve(name, ...rest));
  const wasm = getEnvironmentData('wasm') as WebAssembly.Module;
  WebAssembly.instantiateStreaming = async (_, imports) => ({ module: wasm, instance: await WebAssembly.instantiate(wasm, imports) });
}
