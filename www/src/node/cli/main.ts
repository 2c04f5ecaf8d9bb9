#!/usr/bin/env node
/**
 * The command `web-lora`. Ends with 0 where all was done, 1 on a fault, 2 where the command line is at fault, 130 where
 * Ctrl-C stopped it, which keeps what was learned.
 */

import { WebLoraError, type ErrorCode } from '../../errors.js';
import { UsageError, describe, flagOf, type Flags } from './flags.js';
import { GENERATE_GROUPS, generate } from './generate.js';
import { INFO_GROUPS, info } from './info.js';
import { MERGE_GROUPS, merge } from './merge.js';
import { RUNS_GROUPS, listRuns } from './runs.js';
import { TRAIN_GROUPS, train } from './train.js';

interface Command {
  what: string;
  groups: Record<string, Flags>;
  run: (args: string[]) => Promise<boolean>;
}

const COMMANDS: Record<string, Command> = {
  train: { what: 'trains a LoRA adapter: --model M --data FILE --out FOLDER', groups: TRAIN_GROUPS, run: train },
  runs: { what: 'lists the runs that train --run NAME has kept', groups: RUNS_GROUPS, run: listRuns },
  generate: { what: 'answers a prompt: --model M [--adapter FOLDER] --prompt TEXT', groups: GENERATE_GROUPS, run: generate },
  merge: { what: 'writes model and adapter as one model: --model M --adapter FOLDER --out FOLDER', groups: MERGE_GROUPS, run: merge },
  info: { what: 'says what training a model would take: --model M', groups: INFO_GROUPS, run: info },
};

/** What there is to do about an error. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  no_adapter: 'Install the drivers of your GPU, with Vulkan on Linux.',
  out_of_memory: 'Try --memory-budget, a smaller --tokens-per-pass, or --quantize q8_0.',
  gated: 'Accept the model’s terms on its page, and give --token or set HF_TOKEN.',
  bad_token: 'Look at --token or HF_TOKEN.',
  no_space: 'WEB_LORA_CACHE says in which folder models are kept.',
  device_lost: 'Try again; where it keeps happening, a smaller --tokens-per-pass gives the GPU less to do at once.',
};

async function main([name = '', ...args]: string[]): Promise<number> {
  const command = COMMANDS[name];
  if (!command) {
    const asked = ['', 'help', '--help', '-h'].includes(name);
    (asked ? process.stdout : process.stderr).write(`${asked ? '' : `There is no command ${name}.\n\n`}${overview()}\n`);
    return asked ? 0 : 2;
  }
  if (args.includes('--help') || args.includes('-h')) {
    const groups = Object.entries(command.groups).map(([title, flags]) => `${title}:\n${describe(flags)}`);
    process.stdout.write(`web-lora ${name} ${command.what}\n\n${groups.join('\n\n')}\n`);
    return 0;
  }
  try {
    return (await command.run(args)) ? 0 : 130;
  } catch (error) {
    return explain(error, name);
  }
}

function overview(): string {
  const rows = Object.entries(COMMANDS).map(([name, { what }]) => `  web-lora ${name.padEnd(9)} ${what}`);
  const title = 'Trains LoRA adapters of small language models on the GPU.';
  return [title, rows.join('\n'), 'web-lora <command> --help lists all flags.'].join('\n\n');
}

function explain(error: unknown, command: string): number {
  if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\nweb-lora ${command} --help lists all flags.\n`);
    return 2;
  }
  if (!(error instanceof WebLoraError)) throw error;
  const { code, message, file, line, setting, allowed } = error;
  if (code === 'cancelled') return 130;
  const place = file !== undefined && line !== undefined ? `${file}, line ${line}: ` : '';
  const advice = ADVICE[code] ?? (code === 'bad_setting' && setting ? `Give ${flagOf(setting)} ${allowed ?? 'another value'}.` : '');
  process.stderr.write(`${place}${message}\n${advice ? `${advice}\n` : ''}`);
  return code === 'bad_setting' ? 2 : 1;
}

// The GPU's library may hold on to the process: it ends here.
process.exit(await main(process.argv.slice(2)));
