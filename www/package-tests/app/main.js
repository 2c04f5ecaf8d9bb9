/** What someone writes who has just installed the package; each app is this, put together another way. */

import { createEngine } from 'web-lora';

async function run() {
  const engine = await createEngine({ variant: 'direct' });
  await engine.loadModel('/model/');
  const { examples } = await engine.loadDataset(await (await fetch('/data.jsonl')).text(), { name: 'data.jsonl' });
  await engine.newAdapter({ r: 8, loraAlpha: 8 });
  const losses = [];
  for await (const { loss } of engine.train({ steps: 30, learningRate: 0.01, warmupSteps: 5 })) losses.push(loss);
  const { text } = await engine.generate({ messages: [{ role: 'user', content: 'Hi' }], temperature: 0, maxNewTokens: 8 });
  const { config, weights } = await engine.saveAdapter();
  engine.dispose();
  return { examples, losses, text, config: new TextDecoder().decode(config), weights: [...weights] };
}

globalThis.outcome = run();
