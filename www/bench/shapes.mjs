/** The model that everyone trains and the products that everyone multiplies: SmolLM2's layer, fewer of them. */

export const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 2,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  head_dim: 64,
  rope_theta: 10_000,
  rms_norm_eps: 1e-5,
  hidden_act: 'silu',
  max_position_embeddings: 2048,
  // As good as none: what is compared is the layers. SmolLM2's own 49,152 would be most of a model of two of them.
  vocab_size: 256,
  tie_word_embeddings: true,
};

/** Tokens of a step: one row, all supervised but the first. */
export const TOKENS = 64;

export const LORA = { r: 8, lora_alpha: 16 };

export const STEP_LABEL = `${CONFIG.num_hidden_layers} layers, rank ${LORA.r} on all linears, ${TOKENS} tokens`;

/** Plain Adam for all: constant rate, no decay, no clipping. */
export const ADAM = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 };

const { hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim } = CONFIG;
const [q, kv] = [num_attention_heads * head_dim, num_key_value_heads * head_dim];

/** The linears of a layer as `[out, in]`. */
export const LINEARS = {
  'self_attn.q_proj': [q, hidden_size],
  'self_attn.k_proj': [kv, hidden_size],
  'self_attn.v_proj': [kv, hidden_size],
  'self_attn.o_proj': [hidden_size, q],
  'mlp.gate_proj': [intermediate_size, hidden_size],
  'mlp.up_proj': [intermediate_size, hidden_size],
  'mlp.down_proj': [hidden_size, intermediate_size],
};

/** The distinct products of a layer, both ways: `y = x Wᵀ` and `dx = dy W` with W `[out, in]`. */
export const PRODUCTS = [
  [576, 576],
  [1536, 576],
  [576, 1536],
  [192, 576],
].flatMap(([out, inputs]) => [false, true].map((transposed) => ({ out, in: inputs, transposed })));
