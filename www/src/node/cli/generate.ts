/** `web-lora generate`: answers a prompt, with an adapter or without. */

import { GENERATE_FLAGS, UsageError, pick, readFlags, type Flags } from './flags.js';
import { SESSION_FLAGS, loadModel, openSession, readAdapter } from './session.js';

export const GENERATE_GROUPS: Record<string, Flags> = {
  'what to answer': {
    ...SESSION_FLAGS,
    adapter: ['text', 'folder with adapter_config.json and adapter_model.safetensors'],
    prompt: ['text', 'what to say to the model'],
    system: ['text', 'said before it, in the name of the system'],
    raw: ['flag', 'goes on from the prompt as it is, without the model’s chat template'],
  },
  'how': GENERATE_FLAGS,
};

/** Writes the answer to stdout as it comes; false where it was stopped. */
export async function generate(args: string[]): Promise<boolean> {
  const values = readFlags(args, Object.assign({}, ...Object.values(GENERATE_GROUPS)));
  const { adapter, prompt, system } = values as { adapter?: string; prompt?: string; system?: string };
  const { raw, json } = values as { raw?: boolean; json?: boolean };
  if (!prompt) throw new UsageError('--prompt is missing.');
  const files = adapter === undefined ? undefined : await readAdapter(adapter);
  const session = await openSession(values);
  const { engine, signal, status, tell } = session;
  try {
    await loadModel(session);
    if (files) await engine.loadAdapter(files, { signal });
    const messages = [...(system ? [{ role: 'system', content: system }] : []), { role: 'user', content: prompt }];
    const answer = engine.generate({ ...(raw ? { prompt } : { messages }), ...pick(values, GENERATE_FLAGS) }, { signal });
    status.clear();
    for await (const text of answer) if (!json) process.stdout.write(text);
    if (!json) process.stdout.write('\n');
    const result = await answer;
    tell({ type: 'result', ...result });
    return result.stopped !== 'cancelled';
  } finally {
    engine.dispose();
  }
}
