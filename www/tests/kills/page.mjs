/** Trains the tiny model as a run that is kept, or goes on with one; called by the test. */

import { createEngine, runs } from '../../dist/index.js';

const STEPS = 120;
/** Evaluations and samples too, as they are told and kept as well. */
const OPTIONS = { steps: STEPS, batchSize: 2, learningRate: 0.01, warmupSteps: 5, saveSteps: 3, evalSteps: 40, samplePrompts: ['Hi'], sampleSteps: 50 };

/** Steps told so far, and what could not be saved. */
let told = 0;
/** @type {string[]} */
const unsaved = [];
const callbacks = {
  onStep: () => {
    told += 1;
  },
  /** @param {Error} error */
  onUnsaved: (error) => unsaved.push(error.message),
};

const page = {
  /** @param {string} examples */
  async start(examples) {
    const engine = await createEngine();
    await engine.loadModel(new URL('/model/', location.href));
    await engine.loadDataset(examples, { name: 'examples.jsonl', evalShare: 0.25 });
    await engine.newAdapter({ r: 4, loraAlpha: 8, seed: 7 });
    return engine.train(OPTIONS, { run: 'killed', ...callbacks });
  },

  /** @param {string} id */
  resume: async (id) => (await createEngine()).resumeRun(id, callbacks),

  told: () => told,
  unsaved: () => unsaved,
  list: () => runs.list(),
  /** @param {string} id */
  remove: (id) => runs.delete(id),

  /** @param {string} id */
  async outcome(id) {
    const files = await runs.adapter(id);
    const digest = files && new Uint8Array(await crypto.subtle.digest('SHA-256', files.weights));
    const { steps, evaluations, samples } = await runs.metrics(id);
    return { adapter: digest?.join(' '), losses: steps.map(({ step, loss }) => [step, loss]), evaluations, samples };
  },
};
Object.assign(globalThis, { page });
