/** web-lora: fine-tune small language models with LoRA in a browser tab. Only what is exported here is public. */

export { createEngine, type Engine } from './client.js';
export { WebLoraError, type ErrorCode, type ErrorData } from './errors.js';
export { hubCache, listHubFiles } from './hub/index.js';
export { pushToHub } from './hub/push.js';
export { runs } from './runs/index.js';
export { adapterFolder, packAdapter, packFiles } from './adapter-files.js';
export { modelCard, type AdapterCard } from './model-card.js';
export type { ScriptFile } from './script-data.js';
export { trainingScript, type ScriptSettings } from './training-script.js';
export type { Task } from './task.js';
export type * from './types.js';
