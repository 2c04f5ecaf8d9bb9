/** Files of examples: as they are given, as they are kept, and as the engine reads them. */

import type { DataFormat, DataInput } from './types.js';

/** A file of examples, as it was given. */
export interface DataFile {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
  /** Where it is not to be told by content and name. */
  format?: DataFormat | undefined;
}

/** The bytes of what was given, each with its name; what has none is called `name`. */
export async function dataFiles(data: DataInput | readonly DataInput[], name = 'examples'): Promise<DataFile[]> {
  const inputs: readonly DataInput[] = Array.isArray(data) ? data : [data as DataInput];
  return Promise.all(
    inputs.map(async (input, at) => ({
      name: input instanceof File ? (inputs.length === 1 && name !== 'examples' ? name : input.name) : at === 0 ? name : `${name} ${at + 1}`,
      bytes: new Uint8Array(await new Blob([input]).arrayBuffer()),
    })),
  );
}

/** Files as the engine reads them: Parquet made into JSON lines. */
export async function readable(files: readonly DataFile[], format?: DataFormat): Promise<DataFile[]> {
  return Promise.all(
    files.map(async (file) => {
      const [a, b, c, d] = file.bytes;
      const magic = a === 0x50 && b === 0x41 && c === 0x52 && d === 0x31;
      if (!magic && (file.format ?? format) !== 'parquet') return file;
      const { parquetToJsonLines } = await import('./parquet.js');
      return { name: file.name, bytes: await parquetToJsonLines(file.name, file.bytes), format: 'parquet' };
    }),
  );
}
