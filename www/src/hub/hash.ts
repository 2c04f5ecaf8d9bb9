/** Hashes of files as they stream by, which the browser's own cannot do. */

import { sha1 } from '@noble/hashes/legacy.js';
import { sha256 } from '@noble/hashes/sha2.js';
import type { HubFile } from '../types.js';

/** What must come out of a file: the SHA-256 of a large one, git's name for the contents of a small one. */
export class FileHash {
  readonly #file: HubFile;
  readonly #hash;

  constructor(file: HubFile) {
    this.#file = file;
    this.#hash = file.sha256 ? sha256.create() : sha1.create().update(new TextEncoder().encode(`blob ${file.size}\0`));
  }

  update(bytes: Uint8Array): void {
    this.#hash.update(bytes);
  }

  /** Whether these were the bytes. Ends the hash. */
  matches(): boolean {
    const hex = [...this.#hash.digest()].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    return hex === (this.#file.sha256 ?? this.#file.oid);
  }
}
