/**
 * The access token: in this page's memory, and in the browser's storage only while a person wants it there. By
 * endpoint, so that an address with another `?hub=` gets none that was given for the Hub.
 */

import { byId } from './dom.js';

export class HubToken {
  readonly #endpoint: string;
  readonly #key: string;
  readonly #input = byId<HTMLInputElement>('hub-token');
  readonly #keep = byId<HTMLInputElement>('hub-token-keep');

  /** `onChange`: another token, or none, is to be used from here on. */
  constructor(endpoint: string, onChange: () => void) {
    this.#endpoint = endpoint;
    this.#key = `web-lora.hub-token ${endpoint}`;
    const kept = this.#stored();
    this.#input.value = kept ?? '';
    this.#keep.checked = kept !== undefined;
    this.#input.addEventListener('change', () => {
      this.#store();
      onChange();
    });
    this.#keep.addEventListener('change', () => this.#store());
  }

  /** What is to be sent to an endpoint: nothing to another than the token was given for. */
  of(endpoint: string): { token?: string } {
    return this.#value && endpoint === this.#endpoint ? { token: this.#value } : {};
  }

  get #value(): string {
    return this.#input.value.trim();
  }

  #stored(): string | undefined {
    try {
      return localStorage.getItem(this.#key) ?? undefined;
    } catch {
      return undefined;
    }
  }

  #store(): void {
    try {
      if (this.#value && this.#keep.checked) localStorage.setItem(this.#key, this.#value);
      else localStorage.removeItem(this.#key);
    } catch {
      // No storage in this context: it has to be given again next time.
    }
  }
}
