/**
 * Writes the model as a Hugging Face folder, with an adapter and one example: the files that every contender reads, so
 * that all of them can be held to the same loss.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CONFIG, LINEARS, LORA, TOKENS } from './shapes.mjs';

export const FOLDER = fileURLToPath(new URL('../../target/bench-peers/', import.meta.url));

/** Uniform numbers in [-1, 1), the same in every run (mulberry32). @param {number} state */
function uniform(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** @param {Record<string, { shape: number[], data: Float32Array }>} tensors */
function safetensors(tensors) {
  let offset = 0;
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, { shape, data }]) => {
      const start = offset;
      offset += data.byteLength;
      return [name, { dtype: 'F32', shape, data_offsets: [start, offset] }];
    }),
  );
  const json = JSON.stringify(header);
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...Object.values(tensors).map(({ data }) => Buffer.from(data.buffer))]);
}

/** A byte-level vocabulary without merges: each printable character is the token `code - 33`. */
function tokenizer() {
  const name = (/** @type {number} */ id) => (id < 94 ? String.fromCharCode(33 + id) : `<unused${id}>`);
  const vocab = Object.fromEntries(Array.from({ length: CONFIG.vocab_size }, (_, id) => [name(id), id]));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', vocab, merges: [] },
  };
}

/** Writes everything to {@link FOLDER}. */
export async function writeModel() {
  const random = uniform(1);
  const matrix = (/** @type {number[]} */ shape, /** @type {number} */ bound) => ({
    shape,
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => bound * random()),
  });
  const { hidden_size, vocab_size, num_hidden_layers } = CONFIG;
  const ones = () => ({ shape: [hidden_size], data: new Float32Array(hidden_size).fill(1) });

  /** @type {Record<string, { shape: number[], data: Float32Array }>} */
  const weights = { 'model.embed_tokens.weight': matrix([vocab_size, hidden_size], 0.1), 'model.norm.weight': ones() };
  /** @type {typeof weights} */
  const factors = {};
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`;
    weights[`${prefix}.input_layernorm.weight`] = ones();
    weights[`${prefix}.post_attention_layernorm.weight`] = ones();
    for (const [name, [out, inputs]] of Object.entries(LINEARS)) {
      // Unit variance in, unit variance out; B is not zero, so that gradients reach every factor.
      weights[`${prefix}.${name}.weight`] = matrix([out, inputs], Math.sqrt(3 / inputs));
      factors[`base_model.model.${prefix}.${name}.lora_A.weight`] = matrix([LORA.r, inputs], Math.sqrt(3 / inputs));
      factors[`base_model.model.${prefix}.${name}.lora_B.weight`] = matrix([out, LORA.r], 0.05);
    }
  }
  const ids = Array.from({ length: TOKENS }, () => Math.floor(47 * (random() + 1)));
  const text = String.fromCharCode(...ids.map((id) => 33 + id));
  const modules = Object.keys(LINEARS).map((name) => name.split('.')[1]);
  const adapter = { peft_type: 'LORA', task_type: 'CAUSAL_LM', ...LORA, target_modules: modules };

  await mkdir(FOLDER, { recursive: true });
  const files = {
    'config.json': JSON.stringify(CONFIG),
    'model.safetensors': safetensors(weights),
    'tokenizer.json': JSON.stringify(tokenizer()),
    'adapter_config.json': JSON.stringify(adapter),
    'adapter_model.safetensors': safetensors(factors),
    'example.jsonl': JSON.stringify({ text }),
    'tokens.json': JSON.stringify(ids),
  };
  for (const [name, bytes] of Object.entries(files)) await writeFile(path.join(FOLDER, name), bytes);
}
