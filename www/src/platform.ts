/** What the engine needs of the place that it runs in. A browser has it; another place, such as Node, gives it. */

export interface Platform {
  /** Where models and runs are kept. */
  storage: Pick<StorageManager, 'estimate' | 'getDirectory' | 'persist'>;
  /** Held by whoever writes there. */
  locks: Pick<LockManager, 'query' | 'request'>;
}

let given: Platform | undefined;

/** Never asked for on import, so that a server may import this package. */
export function platform(): Platform {
  return given ?? navigator;
}

export function usePlatform(platform: Platform): void {
  given = platform;
}
