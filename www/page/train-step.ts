/** Step 3: training, its progress and its loss. */

import type { TrainCallbacks, TrainResult, TrainStep, WebLoraError } from 'web-lora';
import type { App, LastRun } from './app.js';
import { announce, byId, element, showText } from './dom.js';
import { formatDuration, formatLoss, formatPlural, formatSpeed } from './format.js';
import { drawLora } from './lora-picture.js';
import type { Follow } from './runs-panel.js';
import type { Settings } from './settings.js';
import { TrainCharts } from './train-charts.js';

/** Wires step 3. Returns what shows any other training there, such as one that goes on. */
export function trainStep(app: App, settings: Settings): Follow {
  const error = byId('train-error');
  const recovered = byId('train-recovered');
  const start = byId<HTMLButtonElement>('train-start');
  const stop = byId<HTMLButtonElement>('train-stop');
  const goOn = byId<HTMLInputElement>('train-continue');
  const status = byId('train-status');
  const bar = byId<HTMLProgressElement>('train-bar');
  const talk = byId('train-talk');
  const charts = new TrainCharts();
  let abort = new AbortController();
  /** Whether the training has come to a step. */
  let learned = false;

  const fromSettings = async (callbacks: TrainCallbacks) => {
    await app.refreshExamples();
    const { model, dataset, adapter } = app.state;
    const name = dataset?.file.replace(/\.\w+$/, '') ?? 'adapter';
    const inPlace = goOn.checked && adapter !== undefined;
    await app.adapters.begin(name, inPlace);
    if (!inPlace) await app.engine.newAdapter(settings.adapter);
    const run = [name, model?.name].filter(Boolean).join(' on ');
    const training = settings.training((dataset?.preferencePairs ?? 0) > 0);
    Object.assign(app.state.lastRun ?? {}, { training });
    return app.engine.train(training, { run, ...callbacks });
  };

  const showUnsaved = (message: string | undefined) => {
    byId('train-unsaved').hidden = message === undefined;
    byId('train-unsaved-text').textContent = message ?? '';
  };

  const train = async (work: (callbacks: TrainCallbacks) => Promise<TrainResult>) => {
    showUnsaved(undefined);
    showText(byId('train-paused'), undefined);
    showText(recovered, undefined);
    byId('train-progress').hidden = false;
    byId('train-steps').replaceChildren();
    byId('train-samples').hidden = true;
    byId('train-samples-list').replaceChildren();
    status.textContent = 'Getting the training step ready';
    bar.value = 0;
    learned = false;
    let recovering = false;
    let told = 0;
    const begun = performance.now();
    const lastRun: LastRun = {};
    app.update({ lastRun });
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
        learned = true;
        status.textContent = statusOf(step);
        bar.value = step.step / step.steps;
        // After a recovery some come again, the same as before.
        if (step.step <= told) return;
        told = step.step;
        charts.add(step);
        byId('train-steps').append(rowOf(step));
        lastRun.loss = step.loss;
        byId('train-unsaved-download').hidden = !app.adapters.newest;
      },
      onEval: (evaluation) => {
        charts.evaluate(evaluation);
        lastRun.evaluation = evaluation;
      },
      onSample: ({ step, prompt, text }) => {
        byId('train-samples').hidden = false;
        byId('train-samples-list').append(sampleRow(step, prompt, text));
      },
      onSaved: () => showUnsaved(undefined),
      onUnsaved: ({ message }) => showUnsaved(message),
    });
    const took = formatDuration((performance.now() - begun) / 1000);
    status.textContent = `${result.stopped === 'end' ? 'Done' : 'Stopped'} after ${formatPlural(result.steps, 'step')} and ${took}`;
    goOn.checked = false;
    await (learned ? app.adapters.keep() : app.adapters.abandon());
    announce(`${status.textContent}. You can talk to the model and compare its answers now.`);
  };

  /** What was learned until a failure stays; where that is nothing, the adapter from before comes back. */
  const afterFailure = async (failure: unknown) => {
    status.textContent = 'Not finished';
    if (learned) await app.adapters.keep();
    else {
      byId('train-progress').hidden = true;
      await app.adapters.abandon();
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

  // A browser may stop a tab that nobody sees, and its worker with it; from where they were they go on.
  let frozen: number | undefined;
  document.addEventListener('freeze', () => (frozen = Date.now()));
  document.addEventListener('resume', () => {
    if (frozen === undefined || app.state.busy !== 'train') return;
    showText(byId('train-paused'), `The browser had paused this tab for ${formatDuration((Date.now() - frozen) / 1000)}. Training goes on from there.`);
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
    const pairs = (dataset?.preferencePairs ?? 0) > 0;
    byId('train-summary').textContent =
      dataset && !training ? formatPlural(dataset.examples, pairs ? 'pair' : 'example') : '';
    if (model) settings.offer(model);
    settings.suggest(engine?.device.software ?? false, dataSource?.sample, pairs);
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
