/**
 * The adapters on the loaded model, each under a name. Their files are kept on this side too, so that they outlive the
 * engine. What is trained anew is trained in the engine's place without a name, and gets its name when there is
 * something to it.
 */

import type { AdapterCard, AdapterEntry, AdapterFiles } from 'web-lora';
import type { App } from './app.js';

/** One of them. */
export interface NamedAdapter extends AdapterEntry {
  name: string;
}

/** What one that was trained here comes from. */
export type Origin = Pick<AdapterCard, 'dataset' | 'training' | 'loss' | 'evaluation' | 'facts'>;

interface Kept {
  files: AdapterFiles;
  origin: Origin | undefined;
}

/** A training under way: under which name its adapter will be kept. */
interface Training {
  name: string;
  /** It goes on with this adapter, in its place. */
  inPlace: boolean;
  /** Copies on this side that are not this one are of this training. */
  before: AdapterFiles | undefined;
}

const LONGEST_NAME = 80;

/** Those there are, and which of them answers. Drawn from the page's state. */
export class Adapters {
  readonly #app: App;
  readonly #kept = new Map<string, Kept>();
  #inUse: string | undefined;
  #training: Training | undefined;
  /** The one that was in use when its model went. */
  #outlived: AdapterFiles | undefined;

  constructor(app: App) {
    this.#app = app;
  }

  /** A copy of the adapter in use or under training, whatever has become of model and engine. */
  get newest(): AdapterFiles | undefined {
    return this.#unfinished ?? this.#kept.get(this.#inUse ?? '')?.files ?? this.#outlived;
  }

  /** Keeps an adapter under this name, or one like it where it is taken, and puts it in use. */
  async add(name: string, from: AdapterFiles | Blob | readonly File[], origin?: Origin): Promise<void> {
    const { engine } = this.#app;
    const free = this.#free(name);
    await engine.addAdapter(free, from);
    await engine.useAdapter(free);
    this.#kept.set(free, { files: await engine.saveAdapter(), origin });
    await this.#put(free);
  }

  /** Keeps those in some files: zips, and one whose files are not zipped. */
  async open(files: readonly File[]): Promise<void> {
    const zips = files.filter(({ name }) => name.endsWith('.zip'));
    const loose = files.filter(({ name }) => !name.endsWith('.zip'));
    for (const zip of zips) await this.add(zip.name.replace(/\.zip$/, ''), zip);
    const [first] = loose;
    if (first) await this.add(first.webkitRelativePath.split('/')[0] || 'adapter', loose);
  }

  async use(name: string): Promise<void> {
    await this.#app.engine.useAdapter(name);
    await this.#put(name);
  }

  /** Has another one answer, and puts the one in use back. */
  async lend<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
    const { engine } = this.#app;
    await engine.useAdapter(name);
    try {
      return await work();
    } finally {
      await engine.useAdapter(this.#inUse);
    }
  }

  async rename(name: string, to: string): Promise<void> {
    const { engine } = this.#app;
    const kept = this.#kept.get(name);
    if (to === name || !kept) return;
    await engine.addAdapter(to, name);
    if (name === this.#inUse) await engine.useAdapter(to);
    await engine.removeAdapter(name);
    this.#kept.set(to, kept);
    this.#kept.delete(name);
    await this.#put(name === this.#inUse ? to : this.#inUse);
  }

  /** Where it is in use, another takes its place. */
  async remove(name: string): Promise<void> {
    const { engine } = this.#app;
    const other = [...this.#kept.keys()].find((kept) => kept !== name);
    if (name === this.#inUse && other !== undefined) await engine.useAdapter(other);
    await engine.removeAdapter(name);
    this.#kept.delete(name);
    await this.#put(name === this.#inUse ? other : this.#inUse);
  }

  /** The files of one. */
  files(name: string): AdapterFiles | undefined {
    return this.#kept.get(name)?.files;
  }

  origin(name: string): Origin | undefined {
    return this.#kept.get(name)?.origin;
  }

  /** Before a training: of the adapter in use, or of another, which will be kept under a name like this. */
  async begin(name: string, inPlace: boolean): Promise<void> {
    const { engine } = this.#app;
    if (!inPlace && this.#inUse !== undefined) await engine.useAdapter();
    this.#training = { name: inPlace ? (this.#inUse ?? name) : name, inPlace, before: engine.lastAdapter };
  }

  /** After a training of which something came. */
  async keep(): Promise<void> {
    const { engine } = this.#app;
    if (!this.#training) return;
    const { inPlace } = this.#training;
    const name = inPlace ? this.#training.name : this.#free(this.#training.name);
    if (!inPlace) {
      await engine.addAdapter(name);
      await engine.useAdapter(name);
    }
    this.#kept.set(name, { files: await engine.saveAdapter(), origin: this.#origin });
    this.#training = undefined;
    await this.#put(name);
  }

  /** After one of which nothing came. */
  async abandon(): Promise<void> {
    if (this.#training && this.#inUse !== undefined) await this.#app.engine.useAdapter(this.#inUse);
    this.#training = undefined;
  }

  /** With a model go its adapters. */
  forget(): void {
    this.#outlived = this.newest;
    this.#kept.clear();
    this.#training = undefined;
    this.#inUse = undefined;
  }

  /** Keeps what there is of a training that was cut off, before its engine goes. */
  rescue(): void {
    const files = this.#unfinished;
    if (this.#training && files) {
      const { name, inPlace } = this.#training;
      this.#inUse = inPlace ? name : this.#free(name);
      this.#kept.set(this.#inUse, { files, origin: this.#origin });
    }
    this.#training = undefined;
  }

  /** Brings them to a new engine. */
  async restore(): Promise<void> {
    const { engine } = this.#app;
    for (const [name, { files }] of this.#kept) await engine.addAdapter(name, files);
    if (this.#inUse !== undefined) await engine.useAdapter(this.#inUse);
    await this.#put(this.#inUse);
  }

  /** That of the training under way. */
  get #origin(): Origin | undefined {
    const { dataset, lastRun } = this.#app.state;
    return dataset && { dataset, ...lastRun };
  }

  get #unfinished(): AdapterFiles | undefined {
    const copy = this.#app.state.engine?.lastAdapter;
    return this.#training && copy !== this.#training.before ? copy : undefined;
  }

  /** Tells the page what there is now. */
  async #put(inUse: string | undefined): Promise<void> {
    this.#inUse = inUse;
    if (inUse !== undefined) this.#outlived = undefined;
    const entries = await this.#app.engine.listAdapters();
    const adapters = entries.filter((entry): entry is NamedAdapter => entry.name !== undefined);
    const adapter = adapters.find(({ name }) => name === inUse);
    this.#app.update({ adapters, adapter });
  }

  /** The name, with a number where there is one of that name. */
  #free(wanted: string): string {
    const name = wanted.trim().slice(0, LONGEST_NAME) || 'adapter';
    let free = name;
    for (let number = 2; this.#kept.has(free); number++) free = `${name} ${number}`;
    return free;
  }
}
