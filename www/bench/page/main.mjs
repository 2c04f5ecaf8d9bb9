/** What the driver calls in the page: each contender by name, behind the same few methods. */

import { PRODUCTS, TOKENS } from '../shapes.mjs';
import { loadModel } from './model.mjs';
import { Jax } from './jax.mjs';
import { Ours } from './ours.mjs';
import { Tfjs } from './tfjs.mjs';

const CONTENDERS = { 'web-lora': Ours, 'jax-js': Jax, tfjs: Tfjs };

/** A few exact results are enough to tell a product from something else. */
const CHECKED = 16;
const TOLERANCE = 1e-4;

class Bench {
  #model;
  #opened = {};

  /** @param {string} name */
  async open(name) {
    this.#model ??= await loadModel();
    this.#opened[name] = await CONTENDERS[name].open(this.#model);
    return this.#opened[name].device;
  }

  steps(name, n) {
    return this.#opened[name].steps(n);
  }

  /** Milliseconds of each of {@link PRODUCTS}; the peers' results are checked here, ours in the crate. */
  async products(name, repeats) {
    if (name === 'web-lora') return this.#opened[name].products(PRODUCTS, TOKENS, repeats);
    const times = [];
    for (const { out, in: inputs, transposed } of PRODUCTS) {
      const [terms, width] = transposed ? [out, inputs] : [inputs, out];
      const x = random([TOKENS, terms]);
      const w = random([out, inputs]);
      const { ms, result } = await this.#opened[name].product(x, w, transposed, repeats);
      checkProduct(name, x, w, transposed, result, width);
      times.push(ms);
    }
    return times;
  }

  /** Norm of each peer's gradients, and how far apart they are: the worst `‖a - b‖ / ‖b‖` of any factor. */
  async gradients(one, other) {
    const [a, b] = [await this.#opened[one].gradients(), await this.#opened[other].gradients()];
    const apart = [...b].map(([name, grad]) => {
      const twin = a.get(name);
      return norm([grad.map((value, i) => value - twin[i])]) / norm([grad]);
    });
    return {
      norms: { [one]: norm(a.values()), [other]: norm(b.values()) },
      factors: apart.length,
      worst: Math.max(...apart),
    };
  }
}

/** @param {Iterable<Float32Array>} tensors */
function norm(tensors) {
  let sum = 0;
  for (const tensor of tensors) for (const value of tensor) sum += value * value;
  return Math.sqrt(sum);
}

/** @param {number[]} shape */
function random(shape) {
  return { shape, data: Float32Array.from({ length: shape[0] * shape[1] }, () => 2 * Math.random() - 1) };
}

function checkProduct(name, x, w, transposed, result, width) {
  const [[rows, terms], columns] = [x.shape, w.shape[1]];
  if (result.length !== rows * width) throw new Error(`${name}: ${result.length} results for ${rows} x ${width}`);
  for (let i = 0; i < CHECKED; i++) {
    const [row, column] = [Math.floor(Math.random() * rows), Math.floor(Math.random() * width)];
    let sum = 0;
    for (let k = 0; k < terms; k++) {
      sum += x.data[row * terms + k] * w.data[transposed ? k * columns + column : column * columns + k];
    }
    const found = result[row * width + column];
    if (!(Math.abs(found - sum) < TOLERANCE * Math.sqrt(terms))) throw new Error(`${name}: ${found} for ${sum}`);
  }
}

globalThis.bench = new Bench();
