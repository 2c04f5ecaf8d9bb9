/** Runs that the tab keeps. */

import type { AdapterOptions } from './adapter.js';
import type { DataSettings } from './data.js';
import type { EvalStep } from './evaluation.js';
import type { HubSource } from './hub.js';
import type { Quantization } from './model.js';
import type { Sample, TrainOptions, TrainStep } from './training.js';

/** `interrupted`: its tab was closed or died. All but `done` can be resumed. */
export type RunStatus = 'running' | 'interrupted' | 'stopped' | 'failed' | 'done';

/** All that it takes to repeat a run, given its model and its files of examples. */
export interface RunConfig {
  model: {
    name: string;
    modelType: string;
    parameters: number;
    dtype: string;
    /** Where it came from, of the Hub with the commit; undefined for files of this device. */
    source?: string | HubSource;
    options: { contextLength?: number; quantize?: Quantization };
  };
  /** The last `evalFiles` of the files are to evaluate on. */
  data: { files: string[]; evalFiles?: number; options: DataSettings };
  /** Undefined where the run went on from an adapter that there was. */
  adapter?: AdapterOptions;
  training: TrainOptions;
}

/** A run kept in the tab's storage. */
export interface RunInfo {
  id: string;
  name: string;
  /** Milliseconds since 1970. */
  created: number;
  updated: number;
  status: RunStatus;
  /** The last one that is kept. */
  step: number;
  steps: number;
  /** Of that step. */
  loss?: number;
  /** The lowest of its evaluations. */
  bestLoss?: number;
  config: RunConfig;
}

/** What was measured in a run. */
export interface RunMetrics {
  steps: TrainStep[];
  evaluations: EvalStep[];
  samples: Sample[];
}
