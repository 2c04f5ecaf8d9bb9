/** In Node, with `npm install web-lora webgpu`: node node-script.mjs MODEL DATA OUT */

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createEngine } from 'web-lora';

const [model, data, out] = process.argv.slice(2);
const engine = await createEngine();
// A path of a .gguf file or of a Hugging Face folder, a URL, or { repo: 'org/name' } on the Hub.
await engine.loadModel(model);
await engine.loadDataset(await readFile(data), { name: data });
await engine.newAdapter({ r: 8, loraAlpha: 8 });

for await (const { step, steps, loss } of engine.train({ steps: 30, learningRate: 0.01, warmupSteps: 5 })) {
  console.log(`${step}/${steps} ${loss.toFixed(4)}`);
}

const { config, weights } = await engine.saveAdapter();
await mkdir(out, { recursive: true });
await writeFile(`${out}/adapter_config.json`, config);
await writeFile(`${out}/adapter_model.safetensors`, weights);

const { text } = await engine.generate({ messages: [{ role: 'user', content: 'Hi' }], temperature: 0, maxNewTokens: 8 });
console.log(text);
engine.dispose();
