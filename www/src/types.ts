/** What users of the package pass in and get back. Names follow Hugging Face, PEFT and PyTorch, in camelCase. */

export type * from './types/device.js';
export type * from './types/model.js';
export type * from './types/hub.js';
export type * from './types/data.js';
export type * from './types/adapter.js';
export type * from './types/adapter-tools.js';
export type * from './types/merged.js';
export type * from './types/training.js';
export type * from './types/evaluation.js';
export type * from './types/cost.js';
export type * from './types/runs.js';
export type * from './types/answers.js';
