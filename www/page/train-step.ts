/** Step 3: training, its progress and its loss. */

import type { TrainCallbacks, TrainResult, TrainStep, WebLoraError } from 'web-lora';
import type { App } from './app.js';
import { announce, byId, element, showText } from './dom.js';
import { formatDuration, formatLoss, formatPlural, formatSpeed } from './format.js';
import { drawLora } from './lora-picture.js';
import type { Follow } from './runs-panel.js';
import type { Settings } from './settings.js';
import { TrainCharts } from './train-charts.js';

/** Wires step 3. Returns what shows any other training there, such as one that goes on. */
export function trainStep(app: App, settings: Settings): Follow {
  const error = byId('train-error');
  const unsaved = byId('train-unsaved');
  const recovered = byId('train-recovered');
  const start = byId<HTMLButtonElement>('train-start');
  const stop = byId<HTMLButtonElement>('train-stop');
  const goOn = byId<HTMLInputElement>('train-continue');
  const status = byId('train-status');
  const bar = byId<HTMLProgressElement>('train-bar');
  const talk = byId('train-talk');
  const charts = new TrainCharts();
  let abort = new AbortController();

  const fromSettings = async (callbacks: TrainCallbacks) => {
    await app.refreshExamples();
    if (!goOn.checked || !app.state.adapter) await app.engine.newAdapter(settings.adapter);
    const { model, dataset } = app.state;
    const run = [dataset?.file.replace(/\.\w+$/, ''), model?.name].filter(Boolean).join(' on ');
    return app.engine.train(settings.training((app.state.dataset?.preferencePairs ?? 0) > 0), { run, ...callbacks });
  };

  const train = async (work: (callbacks: TrainCallbacks) => Promise<TrainResult>) => {
    showText(unsaved, undefined);
    showText(recovered, undefined);
    byId('train-progress').hidden = false;
    byId('train-steps').replaceChildren();
    byId('train-samples').hidden = true;
    byId('train-samples-list').replaceChildren();
    status.textContent = 'Getting the training step ready';
    bar.value = 0;
    let recovering = false;
    let told = 0;
    const begun = performance.now();
    const result = await work({
      signal: abort.signal,
      onProgress: ({ loaded, total }) => (bar.value = total > 0 ? loaded / total : 0),
      onPlan: (plan) => {
        if (recovering) return;
        status.textContent = `Step 1 of ${plan.steps}: the first one takes longest`;
        bar.value = 0;
        charts.start(plan);
      },
      onRecovering: (failure) => {
        recovering = true;
        showText(recovered, recoveryNote(failure));
        announce(recoveryNote(failure));
        status.textContent = 'Loading the model again';
        bar.value = 0;
      },
      onStep: (step) => {
        status.textContent = statusOf(step);
        bar.value = step.step / step.steps;
        // After a recovery some come again, the same as before.
        if (step.step <= told) return;
        told = step.step;
        charts.add(step);
        byId('train-steps').append(rowOf(step));
        app.state.lastLoss = step.loss;
      },
      onEval: (evaluation) => charts.evaluate(evaluation),
      onSample: ({ step, prompt, text }) => {
        byId('train-samples').hidden = false;
        byId('train-samples-list').append(sampleRow(step, prompt, text));
      },
      onSaved: () => showText(unsaved, undefined),
      onUnsaved: ({ message }) => showText(unsaved, message),
    });
    const took = formatDuration((performance.now() - begun) / 1000);
    status.textContent = `${result.stopped === 'end' ? 'Done' : 'Stopped'} after ${formatPlural(result.steps, 'step')} and ${took}`;
    goOn.checked = false;
    app.update({ adapter: await app.engine.adapterInfo() });
    announce(`${status.textContent}. You can talk to the model and compare its answers now.`);
  };

  /** What was learned until a failure stays; where that is nothing, the adapter from before comes back. */
  const afterFailure = async (failure: unknown) => {
    status.textContent = 'Not finished';
    const { engine } = app;
    const adapter = await engine.adapterInfo();
    if (adapter && adapter.trainedSteps > 0) app.update({ adapter });
    else {
      byId('train-progress').hidden = true;
      if (app.state.adapter && app.lastAdapter) await engine.loadAdapter(app.lastAdapter);
    }
    throw failure;
  };

  const follow: Follow = (work) => {
    showText(error, undefined);
    settings.showError(undefined);
    abort = new AbortController();
    void app.run(
      'train',
      () => train(work).catch(afterFailure),
      (failure: WebLoraError) => {
        if (!settings.showError(failure)) showText(error, failure.message);
      },
    );
  };
  byId('train-form').addEventListener('submit', (event) => {
    event.preventDefault();
    follow(fromSettings);
  });
  stop.addEventListener('click', () => {
    abort.abort();
    stop.disabled = true;
    status.textContent = 'Stopping after this step';
  });

  settings.onInput(() => drawLora(app.state.model?.hiddenSize ?? 0, settings.adapter.r ?? 0));

  app.onChange(({ model, dataset, dataSource, adapter, busy, trouble, engine }) => {
    const training = busy === 'train';
    byId('train-step').toggleAttribute('data-locked', !model || !dataset);
    const trained = !training && (adapter?.trainedSteps ?? 0) > 0;
    byId('train-step').toggleAttribute('data-done', trained);
    // Once it is trained the next thing to do is to talk to it.
    talk.hidden = !trained || !dataset;
    start.textContent = trained ? 'Train again' : 'Start training';
    start.classList.toggle('primary', !trained);
    // The focus moves to the button that takes the other's place.
    const focused = document.activeElement === start || document.activeElement === stop;
    start.hidden = training;
    stop.hidden = !training;
    if (!training) stop.disabled = false;
    start.disabled = busy !== undefined || !model || !dataset || trouble !== undefined;
    if (focused) (training ? stop : trained ? talk : start).focus();
    byId('train-continue-label').hidden = training || !adapter;
    byId('settings-fields').inert = training;
    byId('train-summary').textContent = dataset && !training ? formatPlural(dataset.examples, 'example') : '';
    if (model) settings.offerTargets(model.targetModules);
    settings.suggest(engine?.device.software ?? false, dataSource?.sample);
    if (model) drawLora(model.hiddenSize, settings.adapter.r ?? 0);
  });
  return follow;
}

