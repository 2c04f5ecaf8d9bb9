/**
 * Settings are refused here when they are not even the kind of number that could cross into wasm: `NaN` or half a
 * step. Ranges are the engine's to check, which knows the model.
 */

import { WebLoraError } from './errors.js';

const WHOLE_NUMBERS = new Set([
  'steps',
  'batchSize',
  'tokensPerPass',
  'memoryBudget',
  'warmupSteps',
  'evalSteps',
  'earlyStoppingPatience',
  'sampleSteps',
  'saveSteps',
  'examples',
  'gradientAccumulationSteps',
  'numCycles',
  'seed',
  'r',
  'maxLength',
  'contextLength',
  'maxNewTokens',
  'topLogprobs',
  'maxShardBytes',
]);

/** Throws `bad_setting` for the first number that is not finite, or not whole where it counts something. */
export function checkSettings(settings: object): void {
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value !== 'number') continue;
    const whole = WHOLE_NUMBERS.has(name);
    if (whole ? Number.isSafeInteger(value) && value >= 0 : Number.isFinite(value)) continue;
    const allowed = whole ? 'a whole number, 0 or more' : 'a finite number';
    throw new WebLoraError({
      code: 'bad_setting',
      message: `${name} is ${value}, allowed is ${allowed}`,
      name,
      value: String(value),
      allowed,
    });
  }
}
