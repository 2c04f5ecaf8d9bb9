/**
 * The step in TensorFlow.js: its Adam's `minimize` over variables (it has no AdamW; without decay they are the same),
 * frozen weights as plain tensors. What is made on the way is tidied up by `minimize` and `variableGrads` themselves.
 */

import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-webgpu';
import { ADAM, CONFIG, LORA, TOKENS } from '../shapes.mjs';
import { rotary } from './model.mjs';
import { timed } from './timed.mjs';

const { hidden_size, vocab_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim } = CONFIG;
const HEADS_PER_KV = num_attention_heads / num_key_value_heads;

/** @param {import('./model.mjs').Tensor} tensor */
const tensor = ({ shape, data }) => tf.tensor(data, shape);

export class Tfjs {
  #frozen = new Map();
  #factors = new Map();
  #wanted;
  #mask;
  #adam = tf.train.adam(ADAM.learningRate, ADAM.beta1, ADAM.beta2, ADAM.eps);

  /** @param {import('./model.mjs').Model} model */
  static async open(model) {
    await tf.setBackend('webgpu');
    await tf.ready();
    if (tf.getBackend() !== 'webgpu') throw new Error('TensorFlow.js finds no WebGPU');
    const peer = new Tfjs();
    const inputs = Object.entries({ rows: model.rows, ...rotary() });
    for (const [name, weight] of [...model.weights, ...inputs]) peer.#frozen.set(name, tensor(weight));
    for (const [name, factor] of model.factors) peer.#factors.set(name, tf.variable(tensor(factor), true, name));
    peer.#wanted = tf.oneHot(tf.tensor1d(model.targets, 'int32'), vocab_size);
    // Rows are the tokens of each of the query heads that share a key head.
    const hidden = (at) => (at % TOKENS > Math.floor(at / TOKENS) % TOKENS ? -1e9 : 0);
    const shape = [HEADS_PER_KV * TOKENS, TOKENS];
    peer.#mask = tf.tensor(Float32Array.from({ length: shape[0] * shape[1] }, (_, at) => hidden(at)), shape);
    return peer;
  }

  #linear(x, name) {
    const low = tf.matMul(x, this.#factors.get(`${name}.lora_A.weight`), false, true);
    const update = tf.matMul(low, this.#factors.get(`${name}.lora_B.weight`), false, true);
    const main = tf.matMul(x, this.#frozen.get(`${name}.weight`), false, true);
    return main.add(update.mul(LORA.lora_alpha / LORA.r));
  }

  #norm(x, name) {
    const scale = x.square().mean(-1, true).add(CONFIG.rms_norm_eps).rsqrt();
    return x.mul(scale).mul(this.#frozen.get(`${name}.weight`));
  }

  #rotate(x) {
    const [left, right] = tf.split(x, 2, -1);
    const turned = tf.concat([right.neg(), left], -1);
    return x.mul(this.#frozen.get('cos')).add(turned.mul(this.#frozen.get('sin')));
  }

  #attention(h, name) {
    const heads = (proj, n) => this.#linear(h, `${name}.${proj}`).reshape([TOKENS, n, head_dim]);
    // Query heads that share a key head lie below each other in one matrix, so that keys need no copies.
    const grouped = (x) => x.transpose([1, 0, 2]).reshape([num_key_value_heads, -1, head_dim]);
    const q = grouped(this.#rotate(heads('q_proj', num_attention_heads)));
    const k = grouped(this.#rotate(heads('k_proj', num_key_value_heads)));
    const v = grouped(heads('v_proj', num_key_value_heads));
    const scores = tf.matMul(q, k, false, true).mul(head_dim ** -0.5).add(this.#mask);
    const mixed = tf.matMul(tf.softmax(scores), v).reshape([num_attention_heads, TOKENS, head_dim]);
    return this.#linear(mixed.transpose([1, 0, 2]).reshape([TOKENS, hidden_size]), `${name}.o_proj`);
  }

  #mlp(h, name) {
    const gate = this.#linear(h, `${name}.gate_proj`);
    return this.#linear(gate.mul(gate.sigmoid()).mul(this.#linear(h, `${name}.up_proj`)), `${name}.down_proj`);
  }

  #meanLoss() {
    let x = this.#frozen.get('rows');
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      const name = `model.layers.${layer}`;
      x = x.add(this.#attention(this.#norm(x, `${name}.input_layernorm`), `${name}.self_attn`));
      x = x.add(this.#mlp(this.#norm(x, `${name}.post_attention_layernorm`), `${name}.mlp`));
    }
    const logits = tf.matMul(this.#norm(x, 'model.norm'), this.#frozen.get('model.embed_tokens.weight'), false, true);
    return tf.losses.softmaxCrossEntropy(this.#wanted, logits.slice([0, 0], [TOKENS - 1, vocab_size]));
  }

  /** Gradients by factor, without an update. */
  async gradients() {
    const { value, grads } = tf.variableGrads(() => this.#meanLoss(), [...this.#factors.values()]);
    const read = Object.entries(grads).map(async ([name, grad]) => [name, await grad.data()]);
    const result = new Map(await Promise.all(read));
    tf.dispose([value, grads]);
    return result;
  }

  /** Steps, each timed until its loss (that before the update) is here. @param {number} n */
  async steps(n) {
    return timed(n, () => this.#step());
  }

  async #step() {
    const loss = this.#adam.minimize(() => this.#meanLoss(), true, [...this.#factors.values()]);
    const value = (await loss.data())[0];
    loss.dispose();
    return value;
  }

  /** Runs a product `repeats` times; milliseconds for one, and the result. */
  async product(x, w, transposed, repeats) {
    const [left, right] = [tensor(x), tensor(w)];
    const run = () => tf.matMul(left, right, false, !transposed);
    const first = run();
    const result = await first.data();
    const start = performance.now();
    const results = Array.from({ length: repeats }, run);
    await results[repeats - 1].data();
    const ms = (performance.now() - start) / repeats;
    tf.dispose([left, right, first, results]);
    return { ms, result };
  }
}
