/** A few models to begin with. What is said here is what does not change; sizes are the Hub's to tell, when asked. */

interface HubModel {
  repo: string;
  name: string;
  parameters: string;
  license: string;
  /** GPU memory to train with the page's own settings, in GB, as planned from the shapes of its weights. */
  memory: string;
  /** Needs an account that has accepted its terms. */
  gated?: boolean;
}

export const HUB_MODELS: readonly HubModel[] = [
  { repo: 'HuggingFaceTB/SmolLM2-135M-Instruct', name: 'SmolLM2 135M Instruct', parameters: '135M', license: 'Apache 2.0', memory: '?' },
  { repo: 'HuggingFaceTB/SmolLM2-360M-Instruct', name: 'SmolLM2 360M Instruct', parameters: '362M', license: 'Apache 2.0', memory: '?' },
  { repo: 'Qwen/Qwen2.5-0.5B-Instruct', name: 'Qwen2.5 0.5B Instruct', parameters: '494M', license: 'Apache 2.0', memory: '?' },
  { repo: 'Qwen/Qwen3-0.6B', name: 'Qwen3 0.6B', parameters: '596M', license: 'Apache 2.0', memory: '?' },
  { repo: 'google/gemma-3-270m-it', name: 'Gemma 3 270M', parameters: '268M', license: 'Gemma', memory: '?', gated: true },
  { repo: 'meta-llama/Llama-3.2-1B-Instruct', name: 'Llama 3.2 1B Instruct', parameters: '1.24B', license: 'Llama 3.2', memory: '?', gated: true },
  { repo: 'TinyLlama/TinyLlama-1.1B-Chat-v1.0', name: 'TinyLlama 1.1B Chat', parameters: '1.1B', license: 'Apache 2.0', memory: '?' },
  { repo: 'openai-community/gpt2', name: 'GPT-2', parameters: '124M', license: 'MIT', memory: '?' },
];
