/**
 * A GPU that fails at its k-th call: what the engine asks of `navigator.gpu` is counted, and one call ends as WebGPU lets
 * it end. The calls are put over the methods of the objects as they are made, so that it works on any GPU, real or not.
 */

/**
 * How a call fails: `throw`s at once; gives an object that is invalid and says so (`validation`, `memory`, `internal`);
 * finds the device `lost`; gives `none`; gives a promise that `reject`s, or one that never settles (`hang`).
 */
export type Kind = 'throw' | 'validation' | 'memory' | 'internal' | 'lost' | 'none' | 'reject' | 'hang';

/** Each call that is counted, and how it can fail. */
export const CALLS = {
  requestAdapter: ['none', 'reject', 'hang'],
  requestDevice: ['lost', 'reject', 'hang'],
  createBuffer: ['throw', 'validation', 'memory', 'lost'],
  createBindGroupLayout: ['throw', 'validation', 'lost'],
  createPipelineLayout: ['validation', 'lost'],
  createShaderModule: ['validation', 'lost'],
  createComputePipeline: ['validation', 'internal', 'memory', 'lost'],
  createBindGroup: ['validation', 'lost'],
  createCommandEncoder: ['throw', 'lost'],
  finish: ['validation', 'lost'],
  submit: ['throw', 'validation', 'memory', 'lost'],
  writeBuffer: ['throw', 'validation', 'memory', 'lost'],
  onSubmittedWorkDone: ['hang', 'lost'],
  popErrorScope: ['reject', 'hang', 'lost'],
  mapAsync: ['reject', 'hang', 'lost'],
  getMappedRange: ['throw'],
} as const satisfies Record<string, readonly Kind[]>;

export type Call = keyof typeof CALLS;
export const NAMES = Object.keys(CALLS) as Call[];

export interface Fault {
  /** Counted from 0. */
  at: number;
  kind: Kind;
  /** Every call from there on fails so, where it can. */
  always?: boolean;
}

type Method = (...args: never[]) => unknown;
/** WebGPU's objects as a bag of methods: which there are is in {@link CALLS}. */
type Thing = Record<string, Method>;
type Filter = 'validation' | 'out-of-memory' | 'internal';

/** `done` gives what a call gives when nothing fails. */
type Fail = (kind: Kind, done: () => unknown) => unknown;

export class FaultyGpu {
  #calls = 0;

  /** `heard` is told of each call, and whether it is the one that fails. */
  constructor(
    readonly fault: Fault | undefined,
    readonly heard: (call: Call, failed: boolean) => void,
  ) {}

  /** Puts the fault into a GPU. */
  break<Gpu extends object>(gpu: Gpu): Gpu {
    const over: Over = (thing, call, fail, made) => this.#over(thing, call, fail, made);
    const device = (device: Thing) => void new FaultyDevice(device, over);
    over(gpu as unknown as Thing, 'requestAdapter', refused, (adapter) =>
      over(adapter, 'requestDevice', (kind, done) => (kind === 'lost' ? lostFromTheStart(done) : refused(kind)), device),
    );
    return gpu;
  }

  /** Puts a method over that of the object; `made` is given what the one below makes. */
  #over(thing: Thing, call: Call, fail: Fail, made: (thing: Thing) => unknown = () => undefined): void {
    const below = (thing[call] as Method).bind(thing);
    const look = (result: unknown) => {
      if (result instanceof Promise) {
        return result.then((thing) => {
          if (thing) made(thing);
          return thing;
        });
      }
      made(result as Thing);
      return result;
    };
    thing[call] = (...args: never[]) => {
      const at = this.#calls++;
      const kind = this.fault?.kind as Kind;
      const due = this.fault !== undefined && (this.fault.always ? at >= this.fault.at : at === this.fault.at);
      const fails = due && (CALLS[call] as readonly Kind[]).includes(kind);
      this.heard(call, fails);
      const done = (...others: never[]) => look(below(...(others.length > 0 ? others : args)));
      return fails ? fail(kind, Object.assign(done, { args }) as () => unknown) : done();
    };
  }
}

type Over = (thing: Thing, call: Call, fail: Fail, made?: (thing: Thing) => unknown) => void;

/** Descriptors that WebGPU has to refuse. */
const INVALID: Record<string, (descriptor: Record<string, unknown>) => object> = {
  // Mapped to be read and to be written.
  createBuffer: (descriptor) => ({ ...descriptor, usage: 3 }),
  createBindGroupLayout: ({ entries }) => ({ entries: [...(entries as object[]), ...(entries as object[])] }),
  createPipelineLayout: ({ bindGroupLayouts }) => ({ bindGroupLayouts: Array(40).fill((bindGroupLayouts as object[])[0]) }),
  createShaderModule: () => ({ code: 'this is no shader' }),
  createComputePipeline: ({ layout, compute }) => ({ layout, compute: { ...(compute as object), entryPoint: 'not_there' } }),
  createBindGroup: ({ layout }) => ({ layout, entries: [] }),
};

/** How each device is lost, as if its driver had been reset. */
const LOSSES = new WeakMap<object, () => void>();

function lose(device: object): void {
  LOSSES.get(device)?.();
}

async function lostFromTheStart(done: () => unknown): Promise<unknown> {
  const device = (await done()) as object;
  lose(device);
  return device;
}

