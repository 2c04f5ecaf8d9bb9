/**
 * The step in jax-js, as its README advises: the whole of it under one `jit`, gradients by `valueAndGrad`, arrays owned
 * and handed on by `.ref`. Its optimisers are a package of their own, whose Adam is these same operations.
 */

import { blockUntilReady, defaultDevice, grad, init, jit, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax';
import { ADAM, CONFIG, LORA, TOKENS } from '../shapes.mjs';
import { rotary } from './model.mjs';
import { timed } from './timed.mjs';

const { hidden_size, vocab_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim } = CONFIG;

/** @param {import('./model.mjs').Tensor} tensor */
const array = ({ shape, data }) => np.array(data).reshape(shape);

/** @param {Map<string, import('./model.mjs').Tensor>} tensors */
const arrays = (tensors) => Object.fromEntries([...tensors].map(([name, tensor]) => [name, array(tensor)]));

function rmsNorm(x, weight) {
  const meanSquare = x.ref.mul(x.ref).mean(-1, { keepdims: true });
  return x.div(np.sqrt(meanSquare.add(CONFIG.rms_norm_eps))).mul(weight);
}

function rotate(x, cos, sin) {
  const [left, right] = np.split(x.ref, 2, -1);
  return x.mul(cos).add(np.concatenate([right.mul(-1), left], -1).mul(sin));
}

/** Mean cross-entropy. Takes its arguments: whoever wants them again passes references. */
function meanLoss(factors, frozen) {
  const linear = (x, name) => {
    const low = np.dot(x.ref, factors[`${name}.lora_A.weight`].ref.transpose());
    const update = np.dot(low, factors[`${name}.lora_B.weight`].ref.transpose()).mul(LORA.lora_alpha / LORA.r);
    return np.dot(x, frozen[`${name}.weight`].ref.transpose()).add(update);
  };
  const norm = (x, name) => rmsNorm(x, frozen[`${name}.weight`].ref);
  let x = frozen.rows.ref;
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const [attention, mlp] = [`model.layers.${layer}.self_attn`, `model.layers.${layer}.mlp`];
    const heads = (x, name, n) => linear(x, `${attention}.${name}`).reshape([TOKENS, n, head_dim]);
    const turned = (x) => rotate(x, frozen.cos.ref, frozen.sin.ref);
    const h = norm(x.ref, `model.layers.${layer}.input_layernorm`);
    const q = turned(heads(h.ref, 'q_proj', num_attention_heads));
    const k = turned(heads(h.ref, 'k_proj', num_key_value_heads));
    const v = heads(h, 'v_proj', num_key_value_heads);
    const mixed = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([TOKENS, hidden_size]);
    x = x.add(linear(mixed, `${attention}.o_proj`));
    const m = norm(x.ref, `model.layers.${layer}.post_attention_layernorm`);
    const gated = nn.silu(linear(m.ref, `${mlp}.gate_proj`)).mul(linear(m, `${mlp}.up_proj`));
    x = x.add(linear(gated, `${mlp}.down_proj`));
  }
  const logits = np.dot(norm(x, 'model.norm'), frozen['model.embed_tokens.weight'].ref.transpose());
  const loss = nn.logSoftmax(logits).mul(frozen.wanted.ref).sum().mul(-1 / (TOKENS - 1));
  tree.dispose([factors, frozen]);
  return loss;
}

/** AdamW with a decay of 0. */
function update({ factors, mean, square, count }, grads) {
  const { learningRate, beta1, beta2, eps } = ADAM;
  count = count.add(1);
  const correction = (beta) => np.reciprocal(np.subtract(1, np.power(beta, count.ref)));
  const [correct1, correct2] = [correction(beta1), correction(beta2)];
  mean = tree.map((m, g) => m.mul(beta1).add(g.mul(1 - beta1)), mean, tree.ref(grads));
  square = tree.map((v, g) => v.mul(beta2).add(g.ref.mul(g).mul(1 - beta2)), square, grads);
  factors = tree.map(
    (p, m, v) => p.sub(m.mul(correct1.ref).div(np.sqrt(v.mul(correct2.ref)).add(eps)).mul(learningRate)),
    factors,
    tree.ref(mean),
    tree.ref(square),
  );
  tree.dispose([correct1, correct2]);
  return { factors, mean, square, count };
}

const gradients = jit(grad(meanLoss));

const trainStep = jit((state, frozen) => {
  const [loss, grads] = valueAndGrad(meanLoss)(tree.ref(state.factors), frozen);
  return [loss, update(state, grads)];
});

const forward = jit((x, w) => np.dot(x, w.transpose()));
const backward = jit((dy, w) => np.dot(dy, w));

export class Jax {
  #state;
  #frozen;

  /** @param {import('./model.mjs').Model} model */
  static async open(model) {
    if (!(await init('webgpu')).includes('webgpu')) throw new Error('jax-js finds no WebGPU');
    defaultDevice('webgpu');
    const peer = new Jax();
    const { cos, sin } = rotary();
    const wanted = new Float32Array(TOKENS * vocab_size);
    model.targets.forEach((id, at) => (wanted[at * vocab_size + id] = 1));
    const inputs = { rows: model.rows, cos, sin, wanted: { shape: [TOKENS, vocab_size], data: wanted } };
    peer.#frozen = arrays(new Map([...model.weights, ...Object.entries(inputs)]));
    const factors = arrays(model.factors);
    const zeros = () => tree.map((p) => np.zerosLike(p.ref), factors);
    peer.#state = { factors, mean: zeros(), square: zeros(), count: np.array(0) };
    await blockUntilReady([peer.#state, peer.#frozen]);
    return peer;
  }

  /** Gradients by factor, without an update. */
  async gradients() {
    const grads = gradients(tree.ref(this.#state.factors), tree.ref(this.#frozen));
    return new Map(await Promise.all(Object.entries(grads).map(async ([name, grad]) => [name, await grad.data()])));
  }

  /** Steps, each timed until its loss (that before the update) is here. @param {number} n */
  async steps(n) {
    return timed(n, () => this.#step());
  }

  async #step() {
    const [loss, state] = trainStep(this.#state, tree.ref(this.#frozen));
    this.#state = state;
    return (await loss.data())[0];
  }

  /** Runs a product `repeats` times; milliseconds for one, and the result. */
  async product(x, w, transposed, repeats) {
    const [left, right] = [array(x), array(w)];
    const run = () => (transposed ? backward : forward)(left.ref, right.ref);
    const result = await run().data();
    const start = performance.now();
    // Kept until the end: a result that is given up before it is asked for may never be computed.
    const results = await blockUntilReady(Array.from({ length: repeats }, run));
    const ms = (performance.now() - start) / repeats;
    tree.dispose([left, right, results]);
    return { ms, result };
  }
}
