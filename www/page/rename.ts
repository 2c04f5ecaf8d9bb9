/** A field in the place of a name, until another is given or the old one is kept after all. */

import { element } from './dom.js';

/** `done` gets the new name, or undefined where it stays; it draws the name again. */
export function askName(place: HTMLElement, name: string, done: (name: string | undefined) => void): void {
  const input = element('input');
  input.value = name;
  input.maxLength = 80;
  input.autocomplete = 'off';
  input.setAttribute('aria-label', `New name of ${name}`);
  const save = element('button', { text: 'Save' });
  const cancel = element('button', { text: 'Cancel' });
  cancel.type = 'button';
  const form = element('form', { className: 'row' }, element('div', { className: 'grow' }, input), save, cancel);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const given = input.value.trim();
    if (given) done(given === name ? undefined : given);
    else input.focus();
  });
  form.addEventListener('keydown', ({ key }) => key === 'Escape' && done(undefined));
  cancel.addEventListener('click', () => done(undefined));
  place.replaceChildren(form);
  input.select();
}
