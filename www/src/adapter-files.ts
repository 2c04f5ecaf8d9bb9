/** An adapter as one zip that opens in PEFT once unpacked, and back from a zip or a folder. */

import { strToU8, unzipSync, zipSync } from 'fflate';
import { WebLoraError } from './errors.js';
import { modelCard, type AdapterCard } from './model-card.js';
import type { AdapterFiles, ExportedFile } from './types.js';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
/** No adapter is this large; a zip that claims so is not worth its memory. */
const MAX_BYTES = 1 << 30;

/** The adapter's two files and a README.md, zipped. */
export function packAdapter(files: AdapterFiles, card: AdapterCard): Blob {
  return packFiles(adapterFolder(files, card));
}

/** The adapter's two files and a README.md. */
export function adapterFolder(files: AdapterFiles, card: AdapterCard): ExportedFile[] {
  return [...filesOf(files), { name: 'README.md', bytes: strToU8(modelCard(card)) }];
}

/** Files of an adapter, zipped. */
export function packFiles(files: readonly ExportedFile[]): Blob {
  // Trained floats do not compress: store them.
  const level = (name: string) => (name.endsWith('.safetensors') ? 0 : 6);
  const zip = zipSync(Object.fromEntries(files.map(({ name, bytes }) => [name, [bytes, { level: level(name) }]])));
  return new Blob([zip], { type: 'application/zip' });
}

/** The adapter's two files under PEFT's names. */
export function filesOf({ config, weights }: AdapterFiles): ExportedFile[] {
  return [
    { name: CONFIG, bytes: config },
    { name: WEIGHTS, bytes: weights },
  ];
}

/** The two files out of a zip, or out of a folder's files. */
export async function unpackAdapter(from: File | Blob | readonly File[]): Promise<AdapterFiles> {
  const files = from instanceof Blob ? [from] : from;
  const first = files[0];
  const found =
    files.length === 1 && first && !nameOf(first).endsWith('.safetensors')
      ? await unzip(first)
      : new Map(await Promise.all(files.map(async (file) => [nameOf(file), await bytesOf(file)] as const)));
  const config = found.get(CONFIG);
  const weights = found.get(WEIGHTS);
  const file = files.length === 1 && first ? nameOf(first) : 'adapter';
  if (!config) throw badFile(file, `there is no ${CONFIG} in it`);
  if (!weights) throw badFile(file, `there is no ${WEIGHTS} in it`);
  return { config, weights };
}

async function unzip(file: Blob): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const bytes = await bytesOf(file);
  const found = new Map<string, Uint8Array<ArrayBuffer>>();
  try {
    const entries = unzipSync(bytes, {
      filter: ({ name, originalSize }) => {
        const wanted = [CONFIG, WEIGHTS].includes(baseName(name));
        if (wanted && originalSize > MAX_BYTES) throw badFile(nameOf(file), `${name} claims ${originalSize} bytes`);
        return wanted;
      },
    });
    for (const [path, data] of Object.entries(entries)) found.set(baseName(path), data as Uint8Array<ArrayBuffer>);
  } catch (error) {
    if (error instanceof WebLoraError) throw error;
    throw badFile(nameOf(file), 'this is not a zip file, or it is damaged');
  }
  return found;
}

async function bytesOf(file: Blob): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await file.arrayBuffer());
}

function nameOf(file: Blob): string {
  return file instanceof File ? file.name : 'adapter.zip';
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function badFile(file: string, message: string): WebLoraError {
  return new WebLoraError({ code: 'bad_file', file, message: `${file}: ${message}.` });
}
