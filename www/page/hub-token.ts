/**
 * The access token: in this page's memory, and in the browser's storage only while a person wants it there. By
 * endpoint, so that an address with another `?hub=` gets none that was given for the Hub.
 */

import { byId } from './dom.js';

/** Which field a token is typed into, and under which name it is kept. */
interface Field {
  input: string;
  keep: string;
  kept: string;
}

export class HubToken {
  readonly #endpoint: string;
  readonly #key: string;
  readonly #input: HTMLInputElement;
  readonly #keep: HTMLInputElement;

  /** `onChange`: another token, or none, is to be used from here on. */
  constructor(
    endpoint: string,
    onChange: () => void,
    { input, keep, kept }: Field = { input: 'hub-token', keep: 'hub-token-keep', kept: 'hub-token' },
  ) {
    this.#endpoint = endpoint;
    this.#key = `web-lora.${kept} ${endpoint}`;
    this.#input = byId<HTMLInputElement>(input);
    this.#keep = byId<HTMLInputElement>(keep);
    const stored = this.#stored();
    this.#input.value = stored ?? '';
    this.#keep.checked = stored !== undefined;
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