function recoveryNote({ code }: WebLoraError): string {
  const what = code === 'device_lost' ? 'The GPU was lost' : 'The engine stopped on a fault of its own';
  return `${what}. The model is loaded again, and training goes on from its last checkpoint to the same result.`;
}

function sampleRow(step: number, prompt: string, text: string): HTMLElement {
  const asked = element('span', { className: 'quiet', text: `Step ${step}: ${prompt} ` });
  return element('li', {}, asked, document.createTextNode(text));
}

function statusOf({ step, steps, loss, tokensPerSecond, secondsLeft, skipped }: TrainStep): string {
  const left = step < steps && secondsLeft !== undefined ? ` · ${formatDuration(secondsLeft)} left` : '';
  const note = skipped ? ' · step skipped, its gradient was not finite' : '';
  return `Step ${step} of ${steps} · loss ${formatLoss(loss)} · ${formatSpeed(tokensPerSecond)} tokens/s${left}${note}`;
}

function rowOf(step: TrainStep): HTMLElement {
  const cells = [
    String(step.step),
    step.loss.toFixed(4),
    step.skipped ? 'skipped' : step.gradNorm.toFixed(3),
    step.learningRate.toExponential(2),
    formatSpeed(step.tokensPerSecond),
    step.secondsLeft === undefined ? '' : formatDuration(step.secondsLeft),
  ];
  return element('tr', {}, ...cells.map((text) => element('td', { text })));
}
