/** Work under way that can be waited for, and listened to while it lasts. */

/**
 * A promise of the result, and an async iterable of what comes on the way to it:
 *
 *     const result = await engine.train(options);
 *     for await (const step of engine.train(options)) console.log(step.loss);
 *
 * Each loop sees everything from the first item on, and ends, or throws, as the work does. Leaving a loop early stops
 * the work, as its signal does; the result can still be awaited.
 */
export class Task<Item, Result> implements Promise<Result>, AsyncIterable<Item> {
  readonly [Symbol.toStringTag] = 'Task';
  readonly #items: Item[] = [];
  readonly #stop = new AbortController();
  readonly #result: Promise<Result>;
  #ended = false;
  #wake: () => void = () => undefined;
  #more: Promise<void>;

  /** @internal `work` gets the signal to end by, and hands on each item. */
  constructor(signal: AbortSignal | undefined, work: (signal: AbortSignal, give: (item: Item) => void) => Promise<Result>) {
    this.#more = this.#next();
    const any = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal;
    const give = (item: Item) => {
      this.#items.push(item);
      this.#tell();
    };
    this.#result = work(any, give).finally(() => {
      this.#ended = true;
      this.#tell();
    });
  }

  then<Done = Result, Failed = never>(
    onDone?: ((result: Result) => Done | PromiseLike<Done>) | null,
    onFailed?: ((reason: unknown) => Failed | PromiseLike<Failed>) | null,
  ): Promise<Done | Failed> {
    return this.#result.then(onDone, onFailed);
  }

  catch<Failed = never>(onFailed?: ((reason: unknown) => Failed | PromiseLike<Failed>) | null): Promise<Result | Failed> {
    return this.#result.catch(onFailed);
  }

  finally(onEnd?: (() => void) | null): Promise<Result> {
    return this.#result.finally(onEnd);
  }

  /** What comes, from the first on. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void> {
    // A failure is thrown from the loop: it does not go unseen.
    this.#result.catch(() => undefined);
    try {
      for (let at = 0; ; ) {
        while (at < this.#items.length) yield this.#items[at++] as Item;
        if (this.#ended) break;
        await this.#more;
      }
      await this.#result;
    } finally {
      this.#stop.abort();
    }
  }

  #next(): Promise<void> {
    return new Promise((resolve) => (this.#wake = resolve));
  }

  #tell(): void {
    const wake = this.#wake;
    this.#more = this.#next();
    wake();
  }
}
