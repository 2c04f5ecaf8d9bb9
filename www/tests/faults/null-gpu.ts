/**
 * A GPU that is none: memory is memory, copies are copies, errors are WebGPU's, and of the kernels only those are played
 * that a training shows (the norm of its gradients and its optimiser's step, as sums of no meaning that are the same each
 * time). So a whole run takes milliseconds, and a run that loses a step or a number ends in other bytes.
 *
 * It knows of WebGPU what the engine asks of it, and holds it to the rules about what is invalid, destroyed or mapped.
 */

/** Told of buffers that are made, and with numbers below zero of those that are gone. */
type Count = (buffers: number, bytes: number) => void;

export class GPUErrorDouble {
  constructor(readonly message: string) {}
}
class ValidationError extends GPUErrorDouble {}
class OutOfMemoryError extends GPUErrorDouble {}
class InternalError extends GPUErrorDouble {}

/** What a browser has beside `navigator.gpu`. */
export const globals = {
  GPUValidationError: ValidationError,
  GPUOutOfMemoryError: OutOfMemoryError,
  GPUInternalError: InternalError,
};

type Filter = 'validation' | 'out-of-memory' | 'internal';

const MAP_READ = 1;
const MAP_WRITE = 2;
/** WebGPU's defaults, of those that anyone asks for. */
const LIMITS: Record<string, number> = {
  maxTextureDimension1D: 8192,
  maxTextureDimension2D: 8192,
  maxTextureDimension3D: 2048,
  maxTextureArrayLayers: 256,
  maxBindGroups: 4,
  maxBindGroupsPlusVertexBuffers: 24,
  maxBindingsPerBindGroup: 1000,
  maxDynamicUniformBuffersPerPipelineLayout: 8,
  maxDynamicStorageBuffersPerPipelineLayout: 4,
  maxSampledTexturesPerShaderStage: 16,
  maxSamplersPerShaderStage: 16,
  maxStorageBuffersPerShaderStage: 8,
  maxStorageTexturesPerShaderStage: 4,
  maxUniformBuffersPerShaderStage: 12,
  maxUniformBufferBindingSize: 65_536,
  maxStorageBufferBindingSize: 134_217_728,
  minUniformBufferOffsetAlignment: 256,
  minStorageBufferOffsetAlignment: 256,
  maxVertexBuffers: 8,
  maxBufferSize: 268_435_456,
  maxVertexAttributes: 16,
  maxVertexBufferArrayStride: 2048,
  maxInterStageShaderVariables: 16,
  maxColorAttachments: 8,
  maxColorAttachmentBytesPerSample: 32,
  maxComputeWorkgroupStorageSize: 16_384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65_535,
};

export interface NullOptions {
  /** What `adapter.info` says. */
  description?: string | undefined;
  limits?: Record<string, number> | undefined;
  count?: Count;
}

/** In the place of `navigator.gpu`. */
export class NullGpu {
  readonly wgslLanguageFeatures = new Set<string>();

  constructor(readonly options: NullOptions = {}) {}

  async requestAdapter(): Promise<NullAdapter | null> {
    return new NullAdapter(this.options);
  }
}

class NullAdapter {
  readonly features = new Set<string>();
  readonly limits: Record<string, number>;
  readonly info;

  constructor(readonly options: NullOptions) {
    this.limits = { ...LIMITS, ...(options.limits ?? {}) };
    const description = options.description ?? 'Null';
    this.info = { vendor: 'null', architecture: '', device: '', description, isFallbackAdapter: false, subgroupMinSize: 4, subgroupMaxSize: 128 };
  }

  async requestDevice({ requiredLimits = {} }: { requiredLimits?: Record<string, number> } = {}): Promise<NullDevice> {
    for (const [name, value] of Object.entries(requiredLimits)) {
      const most = this.limits[name];
      if (most !== undefined && !name.startsWith('min') && value > most) throw new DOMException(`${name} is ${most}`, 'OperationError');
    }
    return new NullDevice(this.limits, this.options.count ?? (() => undefined));
  }
}

/** What may be invalid, and makes all invalid that uses it. */
class Thing {
  constructor(
    readonly device: NullDevice,
    readonly valid: boolean,
    readonly label = '',
  ) {}
}

class NullDevice {
  readonly features = new Set<string>();
  readonly queue = new NullQueue(this);
  readonly lost: Promise<{ reason: string; message: string }>;
  onuncapturederror: ((event: { error: GPUErrorDouble }) => void) | null = null;
  isLost = false;
  readonly buffers = new Set<NullBuffer>();
  readonly #scopes: { filter: Filter; error: GPUErrorDouble | undefined }[] = [];
  #due: (() => void)[] = [];
  #lose: (info: { reason: string; message: string }) => void = () => undefined;

