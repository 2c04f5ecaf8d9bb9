/** `web-lora info`: what training a model would take, from the headers of its files. */

import { ADAPTER_FLAGS, MODEL_FLAGS, TRAIN_FLAGS, pick, readFlags, type Flags } from './flags.js';
import { SESSION_FLAGS, openSession, sourceOf } from './session.js';

const PLAN_FLAGS = {
  r: ['number', 'rank of the adapter'],
  targetModules: ['text', 'modules to adapt, as a regular expression or all-linear'],
  useDora: ADAPTER_FLAGS.useDora,
  loraDropout: ADAPTER_FLAGS.loraDropout,
  loss: TRAIN_FLAGS.loss,
  optim: TRAIN_FLAGS.optim,
  evalSteps: TRAIN_FLAGS.evalSteps,
  tokensPerPass: ['number', 'most tokens at once'],
  memoryBudget: ['number', 'GPU memory to stay within, in bytes'],
} satisfies Flags;

export const INFO_GROUPS: Record<string, Flags> = { 'what to foresee': { ...SESSION_FLAGS, ...PLAN_FLAGS } };

export async function info(args: string[]): Promise<boolean> {
  const values = readFlags(args, { ...SESSION_FLAGS, ...PLAN_FLAGS });
  const source = sourceOf(values);
  const { engine, signal, tell } = await openSession(values);
  try {
    const forecast = await engine.planMemory(source, pick(values, { ...MODEL_FLAGS, ...PLAN_FLAGS }), { signal });
    const { device } = engine;
    tell({ type: 'info', device, forecast });
    if (values.json) return true;
    const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
    const { weights, adapter, optimizer, activations, workspace, total, tokensPerSecond } = forecast;
    const rows = { weights, adapter, optimizer, activations, workspace, total };
    const lines = Object.entries(rows).map(([name, bytes]) => `${name.padEnd(12)} ${megabytes(bytes).padStart(12)}`);
    process.stdout.write(`${device.name}, products ${device.products.variant}\n${lines.join('\n')}\n`);
    process.stdout.write(`${'training'.padEnd(12)} ${`${Math.round(tokensPerSecond)}`.padStart(12)} tokens/s\n`);
    return true;
  } finally {
    engine.dispose();
  }
}
