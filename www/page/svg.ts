/** Shapes of inline pictures. */

const NAMESPACE = 'http://www.w3.org/2000/svg';

/** A new element of a picture. */
export function shape(tag: string, attributes: Record<string, string | number>, ...children: (Node | string)[]): SVGElement {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}
