/** A merged model as the main thread sees it: files whose bytes the worker makes as they are read. */

import { WebLoraError, errorData } from './errors.js';
import { stopped } from './http.js';
import type { MergedCheck, MergedModel, MergeReport, Progress, Stoppable } from './types.js';

/** Bytes asked for at a time. */
const PIECE_BYTES = 4 << 20;

/** A merged model that the worker keeps open. */
export interface OpenedMerged extends MergeReport {
  id: number;
  files: { name: string; size: number }[];
}

type Read = (file: number, offset: number, length: number) => Promise<Uint8Array<ArrayBuffer>>;

export function mergedModel({ id: _, files, ...report }: OpenedMerged, read: Read, close: () => Promise<void>): MergedModel {
  const streamOf = (file: number, size: number) => {
    let offset = 0;
    return new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        async pull(controller) {
          if (offset < size) {
            const bytes = await read(file, offset, Math.min(PIECE_BYTES, size - offset));
            offset += bytes.length;
            controller.enqueue(bytes);
          }
          if (offset >= size) controller.close();
        },
      },
      // Nothing is made before it is asked for.
      { highWaterMark: 0 },
    );
  };
  return { ...report, files: files.map(({ name, size }, at) => ({ name, size, stream: () => streamOf(at, size) })), close };
}

/** Writes all files to a folder. Of what is not written to its end nothing stays. */
export async function writeMerged(
  { files, sizeBytes }: MergedModel,
  folder: FileSystemDirectoryHandle,
  { onProgress, signal }: Stoppable & { onProgress?: ((progress: Progress) => void) | undefined },
): Promise<void> {
  const begun: string[] = [];
  let loaded = 0;
  try {
    for (const { name, stream } of files) {
      const file = await folder.getFileHandle(name, { create: true });
      begun.push(name);
      const out = await file.createWritable();
      const reader = stream().getReader();
      try {
        for (let next = await reader.read(); !next.done; next = await reader.read()) {
          if (signal?.aborted) throw stopped();
          await out.write(next.value);
          loaded += next.value.length;
          onProgress?.({ phase: 'write', loaded, total: sizeBytes });
        }
      } catch (error) {
        await out.abort().catch(() => undefined);
        throw error;
      }
      await out.close();
    }
  } catch (error) {
    for (const name of begun) await folder.removeEntry(name).catch(() => undefined);
    throw error instanceof WebLoraError ? error : cannotWrite(error, folder.name, sizeBytes);
  }
}

function cannotWrite(error: unknown, folder: string, sizeBytes: number): WebLoraError {
  if (error instanceof DOMException && error.name === 'QuotaExceededError') {
    const message = `There is no room for the ${Math.ceil(sizeBytes / 1e6)} MB of the merged model.`;
    return new WebLoraError({ code: 'no_space', message, neededBytes: sizeBytes });
  }
  if (!(error instanceof DOMException) && !(error instanceof Error && 'code' in error)) return new WebLoraError(errorData(error));
  return new WebLoraError({ code: 'bad_file', file: folder, message: `${folder}: it cannot be written to (${error.message}).` });
}

/** Logits of some prompts by the merged model, by base and adapter, and by the base alone. */
export interface Logits {
  merged: Float32Array;
  adapter: Float32Array;
  base: Float32Array;
}

export function compareLogits(prompts: readonly Logits[]): MergedCheck {
  const largest = (a: Float32Array, b: Float32Array) => {
    if (a.length !== b.length) return Infinity;
    return a.reduce((most, value, at) => Math.max(most, Math.abs(value - (b[at] ?? NaN))), 0);
  };
  const likeliest = (logits: Float32Array) => logits.indexOf(logits.reduce((most, value) => Math.max(most, value)));
  return {
    off: Math.max(...prompts.map(({ merged, adapter }) => largest(merged, adapter))),
    moved: Math.max(...prompts.map(({ base, adapter }) => largest(base, adapter))),
    sameTokens: prompts.every(({ merged, adapter }) => likeliest(merged) === likeliest(adapter)),
  };
}
