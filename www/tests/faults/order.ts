/** What a test and the threads of its engines tell each other. */

import type { Fault } from './layer.js';

/** What the test tells a thread. */
export interface Order {
  fault?: Fault | undefined;
  /** Numbers of {@link NUMBERS}, then a byte for each call. */
  tally: SharedArrayBuffer;
  /** Where the package `webgpu` lies, for a GPU that is real. */
  dawn?: string | undefined;
  /** What the null GPU says that it is. */
  description?: string | undefined;
  limits?: Record<string, number> | undefined;
}

/** Places of what is counted. */
export const CALLS_MADE = 0;
export const FAILED = 1;
export const BUFFERS = 2;
export const BYTES = 3;
export const NUMBERS = 4;
export const MOST_CALLS = 1 << 16;
