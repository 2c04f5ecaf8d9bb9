/** Models by name: what there is on the Hub, and what is kept of it here. Loading one is the engine's. */

import type { HubListing, HubSource } from '../types.js';
import { addressOf } from './api.js';
import { listingOf } from './cache.js';

export { hubCache } from './cache.js';

/**
 * The files of a repository with their sizes and hashes, and which of them make a model. Without a network, what the
 * Hub said the last time that a model of it was loaded.
 */
export async function listHubFiles(source: HubSource, options: { signal?: AbortSignal } = {}): Promise<HubListing> {
  return listingOf(addressOf(source), options.signal);
}
