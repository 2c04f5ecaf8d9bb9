/** The model folder as the peers need it: plain arrays by name. web-lora reads the files itself. */

import { CONFIG, TOKENS } from '../shapes.mjs';

/** @typedef {{ shape: number[], data: Float32Array }} Tensor */
/** @typedef {Map<string, Tensor>} Tensors */
/** @typedef {{ weights: Tensors, factors: Tensors, rows: Tensor, targets: Int32Array }} Model */

const FACTOR_PREFIX = 'base_model.model.';

/** @param {string} url @returns {Promise<Tensors>} */
async function safetensors(url) {
  const bytes = await (await fetch(url)).arrayBuffer();
  const start = 8 + Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
  return new Map(
    Object.entries(header).map(([name, { shape, data_offsets }]) => [
      name.replace(FACTOR_PREFIX, ''),
      { shape, data: new Float32Array(bytes.slice(start + data_offsets[0], start + data_offsets[1])) },
    ]),
  );
}

/** @returns {Promise<Model>} */
export async function loadModel() {
  const [weights, factors] = [
    await safetensors('/model/model.safetensors'),
    await safetensors('/model/adapter_model.safetensors'),
  ];
  const ids = await (await fetch('/model/tokens.json')).json();
  // The embedding is frozen and below every factor, so its rows are an input. (This spares the peers a gather.)
  const width = CONFIG.hidden_size;
  const table = /** @type {Tensor} */ (weights.get('model.embed_tokens.weight')).data;
  const rows = new Float32Array(TOKENS * width);
  ids.forEach((/** @type {number} */ id, /** @type {number} */ at) => {
    rows.set(table.subarray(id * width, (id + 1) * width), at * width);
  });
  return { weights, factors, rows: { shape: [TOKENS, width], data: rows }, targets: Int32Array.from(ids.slice(1)) };
}

/** Rotary tables `[TOKENS, 1, head_dim]`, both halves alike as Hugging Face lays them out. */
export function rotary() {
  const { head_dim, rope_theta } = CONFIG;
  const angle = (/** @type {number} */ at) => {
    const [position, column] = [Math.floor(at / head_dim), at % (head_dim / 2)];
    return position * rope_theta ** ((-2 * column) / head_dim);
  };
  const table = (/** @type {(x: number) => number} */ f) => ({
    shape: [TOKENS, 1, head_dim],
    data: Float32Array.from({ length: TOKENS * head_dim }, (_, at) => f(angle(at))),
  });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
