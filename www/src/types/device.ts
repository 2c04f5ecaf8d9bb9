/** The GPU, and how to open it. */

/** The GPU that the engine found. */
export interface DeviceInfo {
  name: string;
  driver: string;
  /** True where the "GPU" is a program on the CPU: everything works, some hundred times slower. */
  software: boolean;
  maxBufferSize: number;
  maxStorageBufferBindingSize: number;
  shaderF16: boolean;
  /** True where its own clock can time kernels. */
  timestamps: boolean;
  products: Products;
}

/**
 * How matrix products are computed: `direct` suits software, `tiled` GPUs. `tiled-f16` computes the forward pass in
 * f16: faster where the GPU can, less accurate, and used only when asked for.
 */
export type Variant = 'direct' | 'tiled' | 'tiled-f16';

/** The variant that a device got. */
export interface Products {
  variant: Variant;
  /** The device and build it was chosen for. */
  device: string;
  /** What spoke for it: what was measured, or that it was asked for. */
  reason: string;
}

/** How to open the GPU. By default, the best there is. */
export interface EngineOptions {
  /** Ask only for the limits that every WebGPU device has, even where this one offers more. */
  defaultLimits?: boolean;
  /** Compute products this way, rather than as a short measurement on the device finds best. */
  variant?: Variant | undefined;
  /**
   * Seconds for which the GPU may answer nothing at all, while work of it is awaited, before it counts as lost. Where it
   * was silent for longer than a quarter of this and then answered, four times as long. Default: 180.
   */
  patience?: number;
}

/** What can be stopped. */
export interface Stoppable {
  signal?: AbortSignal | undefined;
}
