/** A few models to begin with. What is said here is what does not change; sizes are the Hub's to tell, when asked. */

interface HubModel {
  repo: string;
  name: string;
  parameters: string;
  license: string;
  /**
   * GPU memory to train at rank 8 and 512 tokens a pass, as the engine plans it for a llama with this model's shapes in
   * the format that its repository has. For the model itself it is planned from its headers, once it is chosen.
   */
  memory: string;
  /** Needs an account that has accepted its terms. */
  gated?: boolean;
}

export const HUB_MODELS: readonly HubModel[] = [
  { repo: 'HuggingFaceTB/SmolLM2-135M-Instruct', name: 'SmolLM2 135M Instruct', parameters: '135M', license: 'Apache 2.0', memory: '0.9 GB' },
  { repo: 'HuggingFaceTB/SmolLM2-360M-Instruct', name: 'SmolLM2 360M Instruct', parameters: '362M', license: 'Apache 2.0', memory: '1.7 GB' },
  { repo: 'Qwen/Qwen2.5-0.5B-Instruct', name: 'Qwen2.5 0.5B Instruct', parameters: '494M', license: 'Apache 2.0', memory: '2.1 GB' },
  { repo: 'Qwen/Qwen3-0.6B', name: 'Qwen3 0.6B', parameters: '596M', license: 'Apache 2.0', memory: '2.4 GB' },
  { repo: 'google/gemma-3-270m-it', name: 'Gemma 3 270M', parameters: '268M', license: 'Gemma', memory: '1.0 GB', gated: true },
  { repo: 'meta-llama/Llama-3.2-1B-Instruct', name: 'Llama 3.2 1B Instruct', parameters: '1.24B', license: 'Llama 3.2', memory: '3.9 GB', gated: true },
  { repo: 'TinyLlama/TinyLlama-1.1B-Chat-v1.0', name: 'TinyLlama 1.1B Chat', parameters: '1.1B', license: 'Apache 2.0', memory: '3.7 GB' },
  { repo: 'openai-community/gpt2', name: 'GPT-2', parameters: '124M', license: 'MIT', memory: '0.8 GB' },
];
