/** Is compiled against the installed package, never run: the types are what is tested. */

import { createEngine, WebLoraError, hubCache, type Engine, type Task, type TrainResult, type TrainStep } from 'web-lora';

export async function use(signal: AbortSignal): Promise<TrainResult> {
  const engine: Engine = await createEngine({ signal });
  await engine.loadModel({ repo: 'org/name' }, { signal, quantize: 'q8_0' });
  const run: Task<TrainStep, TrainResult> = engine.train({ steps: 3 }, { signal });
  for await (const step of run) console.log(step.loss.toFixed(2));
  for await (const text of engine.generate({ prompt: 'Hi' })) console.log(text.length);
  // @ts-expect-error there is no such option
  await engine.train({ stepz: 3 });
  // @ts-expect-error nor such a method
  engine.trian();
  console.log(await hubCache.size());
  return run.catch((error: unknown) => {
    if (error instanceof WebLoraError && error.code === 'cancelled') return { steps: 0, stopped: 'cancelled' };
    throw error;
  });
}
