/** Says what the columns of a file are, where nobody can tell from their names, with a live look at the first rows. */

import type { DataMapping, DataSummary } from 'web-lora';
import { byId, element } from './dom.js';

const SHOWN = 3;
const ROLES = ['prompt', 'completion'] as const;

/** The form, shown when it is asked for. */
export class MappingForm {
  readonly #form = byId<HTMLFormElement>('mapping');
  #summary: DataSummary | undefined;
  #use: ((mapping: DataMapping) => void) | undefined;

  constructor() {
    this.#form.addEventListener('input', () => this.#preview());
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#use?.(this.#mapping);
    });
  }

  /** Asks about a file; `use` gets the answer. */
  ask(summary: DataSummary, use: (mapping: DataMapping) => void): void {
    this.#summary = summary;
    this.#use = use;
    const { columns } = summary;
    byId('mapping-columns').replaceChildren(
      ...columns.map((column) => element('li', {}, element('code', { text: `{${column}}` }))),
    );
    // The usual order: what is given, then what is to be learned.
    for (const [at, role] of ROLES.entries()) input(role).value = columns[at] ? `{${columns[at]}}` : '';
    this.#form.hidden = false;
    this.#preview();
    input('prompt').focus();
  }

  hide(): void {
    this.#form.hidden = true;
  }

  /** Without a question all of the answer is text to be learned. */
  get #mapping(): DataMapping {
    const [prompt, completion] = ROLES.map((role) => input(role).value);
    return prompt?.trim() ? { prompt, completion: completion ?? '' } : { text: completion ?? '' };
  }

  #preview(): void {
    const rows = this.#summary?.sample.slice(0, SHOWN) ?? [];
    byId('mapping-preview').replaceChildren(
      ...rows.map((row) => {
        const [prompt, completion] = ROLES.map((role) => filled(input(role).value, row));
        return element('li', {}, element('p', { text: prompt ?? '' }), element('p', {}, element('mark', { text: completion ?? '' })));
      }),
    );
  }
}

function input(role: (typeof ROLES)[number]): HTMLInputElement {
  return byId<HTMLInputElement>(`mapping-${role}`);
}

/** What the engine will make of a template: `{column}` is its value, `{{` and `}}` are brackets. */
function filled(template: string, row: Record<string, unknown>): string {
  return template.replace(/\{\{|\}\}|\{([^{}]*)\}/g, (found, column: string | undefined) => {
    if (column === undefined) return found.charAt(0);
    const value = row[column];
    return value === undefined || value === null ? '' : typeof value === 'string' ? value : JSON.stringify(value);
  });
}
