/** A model with its adapter as one model. */

/** What the numbers of a merged model can be. */
export type MergeDType = 'f32' | 'f16' | 'bf16';

/** How to write a merged model. */
export interface MergeOptions {
  /** What its numbers are rounded to. Default: what the base has, f16 where the base is quantised. */
  dtype?: MergeDType;
  /** Largest file of weights in bytes, unless one tensor is larger. Default: 2 GB. */
  maxShardBytes?: number;
}

/** What a merged model is. */
export interface MergeReport {
  dtype: MergeDType;
  /** The commonest type of the base's weights, as in {@link ModelInfo}. */
  baseDtype: string;
  /**
   * The base is quantised. What is merged then is the numbers that its blocks stand for, which take their full size again;
   * made into blocks once more they would be rounded to steps that are mostly larger than what was learned.
   */
  baseQuantized: boolean;
  /** Whether the tokenizer's files are those of the model, were made of a GGUF file's metadata, or are missing. */
  tokenizer: 'copied' | 'made' | 'none';
  /** Matrices that the adapter changed. */
  merged: number;
  /** Of all files. */
  sizeBytes: number;
}

/** One file of a merged model. */
export interface MergedFile {
  name: string;
  /** In bytes. */
  size: number;
  /** Its bytes, made as they are read; from the beginning each time. */
  stream(): ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** A model with its adapter as one model: the files of a Hugging Face folder. */
export interface MergedModel extends MergeReport {
  files: MergedFile[];
  /** Lets go of what the worker keeps for it; files are read no more. */
  close(): Promise<void>;
}

/** How far a merged model is from its base with the adapter, in logits of the token after each prompt. */
export interface MergedCheck {
  /** The largest difference between the two. */
  off: number;
  /** The largest difference that the adapter makes to its base, to compare with. */
  moved: number;
  /** Both find the same token the likeliest, of every prompt. */
  sameTokens: boolean;
}
