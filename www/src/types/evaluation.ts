/** Scores over examples. */

import type { Loss, Rewards } from './training.js';

/**
 * Scores over some examples, or over preference pairs: these have the loss that they are trained with and `rewards`, and
 * the rest is of their chosen answers.
 */
export interface Evaluation {
  /** Mean cross-entropy of their supervised tokens, in nats; of pairs, the mean loss of `dpo` or `orpo`. */
  loss: number;
  /** The exponential of the cross-entropy: among how many tokens the model might as well have guessed. */
  perplexity: number;
  /** Share of the supervised tokens that the model holds to be the likeliest, each after the true ones before it. */
  accuracy: number;
  /** Share of the examples that a model which always says the likeliest would answer word for word. */
  exactMatch: number;
  examples: number;
  /** Supervised ones. */
  tokens: number;
  /** Of pairs. */
  rewards?: Rewards;
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
  /** By which loss pairs are scored: that of the training under way where not given, or else `dpo`. */
  loss?: Exclude<Loss, 'sft'>;
  /** As in a training, likewise; 0.1 without one. */
  beta?: number;
}
