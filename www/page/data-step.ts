/** Step 2: examples that ship with the page, from a file or the clipboard, and what the model will see of them. */

import type { DatasetReport, WebLoraError } from 'web-lora';
import { toError, type App, type DataSource } from './app.js';
import { announce, byId, element, onFiles, showFacts, showText } from './dom.js';
import { onDrop } from './drop.js';
import { formatCount, formatPlural } from './format.js';
import { MappingForm } from './mapping-form.js';
import { sampleCards } from './sample-cards.js';
import type { Sample } from './samples.js';

/** Faulty lines shown one by one; of more only the number is. */
const SHOWN_ERRORS = 8;
const SHOWN_EXAMPLES = 3;
/** Of pairs each has two. */
const SHOWN_PAIRS = 2;

/** Wires step 2. */
export function dataStep(app: App): void {
  const error = byId('data-error');
  const paste = byId('data-paste');
  let changing = false;

  const mapping = new MappingForm();

  const load = (source: DataSource) => {
    showText(error, undefined);
    mapping.hide();
    void app.run(
      'data',
      async () => {
        await app.readExamples(source).catch((failure: unknown) => askColumns(source, failure));
        changing = false;
        announce('The examples are read.');
      },
      (failure: WebLoraError) => showText(error, failure.message),
    );
  };
  /** Where the columns of a file have names of their own, only the person knows what they are. */
  const askColumns = async (source: DataSource, failure: unknown) => {
    const [first] = Array.isArray(source.data) ? source.data : [source.data];
    const tabular = toError(failure).code === 'bad_data' && source.mapping === undefined && first !== undefined;
    const summary = tabular ? await app.engine.inspectData(first, { name: source.name }).catch(() => undefined) : undefined;
    if (summary && summary.shape === undefined && summary.columns.length > 0) {
      byId<HTMLDetailsElement>('data-own').open = true;
      mapping.ask(summary, (columns) => load({ ...source, mapping: columns }));
    }
    throw failure;
  };
  const loadFiles = (files: File[]) => {
    const [first] = files;
    if (!first) return;
    load(files.length === 1 ? { name: first.name, data: first } : { name: formatPlural(files.length, 'file'), data: files });
  };

  onFiles(byId('data-file-button'), byId<HTMLInputElement>('data-file'), loadFiles);
  onDrop(byId('data-drop'), loadFiles);
  sampleCards(async (sample: Sample) => {
    const name = `${sample.id}.jsonl`;
    const response = await fetch(new URL(`samples/${name}`, document.baseURI)).catch(() => undefined);
    if (response?.ok) load({ name, data: await response.blob(), sample });
    else showText(error, 'These examples could not be fetched.');
  });
  byId('data-paste-button').addEventListener('click', () => {
    paste.hidden = !paste.hidden;
    byId('data-paste-button').setAttribute('aria-expanded', String(!paste.hidden));
    if (!paste.hidden) byId('data-text').focus();
  });
  paste.addEventListener('submit', (event) => {
    event.preventDefault();
    load({ name: 'pasted examples', data: new Blob([byId<HTMLTextAreaElement>('data-text').value]) });
  });
  byId('data-change').addEventListener('click', () => {
    changing = true;
    app.update({});
    byId('data-samples').querySelector('button')?.focus();
  });

  let drawn: DatasetReport | undefined;
  app.onChange(({ model, dataset, dataSource, busy, trouble }) => {
    const ready = dataset !== undefined && !changing;
    byId('data-step').toggleAttribute('data-locked', !model);
    byId('data-step').toggleAttribute('data-done', ready);
    byId('data-loading').hidden = busy !== 'data';
    byId('data-ready').hidden = !ready;
    byId('data-choices').hidden = ready;
    for (const button of byId('data-step').querySelectorAll<HTMLButtonElement>('button:not(.term)')) {
      button.disabled = busy !== undefined || !model || trouble !== undefined;
    }
    showText(byId('data-expect'), dataSource?.sample?.expect);
    if (dataset && dataset !== drawn) drawReport(dataset);
    drawn = dataset;
  });
}

function drawReport(dataset: DatasetReport): void {
  const pairs = dataset.preferencePairs > 0;
  byId('data-name').textContent = `${dataset.file} · ${formatPlural(dataset.examples, pairs ? 'pair' : 'example')}`;
  showFacts(byId('data-facts'), {
    [pairs ? 'Pairs of answers' : 'Examples']: formatCount(dataset.examples),
    ...(dataset.evalExamples > 0 ? { 'Held out': formatPlural(dataset.evalExamples, pairs ? 'pair' : 'example') } : {}),
    Tokens: formatCount(dataset.tokens),
    'To learn': formatPlural(dataset.supervisedTokens, 'token'),
    Longest: formatPlural(dataset.longest, 'token'),
    ...(dataset.truncated > 0 ? { 'Cut short': formatPlural(dataset.truncated, 'example') } : {}),
  });

  const { errors } = dataset;
  byId('data-skipped').hidden = errors.length === 0;
  byId('data-skipped-title').textContent = `${formatPlural(errors.length, 'line')} left out:`;
  const lines = errors.slice(0, SHOWN_ERRORS).map(({ line, message }) => {
    return element('li', {}, element('b', { text: `Line ${line}` }), document.createTextNode(` ${message}`));
  });
  if (errors.length > SHOWN_ERRORS) lines.push(element('li', { text: `and ${errors.length - SHOWN_ERRORS} more` }));
  byId('data-skipped-lines').replaceChildren(...lines);

  byId('data-learned').hidden = pairs;
  byId('data-preferred').hidden = !pairs;
  byId('data-preview').replaceChildren(
    ...dataset.preview.slice(0, pairs ? 2 * SHOWN_PAIRS : SHOWN_EXAMPLES).map(({ pieces }, at) => {
      const parts = pieces.map(({ text, supervised }) =>
        supervised ? element('mark', { text }) : document.createTextNode(text),
      );
      const kind = pairs ? [element('p', { className: 'quiet', text: at % 2 === 0 ? 'Chosen' : 'Rejected' })] : [];
      return element('li', {}, ...kind, element('p', { className: 'tokens' }, ...parts));
    }),
  );
}
