/** Trains the files chosen in the page, through the package; called by the driver. */

import { createEngine } from '../../dist/index.js';

/** @param {string} id */
const files = (id) => [.../** @type {HTMLInputElement} */ (document.getElementById(id)).files];

/** What the worker saw at each step. @param {number} steps */
globalThis.soak = async (steps) => {
  const engine = await createEngine();
  await engine.loadModel(files('model'));
  await engine.loadDataset(files('examples')[0]);
  const seen = [];
  await engine.train({ steps, batchSize: 2 }, { onStep: (step) => seen.push(step.seen) });
  return { device: engine.device.name, seen };
};
