/** Adapters: their settings, their files, and those that an engine has. */

/** Settings of a new adapter, as in PEFT's `LoraConfig`. */
export interface AdapterOptions {
  r?: number;
  loraAlpha?: number;
  useRslora?: boolean;
  /**
   * DoRA: how long each row of a weight is is trained apart from where it points. A step takes longer, and what is saved
   * goes to PEFT and mlx-lm, not to llama.cpp.
   */
  useDora?: boolean;
  /**
   * How it begins: at random with B zero, as is the default and `gaussian`; or from the weights, of which it takes over the
   * largest part and of which only the change is trained (`pissa`, faster as `pissa_niter_16`, and `olora`). What is saved
   * then is a plain adapter of twice the rank.
   */
  initLoraWeights?: 'default' | 'gaussian' | 'pissa' | `pissa_niter_${number}` | 'olora';
  /**
   * Probability that an input of the low-rank branch is dropped in training, from 0 to below 1. Linears that read the same
   * input drop the same of it.
   */
  loraDropout?: number;
  /**
   * Ends of module paths (`q_proj`, `mlp.down_proj`), a regular expression for whole paths, or `all-linear`, which is what
   * is taken where nothing is given.
   */
  targetModules?: string[] | string;
  /** Those of them that are left alone. */
  excludeModules?: string[] | string;
  /** The only layers that are adapted. */
  layersToTransform?: number[];
  /** Other ranks, by the end of a module's path (a regular expression); the first that fits counts. */
  rankPattern?: Record<string, number>;
  /** Other alphas, likewise. */
  alphaPattern?: Record<string, number>;
  /**
   * Which biases of the base are trained as well: those of adapted modules (`lora_only`), all that there are, those of layer
   * norms among them, or none, which is what holds where nothing is given. Off, an adapter's biases are the base's again.
   */
  bias?: 'none' | 'all' | 'lora_only';
  /**
   * Norms that are trained in full and saved with the adapter, by the ends of their paths (`input_layernorm`, `model.norm`), as
   * PEFT takes them: `norm` is every norm whose name ends so. Nothing but norms can be. What is saved with norms or biases
   * goes to PEFT, or merged into the model; not to llama.cpp and mlx-lm.
   */
  modulesToSave?: string[];
  seed?: number;
}

/** What an adapter is. */
export interface AdapterInfo {
  r: number;
  loraAlpha: number;
  useRslora: boolean;
  useDora: boolean;
  targetModules: string[];
  bias: 'none' | 'all' | 'lora_only';
  modulesToSave: string[];
  /** Trained numbers in the adapter. */
  parameters: number;
  baseParameters: number;
  trainedSteps: number;
}

/** A PEFT adapter as its two files. */
export interface AdapterFiles {
  /** adapter_config.json */
  config: Uint8Array<ArrayBuffer>;
  /** adapter_model.safetensors */
  weights: Uint8Array<ArrayBuffer>;
}

/** Who reads an adapter: PEFT with all that is built on it, llama.cpp with all that is built on it, or mlx-lm. */
export type AdapterFormat = 'peft' | 'gguf' | 'mlx';

/** A file under the name that its reader looks for. */
export interface ExportedFile {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
}

/** An adapter by its name, or as its files. */
export type AdapterFrom = string | AdapterFiles;

/** One of the adapters that an engine has. */
export interface AdapterEntry extends AdapterInfo {
  /** Left out by the one that came without a name: what newAdapter and loadAdapter made. */
  name?: string;
  /** It answers, and is what is trained, saved and replaced. */
  inUse: boolean;
}
