/** `web-lora runs`: the runs that are kept on this machine. */

import { runs } from '../index.js';
import { readFlags, type Flags } from './flags.js';

const OWN_FLAGS = { json: ['flag', 'JSON on stdout, a line for each run'] } satisfies Flags;

export const RUNS_GROUPS: Record<string, Flags> = { 'how': OWN_FLAGS };

/** Lists them, the newest first. */
export async function listRuns(args: string[]): Promise<boolean> {
  const { json } = readFlags(args, OWN_FLAGS) as { json?: boolean };
  const kept = await runs.list();
  const width = Math.max(0, ...kept.map(({ name }) => name.length));
  for (const run of kept) {
    const { name, status, step, steps, loss, config, created } = run;
    const at = `${step}/${steps}`.padStart(13);
    const told = [name.padEnd(width), status.padEnd(11), at, loss === undefined ? '' : `loss ${loss.toFixed(4)}`.padEnd(11)];
    const line = [...told, new Date(created).toISOString().slice(0, 16), config.model.name].join('  ');
    process.stdout.write(`${json ? JSON.stringify(run) : line}\n`);
  }
  for (const id of await runs.damaged()) process.stderr.write(`the run ${id} is damaged: nobody knows any more what it is\n`);
  return true;
}
