/** Of the inside of the package what the tests beside this write runs with, as it runs in Node. */

export { addressOf } from '../../src/hub/api.js';
export { listingOf } from '../../src/hub/cache.js';
export { download } from '../../src/hub/download.js';
export { HubServer } from '../hub-server.js';
export { runs } from '../../src/runs/index.js';
export { RunWriter } from '../../src/runs/writer.js';
export { diskPlatform } from '../../src/node/disk.js';
export { usePlatform } from '../../src/platform.js';
