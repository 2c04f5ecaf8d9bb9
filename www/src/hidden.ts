/** A tab that is hidden may be frozen or closed without another word. Node has no such thing. */

/** Calls `tell` whenever the tab is hidden or about to be frozen; what it returns ends that. */
export function onHidden(tell: () => void): () => void {
  if (typeof document === 'undefined') return () => undefined;
  const hidden = () => document.visibilityState === 'hidden' && tell();
  document.addEventListener('visibilitychange', hidden);
  document.addEventListener('freeze', tell);
  return () => {
    document.removeEventListener('visibilitychange', hidden);
    document.removeEventListener('freeze', tell);
  };
}
