/** The step in web-lora: the npm package as a page uses it, and the product that the wasm built for measuring exports. */

import { createEngine } from '../../dist/index.js';
import init, { benchmarkMatmul } from '../../../target/bench-pkg/web_lora.js';
import { ADAM, LORA } from '../shapes.mjs';

const FILES = ['config.json', 'model.safetensors', 'tokenizer.json'];

/** @param {string} name */
async function file(name) {
  return new File([await (await fetch(`/model/${name}`)).arrayBuffer()], name);
}

export class Ours {
  #engine;

  static async open() {
    await init();
    const ours = new Ours();
    ours.#engine = await createEngine();
    await ours.#engine.loadModel(await Promise.all(FILES.map(file)));
    await ours.#engine.loadDataset(await file('example.jsonl'));
    const [config, weights] = await Promise.all(['adapter_config.json', 'adapter_model.safetensors'].map(file));
    const [configBytes, weightBytes] = [await config.arrayBuffer(), await weights.arrayBuffer()];
    const { r } = await ours.#engine.loadAdapter({
      config: new Uint8Array(configBytes),
      weights: new Uint8Array(weightBytes),
    });
    if (r !== LORA.r) throw new Error(`the adapter has rank ${r}`);
    return ours;
  }

  get device() {
    return this.#engine.device;
  }

  /** Steps, each timed until its report is here. @param {number} n */
  async steps(n) {
    const steps = [];
    let last = 0;
    const now = (/** @type {number} */ time) => ([last, time] = [time, time - last])[1];
    await this.#engine.train(
      { ...ADAM, steps: n, batchSize: 1, warmupSteps: 0, schedule: 'constant', weightDecay: 0, maxGradNorm: 0 },
      {
        onPlan: () => void now(performance.now()),
        onStep: ({ loss, gradNorm, tokens }) => steps.push({ loss, gradNorm, tokens, ms: now(performance.now()) }),
      },
    );
    return steps;
  }

  /** Milliseconds of each product, `[tokens, in] x [out, in]` or its way back. */
  async products(products, tokens, repeats) {
    const shapes = products.map(({ out, in: inputs, transposed }) => ({ n: out, k: inputs, transposed }));
    return Array.from(await benchmarkMatmul('F32', tokens, shapes, repeats), (seconds) => 1000 * seconds);
  }
}
