/** `web-lora merge`: a model and an adapter as one model, in a Hugging Face folder. */

import { MERGE_FLAGS, UsageError, pick, readFlags, type Flags } from './flags.js';
import { SESSION_FLAGS, loadModel, openSession, readAdapter, type Session } from './session.js';

const OWN_FLAGS = {
  adapter: ['text', 'folder with adapter_config.json and adapter_model.safetensors'],
  out: ['text', 'folder for the merged model'],
  check: ['flag', 'loads what was written beside the model, and says how far its answers are from those of model and adapter'],
} satisfies Flags;

export const MERGE_GROUPS: Record<string, Flags> = { 'what to merge': { ...SESSION_FLAGS, ...OWN_FLAGS, ...MERGE_FLAGS } };

/** Writes the model. */
export async function merge(args: string[]): Promise<boolean> {
  const values = readFlags(args, Object.assign({}, ...Object.values(MERGE_GROUPS)));
  const { adapter, out, check } = values as { adapter?: string; out?: string; check?: boolean };
  if (!adapter) throw new UsageError('--adapter is missing: the folder of an adapter.');
  if (!out) throw new UsageError('--out is missing: a folder for the merged model.');
  const files = await readAdapter(adapter);
  const session = await openSession(values);
  const { engine, signal, status, tell } = session;
  try {
    await loadModel(session);
    await engine.loadAdapter(files, { signal });
    await saveMerged(session, out);
    if (!check) return true;
    const found = await engine.checkMerged(out, { signal, onProgress: status.progress });
    tell({ type: 'check', ...found });
    const same = found.sameTokens ? 'the likeliest tokens are the same' : 'a likeliest token is another one';
    status.say(`check: logits are off by ${found.off.toPrecision(2)} where the adapter moves them by ${found.moved.toPrecision(2)}; ${same}`);
    return true;
  } finally {
    engine.dispose();
  }
}

/** Writes what the engine has, merged, as the session's flags say. */
export async function saveMerged({ engine, values, signal, status, tell }: Session, out: string): Promise<void> {
  const report = await engine.saveMerged(out, pick(values, MERGE_FLAGS), { signal, onProgress: status.progress });
  tell({ type: 'merged', out, ...report });
  const { merged, dtype, sizeBytes, baseDtype, baseQuantized, tokenizer } = report;
  status.say(`merged: ${merged} matrices, ${dtype}, ${(sizeBytes / 1e6).toFixed(1)} MB in ${out}`);
  if (baseQuantized) {
    status.say(`merged: the base is ${baseDtype}; its numbers take their full size, and would lose what was learned in blocks`);
  }
  if (tokenizer === 'none') status.say('merged: the model came without a tokenizer, so none is written');
  if (tokenizer === 'made') status.say('merged: the tokenizer’s files are made of the GGUF’s metadata');
  if (!values.json) process.stdout.write(`${out}\n`);
}
