/**
 * Errors as they leave this package: one class, told apart by `code`.
 *
 * The engine's errors are plain objects when they cross from the worker; `WebLoraError` makes them a class
 * again with every field they carried.
 */

/** What went wrong, as a name that programs can rely on. */
export type ErrorCode =
  /** A file is broken, truncated or not what it claims. */
  | 'bad_file'
  /** The file is sound but needs something this version does not implement; `field` names it. */
  | 'unsupported'
  /** A setting lies outside its range; see `name`, `value`, `allowed`. */
  | 'bad_setting'
  /** The examples cannot be trained on; see `file` and `line`. */
  | 'bad_data'
  /** The adapter does not belong to the loaded model. */
  | 'adapter_mismatch'
  /** A step that must come first is missing: load a model, give examples. */
  | 'not_ready'
  /** This browser has no WebGPU, or the page is not served from https or localhost. */
  | 'no_webgpu'
  /** WebGPU is there, but no GPU answers. */
  | 'no_adapter'
  /**
   * The GPU went away, or answered nothing for too long. Create a new engine. Whole are the runs that are kept, up to their
   * newest checkpoint, the models of the Hub, and on this side `lastAdapter`; gone is what was on the GPU.
   */
  | 'device_lost'
  /**
   * Not enough GPU memory; see `neededBytes`. What was begun is given back; of a training's step some may have been done:
   * whole is then what `device_lost` leaves whole.
   */
  | 'out_of_memory'
  /** Ten steps in a row had a loss or gradients that were not finite. None of them was taken: the adapter is whole. */
  | 'diverged'
  /** The GPU refused a command, or computes wrong sums. Of a step some may have been done, as in `out_of_memory`. */
  | 'gpu'
  /** A URL could not be read. */
  | 'network'
  /** The Hub has no such repository, revision or file. */
  | 'not_found'
  /** The model is gated: accept its terms on the Hub and give a token. */
  | 'gated'
  /** The Hub does not know the access token. */
  | 'bad_token'
  /** The Hub has a repository of this name already. */
  | 'name_taken'
  /** The access token may not do this. */
  | 'no_rights'
  /** The tab's storage is full; see `neededBytes`. */
  | 'no_space'
  /** The model is being downloaded, here or in another tab. */
  | 'in_use'
  /** The caller asked to stop. */
  | 'cancelled'
  /** The engine stopped on a fault of its own. Create a new engine; the same is whole as of `device_lost`. */
  | 'crashed'
  /** The engine was disposed of. */
  | 'disposed';

/** An error as plain data, the shape in which it crosses from the worker. */
export interface ErrorData {
  code: ErrorCode;
  message: string;
  /** File at fault, as the user knows it. */
  file?: string;
  /** 1-based line in `file`. */
  line?: number;
  /** Setting at fault, as the caller spelled it. */
  name?: string;
  /** What the setting was. */
  value?: string;
  /** What the setting may be. */
  allowed?: string;
  /** Config field or feature that is not implemented. */
  field?: string;
  /** GPU memory asked for, or storage missing, in bytes, where known. */
  neededBytes?: number;
}

/** Every error this package throws or rejects with. */
export class WebLoraError extends Error {
  override readonly name = 'WebLoraError';
  readonly code: ErrorCode;
  readonly file: string | undefined;
  readonly line: number | undefined;
  /** The setting at fault: `name` in the data, which on an `Error` is the class's own. */
  readonly setting: string | undefined;
  readonly value: string | undefined;
  readonly allowed: string | undefined;
  readonly field: string | undefined;
  readonly neededBytes: number | undefined;
  /** The same, as plain data that can be posted. */
  readonly data: ErrorData;

  constructor(data: ErrorData) {
    super(data.message);
    this.data = data;
    this.code = data.code;
    this.file = data.file;
    this.line = data.line;
    this.setting = data.name;
    this.value = data.value;
    this.allowed = data.allowed;
    this.field = data.field;
    this.neededBytes = data.neededBytes;
  }
}

/** Whatever was thrown, as data: ours as it is, anything else as the crash that it is. */
export function errorData(thrown: unknown): ErrorData {
  if (thrown instanceof WebLoraError) return thrown.data;
  if (isErrorData(thrown)) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return { code: 'crashed', message: `The engine stopped on a fault of its own (${message}).` };
}

function isErrorData(thrown: unknown): thrown is ErrorData {
  return (
    typeof thrown === 'object' &&
    thrown !== null &&
    !(thrown instanceof Error) &&
    'code' in thrown &&
    typeof thrown.code === 'string' &&
    'message' in thrown &&
    typeof thrown.message === 'string'
  );
}
