/** web-lora: fine-tune small language models with LoRA in a browser tab. Only what is exported here is public. */

export { createEngine, type Engine } from './client.js';
export { WebLoraError, type ErrorCode, type ErrorData } from './errors.js';
export { hubCache, listHubFiles } from './hub/index.js';
export { runs } from './runs/index.js';
export { packAdapter, packFiles, type AdapterCard } from './adapter-files.js';
export { trainingScript, type ScriptSettings } from './training-script.js';
export type { Task } from './task.js';
export type * from './types.js';
