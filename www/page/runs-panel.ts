/** Runs kept in this browser: to go on with, to compare, to repeat, to rename, to take out, to delete. */

import { runs, type RunConfig, type RunInfo, type TrainCallbacks, type TrainResult } from 'web-lora';
import { toError, type App } from './app.js';
import { announce, byId, element, onFiles, showText } from './dom.js';
import { formatLoss, formatPlural, formatWhen } from './format.js';
import { saveAs } from './keep-step.js';
import { askName } from './rename.js';
import { compareRuns } from './runs-plot.js';
import type { Settings } from './settings.js';

/** Trains as step 3 shows it. */
export type Follow = (work: (callbacks: TrainCallbacks) => Promise<TrainResult>) => void;

const STATUS: Record<RunInfo['status'], string> = {
  running: 'under way',
  interrupted: 'cut off',
  stopped: 'stopped',
  failed: 'failed',
  done: 'done',
};

/** Wires the list, its place in the bar, and the notice of a run that was cut off. */
export function runsPanel(app: App, settings: Settings, follow: Follow): void {
  const panel = byId('runs');
  const open = byId<HTMLButtonElement>('runs-open');
  const error = byId('runs-error');
  const compared = new Set<string>();
  let all: RunInfo[] = [];
  /** The ids of those that cannot be read. */
  let lost: string[] = [];

  const attempt = async (work: () => Promise<void>) => {
    showText(error, undefined);
    try {
      await work();
    } catch (thrown) {
      showText(error, toError(thrown).message);
    }
  };
  const show = (shown: boolean) => {
    panel.hidden = !shown;
    open.setAttribute('aria-expanded', String(shown));
    if (shown) byId('runs-title').focus();
  };
  const read = () =>
    attempt(async () => {
      all = await runs.list();
      lost = await runs.damaged();
      draw();
    });
  byId('runs-damaged-delete').addEventListener('click', () => {
    void attempt(async () => {
      for (const id of lost) await runs.delete(id);
      await read();
    });
  });

  /** Model and examples first, so that the page knows of them as well; the engine does the rest. */
  const goOn = (run: RunInfo) => {
    show(false);
    follow(async (callbacks) => {
      await ready(run.config, await runs.data(run.id));
      await app.adapters.begin(run.name, false);
      return app.engine.resumeRun(run.id, callbacks);
    });
  };
  const ready = async ({ model, data }: RunConfig, files: File[]) => {
    const { source, options } = model;
    if (source !== undefined && app.state.model?.name !== model.name) await app.loadModel(source, options.quantize);
    const [file] = files;
    if (!file || !app.state.model) return;
    const { mapping } = data.options;
    const examples = files.slice(0, data.files.length - (data.evalFiles ?? 0));
    const given = examples.length > 1 ? { name: formatPlural(examples.length, 'file'), data: examples } : { name: file.name, data: file };
    await app.readExamples({ ...given, ...(mapping ? { mapping } : {}) });
  };
  const repeat = (config: RunConfig, files: File[]) => {
    settings.apply({ ...config.data.options, ...config.adapter, ...config.training });
    show(false);
    void app.run('data', () => ready(config, files), (failure) => showText(error, failure.message));
    announce('The settings are as they were then.');
  };
  const openConfig = ([file]: File[]) =>
    attempt(async () => {
      const config = file && (JSON.parse(await file.text()) as Partial<RunConfig>);
      if (!config?.training || !config.data) throw new Error('This is not the settings of a run.');
      settings.apply({ ...config.data.options, ...config.adapter, ...config.training });
      show(false);
      announce('The settings are taken over.');
    });

  const actions = (run: RunInfo, words: HTMLElement) => {
    const button = (text: string, work: () => void) => {
      const made = element('button', { text });
      made.type = 'button';
      made.setAttribute('aria-label', `${text}: ${run.name}`);
      made.disabled = app.state.busy !== undefined;
      made.addEventListener('click', work);
      return made;
    };
    const name = run.name.replace(/[^\p{L}\p{N}]+/gu, '-');
    const json = () => saveAs(new Blob([JSON.stringify(run.config, null, 2)], { type: 'application/json' }), `${name}.json`);
    const more = [
      button('Repeat', () => void attempt(async () => repeat(run.config, await runs.data(run.id)))),
      button('Download settings', json),
      button('Download all', () => void attempt(async () => saveAs(await runs.export(run.id), `${name}.zip`))),
      button('Rename', () => rename(run, words)),
      button('Delete', () => void attempt(() => remove(run))),
    ];
    if (run.status === 'done' || run.status === 'stopped') more.unshift(button('Talk to it', () => void talk(run)));
    const resumable = run.status !== 'done' && run.status !== 'running';
    return element('div', { className: 'actions' }, ...(resumable ? [button('Go on', () => goOn(run))] : []), ...more);
  };
  const talk = (run: RunInfo) =>
    app.run(
      'adapter',
      async () => {
        const files = await runs.adapter(run.id);
        if (!files) throw new Error('Nothing has come of this run yet.');
        await ready(run.config, []);
        const { data, training } = run.config;
        const measured = run.loss === undefined ? {} : { loss: run.loss };
        await app.adapters.add(run.name, files, { training, ...measured, facts: { Examples: data.files.join(', ') } });
        show(false);
      },
      (failure) => showText(error, failure.message),
    );
  const rename = (run: RunInfo, words: HTMLElement) =>
    askName(words, run.name, (to) => {
      void attempt(async () => {
        if (to !== undefined) await runs.rename(run.id, to);
        await read();
        byId('runs-list').querySelector<HTMLElement>(`[data-id="${run.id}"] button`)?.focus();
      });
    });
  const remove = async (run: RunInfo) => {
    await runs.delete(run.id);
    compared.delete(run.id);
    announce(`${run.name} is deleted.`);
    await read();
    byId('runs-title').focus();
  };

  const row = (run: RunInfo) => {
    const box = element('input');
    box.type = 'checkbox';
    box.checked = compared.has(run.id);
    box.addEventListener('change', () => {
      if (box.checked) compared.add(run.id);
      else compared.delete(run.id);
      void attempt(() => compareRuns(all.filter(({ id }) => compared.has(id))));
    });
    const label = element('label', { className: 'check' }, box, document.createTextNode(run.name));
    const loss = run.loss === undefined ? '' : `loss ${formatLoss(run.loss)}`;
    const best = run.bestLoss === undefined ? '' : `best on held-out ${formatLoss(run.bestLoss)}`;
    const steps = `${STATUS[run.status]}, ${run.step} of ${run.steps || '…'} steps`;
    const facts = [formatWhen(run.created), run.config.model.name, steps, loss, best].filter(Boolean).join(' · ');
    const words = element('div', {}, label, element('p', { className: 'quiet', text: facts }));
    const item = element('li', {}, words, actions(run, words));
    item.dataset.id = run.id;
    return item;
  };
  const draw = () => {
    byId('places').hidden = all.length + lost.length === 0;
    open.textContent = `Runs (${all.length})`;
    if (all.length + lost.length === 0) show(false);
    byId('runs-damaged').hidden = lost.length === 0;
    byId('runs-damaged-text').textContent = `${formatPlural(lost.length, 'run')} cannot be read any more: what is kept is damaged.`;
    byId('runs-list').replaceChildren(...all.map(row));
    const cut = all.find(({ status }) => status === 'interrupted');
    const notice = byId('runs-cut');
    notice.hidden = !cut || app.state.busy === 'train' || !panel.hidden;
    if (cut) byId('runs-cut-text').textContent = `A training was cut off: ${cut.name}, at step ${cut.step} of ${cut.steps || '…'}.`;
  };

  open.addEventListener('click', () => show(panel.hidden !== false));
  byId('runs-close').addEventListener('click', () => {
    show(false);
    open.focus();
  });
  byId('runs-cut-open').addEventListener('click', () => {
    show(true);
    draw();
  });
  byId('runs-cut-resume').addEventListener('click', () => {
    const cut = all.find(({ status }) => status === 'interrupted');
    if (cut) goOn(cut);
  });
  onFiles(byId('runs-config-button'), byId<HTMLInputElement>('runs-config'), (files) => void openConfig(files));

  let before: string | undefined;
  app.onChange(({ busy }) => {
    if (busy !== before) void read();
    before = busy;
  });
}
