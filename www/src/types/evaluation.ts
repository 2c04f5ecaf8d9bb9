/** Scores over examples. */

/** Scores over some examples. */
export interface Evaluation {
  /** Mean cross-entropy of their supervised tokens, in nats. */
  loss: number;
  /** `exp(loss)`: among how many tokens the model might as well have guessed. */
  perplexity: number;
  /** Share of the supervised tokens that the model holds to be the likeliest, each after the true ones before it. */
  accuracy: number;
  /** Share of the examples that a model which always says the likeliest would answer word for word. */
  exactMatch: number;
  examples: number;
  /** Supervised ones. */
  tokens: number;
}

/** An evaluation in the course of a run. */
export interface EvalStep extends Evaluation {
  /** After how many steps. */
  step: number;
  /** No earlier one had so low a loss. */
  best: boolean;
}

/** What to evaluate. */
export interface EvaluateOptions {
  /** Those held out (the default), or those trained on. */
  data?: 'eval' | 'train';
  /** Of the adapter; 0 is the base model. */
  strength?: number;
}
