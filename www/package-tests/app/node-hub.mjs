/** Loads a model by its name, says what is kept, and lets the process end. Arguments: endpoint, and what to do. */

import { createEngine, hubCache, runs } from 'web-lora';

const [endpoint, what] = process.argv.slice(2);
const engine = await createEngine({ variant: 'direct' });
const phases = new Set();
try {
  const { name } = await engine.loadModel({ repo: 'tiny/chat', endpoint }, { onProgress: ({ phase }) => phases.add(phase) });
  if (what === 'run') {
    await engine.loadDataset('{"prompt": "Hi", "completion": " there"}');
    await engine.newAdapter({ r: 2, targetModules: ['q_proj'] });
    const stop = new AbortController();
    const options = { steps: 4, seed: 1 };
    let id;
    await engine.train(options, { run: 'cut off', signal: stop.signal, onRun: (run) => (id = run), onStep: ({ step }) => step === 2 && stop.abort() });
    const { status } = (await runs.list())[0];
    // Elsewhere than where it was stopped: from what is on the disk.
    await engine.clearDataset();
    await engine.resumeRun(id);
    const resumed = Buffer.from((await engine.saveAdapter()).weights).toString('hex');
    const { steps } = await runs.metrics(id);
    await engine.newAdapter({ r: 2, targetModules: ['q_proj'] });
    await engine.train(options);
    const whole = Buffer.from((await engine.saveAdapter()).weights).toString('hex');
    console.log(JSON.stringify({ status, after: (await runs.list())[0].status, steps: steps.map(({ step }) => step), same: resumed === whole }));
  } else {
    const kept = await hubCache.list();
    console.log(JSON.stringify({ name, phases: [...phases], kept: kept.map(({ source, complete }) => [source.repo, complete]) }));
  }
} catch (error) {
  console.log(JSON.stringify({ code: error.code, message: error.message }));
}
