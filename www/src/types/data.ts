/** Examples: their files, how these are read, and what was found in them. */

/** A file of examples, or its content. */
export type DataInput = Blob | string | Uint8Array<ArrayBuffer>;

/** How a file of examples is written. */
export type DataFormat = 'jsonl' | 'json' | 'csv' | 'tsv' | 'parquet' | 'text';

/** What the columns of a file say it is. */
export type DataShape =
  | 'messages'
  | 'sharegpt'
  | 'alpaca'
  | 'prompt_completion'
  | 'question_answer'
  | 'text'
  | 'preference'
  | 'mapped';

/**
 * What the columns of a file are: each the name of a column, or a template such as `Q: {question}` (`{{` and `}}` are
 * brackets). Needed are `prompt` and `completion`, or `text`, or `messages`, or `chosen` and `rejected`.
 */
export interface DataMapping {
  prompt?: string;
  completion?: string;
  text?: string;
  messages?: string;
  /** What a conversation begins with. */
  system?: string;
  chosen?: string;
  rejected?: string;
  /**
   * Whether `prompt` and `completion` are a question and its answer, put through the model's chat template. Default: where
   * it has one. Otherwise they are one text, of which the second part is learned.
   */
  chat?: boolean;
}

/** What a file is, before there is a model to read it for. */
export interface DataSummary {
  format: DataFormat;
  /** Undefined where a mapping has to say it. */
  shape?: DataShape;
  columns: string[];
  rows: number;
  /** The first rows, long values shortened. */
  sample: Record<string, unknown>[];
}

/** How to read examples. */
export interface LoadDatasetOptions {
  /** File name to use in messages, where the data itself has none. */
  name?: string;
  /** Longer examples are cut to this many tokens; texts go on in the next example. */
  maxLength?: number;
  /** Of all files; told by content and name where not given. */
  format?: DataFormat;
  /** Told by the columns where not given. */
  mapping?: DataMapping;
  /** Examples to evaluate on, from files of their own. Those that are also trained on are left out. */
  evalData?: DataInput | readonly DataInput[];
  /** Share of the examples that is held out to evaluate on, at most 0.5. Default: none. */
  evalShare?: number;
  /** Which these are. */
  seed?: number;
}

/** How files are read; which these are is apart. */
export type DataSettings = Omit<LoadDatasetOptions, 'name' | 'evalData'>;

/** What is in a file of examples, after templates, tokens and masks. */
export interface DatasetReport {
  file: string;
  examples: number;
  /** How many of the examples are pairs of a chosen and a rejected answer: all or none. */
  preferencePairs: number;
  tokens: number;
  /** Tokens that the model is trained to say. */
  supervisedTokens: number;
  /** Examples cut to the maximum length. */
  truncated: number;
  /** Tokens in the longest example. */
  longest: number;
  /** Examples held out, which are in no other number here. */
  evalExamples: number;
  /** Their tokens. */
  evalTokens: number;
  /** Examples that are the same as an earlier one. They are trained on all the same. */
  duplicates: number;
  /** How many examples have `from` to `to` tokens, both included. */
  histogram: { from: number; to: number; count: number }[];
  /** Of the first file. */
  format: DataFormat;
  shape?: DataShape;
  files: { file: string; format: DataFormat; shape?: DataShape; examples: number }[];
  /** Lines (of Parquet, rows) that were left out, and why. */
  errors: { file: string; line: number; message: string }[];
  /** The first examples as the model sees them; of a pair, the chosen answer and then the rejected one. */
  preview: { file: string; line: number; pieces: { text: string; supervised: boolean }[] }[];
}
