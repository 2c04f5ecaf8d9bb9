/** Fields of a form, each with a sentence and a place for its error. */

import { element } from './dom.js';
import { isTerm, termButton } from './glossary.js';

/** A number to set. */
export interface Setting {
  /** The name in the package's options. */
  name: string;
  label: string;
  hint: string;
  value: string;
}

/** A number or a choice. */
export function field({ name, label, hint }: Omit<Setting, 'value'>, input: HTMLInputElement | HTMLSelectElement): HTMLElement {
  const caption = element('label', { text: label });
  input.id = `setting-${name}`;
  caption.htmlFor = input.id;
  const explained = isTerm(name) ? [termButton(name)] : [];
  return element('div', { className: 'field' }, caption, ...explained, input, ...notes(input, hint));
}

/** Something that is or is not. */
export function check(name: string, label: string, hint: string): HTMLElement {
  const input = element('input');
  input.type = 'checkbox';
  input.id = `setting-${name}`;
  const caption = element('label', { className: 'check' }, input, document.createTextNode(label));
  return element('div', { className: 'field wide' }, caption, ...notes(input, hint));
}

/** The sentence below a field and the place for its error, both tied to it for screen readers. */
export function notes(input: HTMLElement, hint: string): HTMLElement[] {
  const sentence = element('p', { className: 'hint', text: hint });
  sentence.id = `${input.id}-hint`;
  const error = element('p', { className: 'field-error' });
  error.id = `${input.id}-error`;
  error.hidden = true;
  input.setAttribute('aria-describedby', `${sentence.id} ${error.id}`);
  return [sentence, error];
}
