/**
 * Puts every fault there is into every call of a small training, and holds what comes of it to the rules: it ends within
 * its time; in the bytes of a run that was left alone, or in an error of the package's after which the run that was kept
 * goes on to those bytes.
 *
 *     node sweep.mjs --dist FOLDER --model FOLDER [--dawn FILE --patience 5] [--stride 7 --offset 3] [--kinds lost,hang] [--at 99] [--always] [--loose]
 *
 * `--at`: the first at this call or after it. `--always`: all calls from the k-th on fail. `--loose`: the run is not kept.
 */

import { parseArgs } from 'node:util';
import { openEngines } from './engines.js';
import { CALLS, type Fault, type Kind } from './layer.js';
import { FAILED } from './order.js';
import { codeOf, resume, train, type Outcome, type Setting } from './scenario.js';

const { values } = parseArgs({
  options: {
    dist: { type: 'string', default: '' },
    model: { type: 'string', default: '' },
    patience: { type: 'string', default: '0.3' },
    dawn: { type: 'string' },
    stride: { type: 'string', default: '1' },
    offset: { type: 'string', default: '0' },
    kinds: { type: 'string' },
    at: { type: 'string' },
    always: { type: 'boolean', default: false },
    loose: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

/** No run may take longer, however it ends. A software GPU takes seconds to compile. */
const LONGEST_MS = values.dawn ? 240_000 : 30_000;

const engines = await openEngines(values);
const { webLora, numbers } = engines;

const setting: Setting = { model: values.model, patience: Number(values.patience), kept: !values.loose };
const clean = await attempt(undefined);
if (!clean.digest) throw clean.error;
const expected = clean.digest;
const names = engines.calls();
console.log(`${names.length} calls: ${counted(names)}`);

const kinds = values.kinds?.split(',') as Kind[] | undefined;
const all = names.flatMap((name, at) => CALLS[name].map((kind: Kind): Fault => ({ at, kind, always: values.always })));
const possible = all.filter(({ at, kind }) => (kinds?.includes(kind) ?? true) && at >= Number(values.at ?? 0));
const chosen = possible
  .filter((_, index) => index % Number(values.stride) === Number(values.offset) % Number(values.stride))
  .slice(0, values.at === undefined ? undefined : 1);
if (chosen.length === 0) throw new Error('there is no such fault');
const ends: string[] = [];
const wrong: string[] = [];
const began = performance.now();
for (const one of chosen) {
  const name = `${one.kind} at call ${one.at}, ${names[one.at]}`;
  const started = performance.now();
  const end = await judge(one).catch((error: unknown) => {
    wrong.push(`${name}: ${error instanceof Error ? error.message : String(error)}\n${engines.said()}`);
    return 'WRONG';
  });
  ends.push(end);
  if (values.verbose) console.log(`${name}: ${end}, ${Math.round(performance.now() - started)} ms`);
}
const seconds = Math.round((performance.now() - began) / 1000);
console.log(`${chosen.length} faults of ${all.length} in ${seconds} s: ${counted(ends)}`);
wrong.forEach((line) => console.log(`WRONG: ${line}`));
process.exit(wrong.length > 0 ? 1 : 0);

/** Trains with a fault, and says how that ended. */
async function judge(one: Fault): Promise<string> {
  const outcome = await attempt(one);
  const { digest, error, run, recoveries, adapters } = outcome;
  if (numbers[FAILED] === 0 && !one.always) throw new Error('the fault was never met');
  // Once, and again after each checkpoint.
  if (recoveries.length > 1 + new Set(outcome.saved).size) throw new Error(`it recovered ${recoveries.length} times`);
  const recovered = recoveries.length > 0 ? ' after recovery' : '';
  if (digest !== undefined) {
    if (adapters !== clean.adapters) throw new Error(`done, beside other adapters${recovered}: ${adapters}`);
    if (digest !== expected) throw new Error(`done, with other bytes${recovered}: told ${outcome.told}, saved ${outcome.saved}`);
    return `done${recovered}`;
  }
  const code = codeOf(webLora, error);
  if (run === undefined || !setting.kept) return `${code}${recovered}`;
  engines.prepare(undefined);
  const resumed = await inTime(resume(webLora, run, setting));
  if (resumed !== expected) throw new Error(`${code}, and other bytes once it was resumed: saved ${outcome.saved}`);
  return `${code}${recovered}, resumed`;
}

async function attempt(one: Fault | undefined): Promise<Outcome> {
  engines.prepare(one);
  return inTime(train(webLora, setting));
}

async function inTime<Result>(work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error('it never ended')), LONGEST_MS)));
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** `a ×3, b`. */
function counted(words: readonly string[]): string {
  const counts = new Map<string, number>();
  words.forEach((word) => counts.set(word, (counts.get(word) ?? 0) + 1));
  return [...counts].map(([word, count]) => `${word} ×${count}`).join(', ');
}
