/** Python, written so that what comes from outside gets into it as literals alone, never as code. */

import { checkSettings } from './settings.js';

export type Value = string | number | boolean | null | undefined | readonly Value[] | { readonly [key: string]: Value };

/** What is written as it is, and made here alone: data from outside cannot be one of these. */
class Expression {
  readonly code: string;

  constructor(code: string) {
    this.code = code;
  }
}

/** Code as a value. */
export function expression(code: string): Value {
  return new Expression(code) as unknown as Value;
}

/** A call, with each keyword on a line of its own where it is `long`. */
export function call(name: string, positional: readonly Value[], named: Record<string, Value>, long = false): string {
  const parts = [...positional.map(python), ...keywords(named)];
  return long ? `${name}(\n${parts.map((part) => `    ${part},\n`).join('')})` : `${name}(${parts.join(', ')})`;
}

/** Keywords with their values; those that are undefined are left to Python's defaults. */
function keywords(named: Record<string, Value>): string[] {
  const given = Object.entries(named).filter(([, value]) => value !== undefined);
  return given.map(([name, value]) => `${name}=${python(value)}`);
}

/** A value as a Python literal, on one line. */
export function python(value: Value): string {
  if (value instanceof Expression) return value.code;
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'number') return numberLiteral(value);
  if (typeof value === 'string') return stringLiteral(value);
  if (value instanceof Array) return `[${value.map(python).join(', ')}]`;
  return `{${Object.entries(value).map(([key, entry]) => `${stringLiteral(key)}: ${python(entry)}`).join(', ')}}`;
}

/** JSON's numbers are Python's, infinities aside. */
function numberLiteral(value: number): string {
  checkSettings({ number: value });
  return JSON.stringify(value);
}

/** JSON's strings are Python's. Letters, digits and ASCII stay legible; of what else there is nothing can mislead a reader. */
function stringLiteral(text: string): string {
  const escaped = (char: string) => {
    const code = (char.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\U${code.padStart(8, '0')}` : `\\u${code.padStart(4, '0')}`;
  };
  return JSON.stringify(text).replace(/[^\x20-\x7e\p{L}\p{N}]/gu, escaped);
}
