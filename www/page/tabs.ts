/** A row of tabs, as the ARIA practices have it: arrow keys move, the panel of the chosen one is shown. */

import { byId } from './dom.js';

/** Wires a tab list; its first tab is chosen. */
export function tabs(list: HTMLElement): void {
  const all = [...list.querySelectorAll<HTMLElement>('[role=tab]')];
  const choose = (chosen: HTMLElement) => {
    for (const tab of all) {
      const isChosen = tab === chosen;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute('aria-controls') ?? '').hidden = !isChosen;
    }
  };
  for (const [at, tab] of all.entries()) {
    tab.addEventListener('click', () => choose(tab));
    tab.addEventListener('keydown', ({ key }) => {
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: -1 }[key];
      const next = to === undefined ? undefined : all.at(to % all.length);
      if (!next) return;
      choose(next);
      next.focus();
    });
  }
  if (all[0]) choose(all[0]);
}
