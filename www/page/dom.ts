/** The few things the page does with the document. Text from files and models only ever becomes `textContent`. */

/** The element with this id, which index.html has. */
export function byId<Type extends HTMLElement = HTMLElement>(id: string): Type {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element as Type;
}

/** A new element with text and children. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  properties: { className?: string; text?: string } = {},
  ...children: Node[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  if (properties.className) made.className = properties.className;
  if (properties.text !== undefined) made.textContent = properties.text;
  made.append(...children);
  return made;
}

/** Shows the element with this text, or hides it where there is none. */
export function showText(target: HTMLElement, text: string | undefined): void {
  target.textContent = text ?? '';
  target.hidden = !text;
}

/** Fills a list of facts. */
export function showFacts(list: HTMLElement, facts: Record<string, string>): void {
  list.replaceChildren(
    ...Object.entries(facts).map(([label, text]) =>
      element('div', {}, element('dt', { text: label }), element('dd', { text })),
    ),
  );
}

/** Tells screen readers what has happened, where it is not said elsewhere. */
export function announce(text: string): void {
  byId('announcer').textContent = text;
}

/** A press of `button` opens the file picker of `input`; each choice is handed on, even of the same file again. */
export function onFiles(button: HTMLElement, input: HTMLInputElement, use: (files: File[]) => void): void {
  button.addEventListener('click', () => input.click());
  input.addEventListener('change', () => {
    const files = [...(input.files ?? [])];
    input.value = '';
    if (files.length > 0) use(files);
  });
}
