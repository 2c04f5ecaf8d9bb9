/** Requests that are tried again while that can help, and refusals in words. */

import { WebLoraError } from './errors.js';

const ATTEMPTS = 3;
/** A connection from which nothing has come for so long is as good as broken. */
const STALL_MS = 30_000;

/** A file that is not where it was looked for. */
export class MissingError extends WebLoraError {}

export interface Ask {
  url: string;
  /** What is asked for, as messages name it. */
  name: string;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** Options of `fetch` beyond these. */
  init?: RequestInit;
  /** What a server means that speaks our caller's dialect; undefined where it is a refusal like any other. */
  explain?: (response: Response) => WebLoraError | undefined;
}

/** The answer to a GET, which is one of success. */
export async function request({ url, name, headers = {}, signal, init = {}, explain }: Ask): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let failure: WebLoraError;
    const stall = new AbortController();
    try {
      const signals = signal ? [signal, stall.signal] : [stall.signal];
      const asking = fetch(url, { ...init, headers, signal: AbortSignal.any(signals) });
      const response = await unlessStalled(asking, () => stall.abort());
      if (response.ok) return response;
      const refusal = explain?.(response);
      if (refusal) throw refusal;
      if (response.status === 404) {
        throw new MissingError({ code: 'network', file: name, message: `${name} is not at ${url}.` });
      }
      failure = networkError(name, `the server answered ${response.status} ${response.statusText}`.trim());
      if (response.status < 500 && response.status !== 429) throw failure;
    } catch (error) {
      if (signal?.aborted) throw stopped();
      if (error instanceof WebLoraError) throw error;
      const why = stall.signal.aborted ? 'does not answer' : 'cannot be reached, or does not allow other pages to read from it';
      failure = networkError(name, `the server ${why}`);
    }
    if (attempt === ATTEMPTS) throw failure;
    await pause(500 * attempt, signal);
  }
}

/** What comes; where nothing does for too long, `onStall` is called and this rejects. */
export async function unlessStalled<Result>(coming: Promise<Result>, onStall?: () => void): Promise<Result> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stalled = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      onStall?.();
      reject(new Error('the connection stalls'));
    }, STALL_MS);
  });
  try {
    return await Promise.race([coming, stalled]);
  } finally {
    clearTimeout(timer);
  }
}

/** All bytes of an answer. Rejects where they cease to come. */
export async function bytesOf(response: Response): Promise<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  const parts: Uint8Array<ArrayBuffer>[] = [];
  try {
    for (;;) {
      const next = await (reader && unlessStalled(reader.read()));
      if (!next || next.done) break;
      parts.push(next.value);
    }
  } finally {
    await reader?.cancel().catch(() => undefined);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Waits; a caller who wants to stop need not. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
  if (signal?.aborted) throw stopped();
}

/** The whole size that a partial answer tells. */
export function totalSize(response: Response): number | undefined {
  const total = /\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
}

export function networkError(name: string, reason: string): WebLoraError {
  return new WebLoraError({ code: 'network', file: name, message: `${name}: ${reason}.` });
}

export function stopped(): WebLoraError {
  return new WebLoraError({ code: 'cancelled', message: 'Stopped.' });
}
