/** The line to one worker: commands go out, and what comes back finds whoever asked. */

import { WebLoraError, errorData, type ErrorData } from './errors.js';
import { stopped } from './http.js';
import {
  ENDS_WHEN_STOPPED,
  ONLY_TELLS,
  type CommandArguments,
  type CommandEvent,
  type CommandName,
  type CommandResult,
  type FromWorker,
  type ToWorker,
} from './protocol.js';

interface Pending {
  resolve: (result: never) => void;
  reject: (error: WebLoraError) => void;
  onEvent: (event: CommandEvent) => void;
}

export interface CallOptions {
  onEvent?: (event: CommandEvent) => void;
  signal?: AbortSignal | undefined;
  transfer?: Transferable[];
}

/** A worker as the engine uses it. */
export interface EngineWorker {
  postMessage(message: ToWorker, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: { data: FromWorker }) => void): void;
  addEventListener(type: 'error', listener: (event: { message: string; preventDefault(): void }) => void): void;
  terminate(): void;
}

/** One worker, until it dies or is stopped. */
export class Connection {
  readonly #worker: EngineWorker;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #end: ErrorData | undefined;

  constructor(worker: EngineWorker) {
    this.#worker = worker;
    worker.addEventListener('message', ({ data }) => this.#receive(data));
    worker.addEventListener('error', (event) => {
      event.preventDefault();
      this.#fail(errorData(event.message ?? 'the worker could not be started'));
    });
  }

  call<Name extends CommandName>(
    type: Name,
    args: CommandArguments<Name>,
    { onEvent = () => undefined, signal, transfer = [] }: CallOptions = {},
  ): Promise<CommandResult<Name>> {
    if (this.#end) return Promise.reject(new WebLoraError(this.#end));
    if (signal?.aborted && !ENDS_WHEN_STOPPED.includes(type)) return Promise.reject(stopped());
    const id = this.#nextId++;
    const abort = () => {
      this.#worker.postMessage({ kind: 'abort', id }, []);
      if (ONLY_TELLS.includes(type)) this.#taken(id)?.reject(stopped());
    };
    const answer = new Promise<CommandResult<Name>>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, onEvent });
    });
    this.#worker.postMessage({ kind: 'command', id, command: { type, ...args } as never }, transfer);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort);
    return answer.finally(() => signal?.removeEventListener('abort', abort));
  }

  /** Asks for what is trained to be saved at the next step. */
  save(): void {
    this.#worker.postMessage({ kind: 'save' }, []);
  }

  /** Ends the worker. What is under way, and all that is called from here on, rejects with this error. */
  stop(error: ErrorData): void {
    this.#fail(error);
    this.#worker.terminate();
  }

  #receive(message: FromWorker): void {
    if (message.kind === 'crashed') {
      this.#fail(message.error);
      return;
    }
    if (message.kind === 'event') this.#pending.get(message.id)?.onEvent(message.event);
    else if (message.kind === 'error') this.#taken(message.id)?.reject(new WebLoraError(message.error));
    else this.#taken(message.id)?.resolve(message.result as never);
  }

  /** A call that is about to be settled, unless it was before. */
  #taken(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #fail(error: ErrorData): void {
    this.#end ??= error;
    for (const pending of this.#pending.values()) pending.reject(new WebLoraError(this.#end));
    this.#pending.clear();
  }
}