class FaultyDevice {
  readonly #push: (filter: Filter) => void;
  readonly #pop: () => Promise<unknown>;
  readonly #scopes: { filter: string; error: unknown }[] = [];
  #handler: ((event: { error: unknown }) => void) | null = null;

  constructor(
    readonly device: Thing,
    over: Over,
  ) {
    this.#push = (device.pushErrorScope as (filter: Filter) => void).bind(device);
    this.#pop = (device.popErrorScope as () => Promise<unknown>).bind(device);
    this.#ownScopes(over);
    this.#ownLoss();
    const fail: Fail = (kind, done) => this.#fail(kind, done);
    for (const call of Object.keys(INVALID) as Call[]) {
      const invalid: Fail = (kind, done) => {
        if (kind !== 'validation' && kind !== 'memory' && kind !== 'internal') return fail(kind, done);
        const { args } = done as unknown as { args: [Record<string, unknown>] };
        return this.#refuse(kind, () => (done as (descriptor: object) => unknown)((INVALID[call] as typeof INVALID.createBuffer & {})(args[0])));
      };
      over(device, call, invalid, call === 'createBuffer' ? (buffer) => this.#buffer(buffer, over) : undefined);
    }
    over(device, 'createCommandEncoder', fail, (encoder) =>
      over(encoder, 'finish', (kind, done) => {
        if (kind !== 'validation') return fail(kind, done);
        // A group that is begun and does not end.
        (encoder.pushDebugGroup as (label: string) => void)('fault');
        return this.#refuse(kind, done);
      }),
    );
    // The one object from here on, as a browser's is.
    const queue = device.queue as unknown as Thing;
    Object.defineProperty(device, 'queue', { value: queue });
    // What is refused is not done.
    for (const call of ['submit', 'writeBuffer'] as const) {
      over(queue, call, (kind, done) => (kind === 'validation' || kind === 'memory' ? this.#refuse(kind, () => undefined) : fail(kind, done)));
    }
    over(queue, 'onSubmittedWorkDone', fail);
  }

  #buffer(buffer: Thing, over: Over): void {
    over(buffer, 'mapAsync', (kind, done) => this.#fail(kind, done));
    over(buffer, 'getMappedRange', (kind, done) => this.#fail(kind, done));
  }

  #fail(kind: Kind, done: () => unknown): unknown {
    if (kind === 'throw') throw new RangeError('put in by a test');
    if (kind !== 'lost') return refused(kind);
    lose(this.device);
    return done();
  }

  /** An error of the GPU about what `make` does, whose own are kept quiet. */
  #refuse(kind: 'validation' | 'memory' | 'internal', make: () => unknown): unknown {
    this.#push('validation');
    const made = make();
    const quiet = this.#pop();
    const filter = ({ validation: 'validation', memory: 'out-of-memory', internal: 'internal' } as const)[kind];
    const name = { validation: 'GPUValidationError', memory: 'GPUOutOfMemoryError', internal: 'GPUInternalError' }[kind];
    const Kind = (globalThis as unknown as Record<string, new (message: string) => unknown>)[name] as new (message: string) => unknown;
    const error = new Kind('put in by a test');
    const scope = this.#scopes.findLast((scope) => scope.filter === filter);
    if (scope) scope.error ??= error;
    // When the GPU has come so far: before it answers what is asked after this.
    else void quiet.then(() => this.#handler?.({ error }));
    return made;
  }

  /** The scopes of whoever uses the device hear of errors that are put in. */
  #ownScopes(over: Over): void {
    const { device } = this;
    Object.defineProperty(device, 'pushErrorScope', {
      value: (filter: Filter) => {
        this.#scopes.push({ filter, error: undefined });
        this.#push(filter);
      },
    });
    const popped = () => {
      const scope = this.#scopes.pop();
      return this.#pop().then((error) => scope?.error ?? error);
    };
    Object.defineProperty(device, 'popErrorScope', { value: popped, writable: true });
    over(device, 'popErrorScope', (kind, done) => {
      if (kind !== 'lost') void popped();
      return this.#fail(kind, done);
    });
    Object.defineProperty(device, 'onuncapturederror', {
      get: () => this.#handler,
      set: (handler) => {
        this.#handler = handler;
        const below = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(device), 'onuncapturederror');
        if (below?.set) below.set.call(device, handler);
        else void (device as unknown as EventTarget).addEventListener?.('uncapturederror', handler as (event: Event) => void);
      },
    });
  }

  /** A loss for a reason that nobody asked for. */
  #ownLoss(): void {
    const { device } = this;
    const below = device.lost as unknown as Promise<unknown>;
    const destroy = (device.destroy as Method).bind(device);
    let tell: (info: unknown) => void = () => undefined;
    const lost = new Promise((resolve) => (tell = resolve));
    void below.then((info) => tell(info));
    Object.defineProperty(device, 'lost', { value: lost });
    LOSSES.set(device, () => {
      tell({ reason: 'unknown', message: 'put in by a test' });
      destroy();
    });
  }
}

/** A promise of nothing, one that fails, or one that never settles. */
function refused(kind: Kind): Promise<unknown> {
  if (kind === 'none') return Promise.resolve(null);
  return kind === 'hang' ? new Promise(() => undefined) : Promise.reject(new DOMException('put in by a test', 'OperationError'));
}