  constructor(
    readonly limits: Record<string, number>,
    readonly count: Count,
  ) {
    this.lost = new Promise((resolve) => (this.#lose = resolve));
  }

  /** What the GPU says comes in turns of its own, in the order in which it came about. */
  later(act: () => void): void {
    if (this.#due.push(act) > 1) return;
    setTimeout(async () => {
      const due = this.#due;
      this.#due = [];
      for (const act of due) {
        act();
        // Whoever waited for it goes on first.
        await undefined;
        await undefined;
      }
    }, 0);
  }

  fail(filter: Filter, message: string): void {
    if (this.isLost) return;
    const Kind = { validation: ValidationError, 'out-of-memory': OutOfMemoryError, internal: InternalError }[filter];
    const error = new Kind(message);
    const scope = this.#scopes.findLast((scope) => scope.filter === filter);
    if (scope) scope.error ??= error;
    else this.later(() => this.onuncapturederror?.({ error }));
  }

  check(valid: boolean, message: string): boolean {
    if (!valid) this.fail('validation', message);
    return valid || this.isLost;
  }

  pushErrorScope(filter: Filter): void {
    this.#scopes.push({ filter, error: undefined });
  }

  popErrorScope(): Promise<GPUErrorDouble | null> {
    const scope = this.#scopes.pop();
    if (!scope) return Promise.reject(new DOMException('no scope', 'OperationError'));
    return new Promise((resolve) => this.later(() => resolve(this.isLost ? null : (scope.error ?? null))));
  }

  createBuffer({ size, usage, label }: { size: number; usage: number; label?: string }): NullBuffer {
    const readAndWritten = (usage & (MAP_READ | MAP_WRITE)) === (MAP_READ | MAP_WRITE);
    const valid = this.check(!readAndWritten && size <= (this.limits.maxBufferSize ?? 0), `buffer ${label}`);
    return new NullBuffer(this, valid, size, label ?? '');
  }

  createBindGroupLayout({ entries }: { entries: { binding: number }[] }): Layout {
    const bindings = [...entries].map(({ binding }) => binding);
    return new Layout(this, this.check(new Set(bindings).size === bindings.length, 'a binding twice'), bindings.length);
  }

  createPipelineLayout({ bindGroupLayouts }: { bindGroupLayouts: Thing[] }): Thing {
    const layouts = [...bindGroupLayouts];
    return new Thing(this, this.check(layouts.length <= 4 && layouts.every(({ valid }) => valid), 'pipeline layout'));
  }

  createShaderModule({ code }: { code: string }): Thing {
    return new Thing(this, this.check(code.includes('@compute'), 'a shader without an entry point'));
  }

  createComputePipeline({ label, layout, compute }: { label?: string; layout: Thing; compute: { module: Thing; entryPoint?: string } }): Pipeline {
    const valid = layout.valid && compute.module.valid && compute.entryPoint === 'main';
    return new Pipeline(this, this.check(valid, `pipeline ${label}`), label ?? '');
  }

  createBindGroup({ label, layout, entries }: { label?: string; layout: Layout; entries: BindGroupEntry[] }): BindGroup {
    const bound = new Map([...entries].map(({ binding, resource }) => [binding, resource]));
    const valid = layout.valid && bound.size === layout.size && [...bound.values()].every(({ buffer }) => buffer.valid);
    return new BindGroup(this, this.check(valid, `bind group ${label}`), bound);
  }

  createCommandEncoder(): Encoder {
    return new Encoder(this);
  }

  destroy(): void {
    if (this.isLost) return;
    this.isLost = true;
    this.buffers.forEach((buffer) => buffer.destroy());
    this.#lose({ reason: 'destroyed', message: '' });
  }
}

class NullBuffer extends Thing {
  destroyed = false;
  mapState: 'unmapped' | 'pending' | 'mapped' = 'unmapped';
  #memory: Uint8Array<ArrayBuffer> | undefined;
  #abort: () => void = () => undefined;

  constructor(
    device: NullDevice,
    valid: boolean,
    readonly size: number,
    label: string,
  ) {
    super(device, valid, label);
    device.buffers.add(this);
    device.count(1, size);
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return (this.#memory ??= new Uint8Array(this.size));
  }

  mapAsync(mode: number): Promise<undefined> {
    const { device } = this;
    const may = this.valid && !this.destroyed && this.mapState === 'unmapped' && mode === MAP_READ;
    if (!device.check(may, `mapping ${this.label}`) || device.isLost) {
      return new Promise((_, reject) => device.later(() => reject(new DOMException('it cannot be mapped', 'OperationError'))));
    }
    this.mapState = 'pending';
    return new Promise((resolve, reject) => {
      this.#abort = () => reject(new DOMException('it was unmapped', 'AbortError'));
      device.later(() => {
        if (this.mapState !== 'pending') return;
        this.mapState = 'mapped';
        resolve(undefined);
      });
    });
  }

  getMappedRange(offset = 0, size = this.size): ArrayBuffer {
    if (this.mapState !== 'mapped') throw new DOMException('it is not mapped', 'OperationError');
    return this.bytes.slice(offset, offset + size).buffer;
  }

  unmap(): void {
    if (this.mapState === 'pending') this.device.later(this.#abort);
    this.mapState = 'unmapped';
  }

  destroy(): void {
    if (this.destroyed) return;
    this.unmap();
    this.destroyed = true;
    this.#memory = undefined;
    this.device.buffers.delete(this);
    this.device.count(-1, -this.size);
  }
}

interface BindGroupEntry {
  binding: number;
  resource: Binding;
}
interface Binding {
  buffer: NullBuffer;
  offset?: number;
  size?: number;
}

class Layout extends Thing {
  constructor(device: NullDevice, valid: boolean, readonly size: number) {
    super(device, valid);
  }
}

class Pipeline extends Thing {}

class BindGroup extends Thing {
  constructor(device: NullDevice, valid: boolean, readonly bound: Map<number, Binding>) {
    super(device, valid);
  }

  floats(binding: number): Float32Array {
    const { buffer, offset = 0, size = buffer.size - offset } = this.bound.get(binding) as Binding;
    return new Float32Array(buffer.bytes.buffer, offset, size / 4);
  }
}

/** What a command touches, and what it does. */
interface CommandDone {
  uses: NullBuffer[];
  act: () => void;
}

class Encoder {
  readonly label = '';
  readonly #commands: CommandDone[] = [];
  #valid = true;
  #groups = 0;

  constructor(readonly device: NullDevice) {}

  add(things: Thing[], uses: NullBuffer[], act: () => void): void {
    this.#valid &&= things.every(({ valid }) => valid);
    this.#commands.push({ uses, act });
  }

  beginComputePass(): Pass {
    return new Pass(this);
  }

  copyBufferToBuffer(from: NullBuffer, at: number, to: NullBuffer, toAt: number, size: number): void {
    this.add([from, to], [from, to], () => to.bytes.set(from.bytes.subarray(at, at + size), toAt));
  }

  clearBuffer(buffer: NullBuffer, at = 0, size = buffer.size - at): void {
    this.add([buffer], [buffer], () => buffer.bytes.fill(0, at, at + size));
  }

  pushDebugGroup(): void {
    this.#groups += 1;
  }

  finish(): CommandBuffer {
    const valid = this.device.check(this.#valid && this.#groups === 0, 'a command that is invalid');
    return new CommandBuffer(this.device, valid, this.#commands);
  }
}

class Pass {
  #pipeline: Pipeline | undefined;
  #group: BindGroup | undefined;

  constructor(readonly encoder: Encoder) {}

  setPipeline(pipeline: Pipeline): void {
    this.#pipeline = pipeline;
  }

  setBindGroup(_: number, group: BindGroup): void {
    this.#group = group;
  }

  dispatchWorkgroups(): void {
    const [pipeline, group] = [this.#pipeline as Pipeline, this.#group as BindGroup];
    const uses = [...group.bound.values()].map(({ buffer }) => buffer);
    this.encoder.add([pipeline, group], uses, () => KERNELS[pipeline.label]?.(group));
  }

  end(): void {}
}

class CommandBuffer extends Thing {
  constructor(device: NullDevice, valid: boolean, readonly commands: CommandDone[]) {
    super(device, valid);
  }
}

class NullQueue {
  constructor(readonly device: NullDevice) {}

  writeBuffer(buffer: NullBuffer, at: number, data: Uint8Array, from = 0, size = data.length - from): void {
    const may = buffer.valid && !buffer.destroyed && buffer.mapState === 'unmapped' && at + size <= buffer.size;
    if (this.device.check(may, `writing to ${buffer.label}`) && !this.device.isLost) buffer.bytes.set(data.subarray(from, from + size), at);
  }

  submit(buffers: CommandBuffer[]): void {
    if (this.device.isLost) return;
    for (const { valid, commands } of buffers) {
      const unfit = commands.flatMap(({ uses }) => uses).find((buffer) => buffer.destroyed || buffer.mapState !== 'unmapped');
      const may = valid && !unfit;
      if (this.device.check(may, `a submit${unfit ? `, as ${unfit.label} is ${unfit.destroyed ? 'destroyed' : 'mapped'}` : ''}`)) {
        commands.forEach(({ act }) => act());
      }
    }
  }

  onSubmittedWorkDone(): Promise<undefined> {
    return new Promise((resolve) => this.device.later(() => resolve(undefined)));
  }
}

/** By the names of the shaders; bindings as these have them. */
const KERNELS: Record<string, (group: BindGroup) => void> = {
  grad_norm_total: (group) => group.floats(4).set([1.5, 0.25, 1, 1]),
  adamw(group) {
    const [weights, moments] = [group.floats(4), group.floats(5)];
    weights.forEach((weight, at) => {
      const moment = (moments[at] ?? 0) * 0.5 + weight + (at % 7) / 8;
      moments[at] = moment;
      weights[at] = weight - moment / 64;
    });
  },
};
