/** What can be asked of adapters and made of them without training. */

import type { AdapterFiles } from './adapter.js';

/** What an adapter does to its weights: ΔW = scaling · B A of each module, by its singular values. */
export interface AdapterSpectrum {
  modules: ModuleSpectrum[];
  parameters: number;
  baseParameters: number;
  /** ‖ΔW‖ over all modules together. */
  norm: number;
}

/** The same of one module. */
export interface ModuleSpectrum {
  /** Path of the module. */
  name: string;
  /** Rows (outputs) and columns (inputs) of its weight. */
  shape: [number, number];
  r: number;
  /** The largest first. */
  singularValues: number[];
  /**
   * As many directions as would have this entropy if all were used alike: exp(−Σ p ln p), p = σ / Σ σ (Roy & Vetterli
   * 2007). From 1 to r; 0 where nothing was learned.
   */
  effectiveRank: number;
  /** ‖ΔW‖² over the square of the largest singular value. From 1 to r; 0 where nothing was learned. */
  stableRank: number;
  /** The share of ‖ΔW‖² that the first one, two, … directions keep. */
  kept: number[];
  /** ‖ΔW‖, Frobenius. */
  norm: number;
}

/** One of the two. */
export interface CompressOptions {
  /** The largest rank of a module. */
  r?: number;
  /** The share of each module's ‖ΔW‖² to keep, by as small a rank as will do: 0.99. */
  keep?: number;
}

/**
 * An adapter to add to others, as often as its weight says, which may be negative: by its name, as files, or the one in
 * use where neither is given.
 */
export interface WeightedAdapter {
  name?: string;
  files?: AdapterFiles;
  weight: number;
}

/** How to add adapters up. */
export interface CombineOptions {
  /**
   * As peft's `combination_type`: `cat` is exact and adds the ranks up; `svd` is the nearest of a rank; `linear` adds As
   * and Bs of one rank, which is rough. Default: `cat`.
   */
  how?: 'cat' | 'svd' | 'linear';
  /** With `svd`: the largest rank of a module. Default: the largest there is among the adapters. */
  r?: number;
}

/** An adapter made of others, and how far it is from what was asked for: ΔW as it was, or the sum. */
export interface RebuiltAdapter {
  files: AdapterFiles;
  modules: { name: string; r: number; error: number; relativeError: number }[];
  /** ‖ΔW − ΔW′‖ over all modules together. */
  error: number;
  /** That over ‖ΔW‖. */
  relativeError: number;
  parameters: number;
}
