/** What to answer, and what was answered. */

/** One message of a conversation. */
export interface Message {
  role: string;
  content: string;
  /** What else the model's template may ask for: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`. */
  [field: string]: unknown;
}

/** What to answer, and how. */
export interface GenerateOptions {
  /** A conversation, put through the model's chat template. */
  messages?: Message[];
  /** Plain text to go on from, instead of `messages`. */
  prompt?: string;
  maxNewTokens?: number;
  /** 0 always takes the likeliest token. */
  temperature?: number;
  topP?: number;
  seed?: number;
  /** 0 is the base model, 1 the adapter, between is between, 2 twice what was learned; from -4 to 4. */
  strength?: number;
  /**
   * Tells how likely each token was, and so many of the likeliest ones in its place, 0 to 20. Costs a row of numbers as
   * long as the vocabulary for each token. Default: nothing is told.
   */
  topLogprobs?: number;
}

/** What to hear of an answer. */
export interface GenerateCallbacks {
  /** Text as it comes, in pieces. */
  onToken?: (text: string) => void;
  /** Stops early; the answer so far is the result. */
  signal?: AbortSignal;
}

/** An answer. */
export interface GenerateResult {
  text: string;
  tokens: number;
  promptTokens: number;
  stopped: 'end' | 'length' | 'cancelled';
  /** Where `topLogprobs` was given: of each token. */
  logprobs?: TokenLogprobs[];
}

/** A token and how likely it was. */
export interface TokenLogprob {
  /** What it adds to the text. */
  text: string;
  /** The natural logarithm of its probability, by the model's own distribution whatever `temperature` and `topP` are. */
  logprob: number;
}

/** A token of an answer, and what else might have come. */
export interface TokenLogprobs extends TokenLogprob {
  /** The likeliest first. */
  top: TokenLogprob[];
}

/** What to give the logits of. */
export interface LogitsOptions {
  /** A conversation, put through the model's chat template. */
  messages?: Message[];
  /** Plain text, instead of `messages`. */
  prompt?: string;
  /** Of the adapter; 0 is the base model. */
  strength?: number;
}
