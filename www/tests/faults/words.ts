/**
 * What is said of a GPU that cannot do: which limit it lacks, that it is software, that its sums are wrong, what would need
 * less memory; and that what was begun is given back.
 *
 *     node words.mjs --dist FOLDER --model FOLDER
 */

import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import type { Engine } from '../../dist/index.js';
import { openEngines } from './engines.js';
import { BYTES, FAILED } from './order.js';
import { CHATS, codeOf } from './scenario.js';

const { values } = parseArgs({ options: { dist: { type: 'string', default: '' }, model: { type: 'string', default: '' } } });
const engines = await openEngines(values);
const { webLora, numbers } = engines;
const { createEngine, WebLoraError } = webLora;

const load = (engine: Engine) => engine.loadModel(values.model, { contextLength: 64 });
const begin = (engine: Engine) => engine.startTraining({ steps: 1, tokensPerPass: 64 });

/** The error that this ends in, with its code. */
async function failure(work: Promise<unknown>): Promise<[code: string, message: string, neededBytes: number | undefined]> {
  const error: unknown = await work.then(() => undefined, (error: unknown) => error);
  const code = codeOf(webLora, error);
  assert(error instanceof WebLoraError);
  return [code, error.message, error.neededBytes];
}

// A limit below WebGPU's own is named.
for (const limit of ['maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupStorageSize', 'maxBufferSize']) {
  engines.prepare(undefined, { limits: { [limit]: 4 } });
  const [code, message] = await failure(createEngine());
  assert.equal(code, 'no_adapter');
  assert.match(message, new RegExp(`the GPU's ${limit} is 4, and \\d+ is needed`));
}

// A program on the CPU is called one.
engines.prepare(undefined, { description: 'SwiftShader Device (LLVM 16)' });
const software = await createEngine();
assert.equal(software.device.software, true);
software.dispose();

// The null GPU computes nothing: whoever measures its products finds them wrong, and refuses it.
engines.prepare(undefined);
assert.deepEqual((await failure(createEngine())).slice(0, 2), [
  'gpu',
  'the GPU refused a command: no way to compute products comes out right here (direct not used: the GPU refused a command: it ' +
    'computes wrong sums on this device, tiled not used: the GPU refused a command: it computes wrong sums on this device)',
]);

// What memory was needed for, and what needs less; then all of it is there again, and the next attempt hears nothing of it.
for (const [phase, names] of [
  ['model', /GPU has no more for the model of \d+ MiB: .*contextLength.*quantized/],
  ['training', /GPU has no more for training of \d+ MiB: .*maxLength.*tokensPerPass.*memoryBudget.*adamw_8bit.*smaller r/],
] as const) {
  const at = await callsBefore(phase);
  let failed = 0;
  // The first buffer of the phase, one in its midst, and a late one.
  for (const call of [0, 12, 20]) {
    engines.prepare({ at: at + call, kind: 'memory' });
    const engine = await createEngine({ variant: 'direct' });
    const atFirst = numbers[BYTES];
    if (phase === 'training') await ready(engine);
    const before = numbers[BYTES];
    const ended = failure(phase === 'model' ? load(engine) : begin(engine));
    const [code, message, needed] = await ended.catch(() => ['none', '', 0] as const);
    failed += numbers[FAILED] ?? 0;
    if (numbers[FAILED] === 0) continue;
    assert.equal(code, 'out_of_memory');
    assert.match(message, names);
    assert(needed !== undefined && needed > 700_000, `${needed} bytes`);
    assert.equal(numbers[BYTES], phase === 'model' ? atFirst : before);
    await ready(engine);
    await begin(engine);
    engine.dispose();
  }
  assert(failed >= 2, `${failed} faults in ${phase}`);
}

console.log('said as it should be');
process.exit(0);

async function ready(engine: Engine): Promise<void> {
  await load(engine);
  await engine.loadDataset(CHATS);
  await engine.newAdapter({ r: 2, targetModules: ['q_proj'] });
}

/** How many calls come before a phase. */
async function callsBefore(phase: 'model' | 'training'): Promise<number> {
  engines.prepare(undefined);
  const engine = await createEngine({ variant: 'direct' });
  if (phase === 'training') await ready(engine);
  const calls = engines.calls().length;
  engine.dispose();
  return calls;
}
