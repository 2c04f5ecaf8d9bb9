/** Parquet to JSON lines, which is what the engine reads. Loaded where such a file is given and nowhere else. */

import { gunzipSync } from 'fflate';
import { decompress as unzstd } from 'fzstd';
import { parquetMetadataAsync, parquetReadObjects, snappyUncompress, type Compressors } from 'hyparquet';
import { WebLoraError } from './errors.js';

/** What a file may come to, whatever it says of itself: some bytes can claim to be any number of rows. */
const MAX_ROWS = 5_000_000;
const MAX_PAGE_BYTES = 256 << 20;
const MAX_JSON_BYTES = 512 << 20;
/** Rows that are read at a time. */
const ROWS_AT_ONCE = 5000;

/** The rows of a Parquet file in order, each an object on a line of its own. Bytes that are no text are left out. */
export async function parquetToJsonLines(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const bad = (message: string) => new WebLoraError({ code: 'bad_data', message: `${name}: ${message}`, file: name });
  const file = {
    byteLength: bytes.byteLength,
    slice: (start: number, end?: number) => bytes.slice(start, end).buffer,
  };
  const encoder = new TextEncoder();
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  try {
    const metadata = await parquetMetadataAsync(file);
    const rows = Number(metadata.num_rows);
    if (!(rows >= 0 && rows <= MAX_ROWS)) throw bad(`it says it has ${rows} rows, at most ${MAX_ROWS} are read`);
    const compressors = bounded(bad);
    for (let rowStart = 0; rowStart < rows; rowStart += ROWS_AT_ONCE) {
      const rowEnd = Math.min(rowStart + ROWS_AT_ONCE, rows);
      const objects = await parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors });
      const text = objects.map((row) => `${JSON.stringify(row, plain)}\n`).join('');
      const part = encoder.encode(text);
      size += part.byteLength;
      if (size > MAX_JSON_BYTES) throw bad(`its rows have more than ${MAX_JSON_BYTES} bytes; take fewer of them`);
      parts.push(part);
    }
  } catch (error) {
    if (error instanceof WebLoraError) throw error;
    throw bad(`it cannot be read as Parquet: ${error instanceof Error ? error.message : String(error)}`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Ways to unpack a page that give no more than the page was said to hold, and that no more than is reasonable. */
function bounded(bad: (message: string) => WebLoraError): Compressors {
  const within = (unpack: (input: Uint8Array, length: number) => Uint8Array) => (input: Uint8Array, length: number) => {
    if (!(length >= 0 && length <= MAX_PAGE_BYTES)) {
      throw bad(`a page of it says it has ${length} bytes, at most ${MAX_PAGE_BYTES} are read`);
    }
    return unpack(input, length);
  };
  return {
    SNAPPY: within((input, length) => {
      const output = new Uint8Array(length);
      snappyUncompress(input, output);
      return output;
    }),
    GZIP: within((input, length) => gunzipSync(input, { out: new Uint8Array(length) })),
    ZSTD: within((input, length) => unzstd(input, new Uint8Array(length))),
  };
}

/** Values that JSON has no word for: what is not there, large whole numbers, bytes. */
function plain(_: string, value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (ArrayBuffer.isView(value)) return value instanceof Uint8Array ? null : Array.from(value as unknown as ArrayLike<number>);
  return value;
}
