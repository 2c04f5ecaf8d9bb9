/** The worker in Node: the browser's, in a thread that looks like one of a browser. */

import { usePlatform } from '../platform.js';
import { diskPlatform } from './disk.js';
import { installGlobals } from './globals.js';

usePlatform(diskPlatform);
await installGlobals();
// Only now: it speaks to its globals as soon as it is there.
await import('../worker.js');
