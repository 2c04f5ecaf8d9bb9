/** Models by name from the Hub: a short list, any other, which of its files, and whether it fits, before a download. */

import { hubCache, listHubFiles, type Engine, type Forecast, type HubChoice, type HubListing, type HubSource, type Quantization } from 'web-lora';
import { toError, type App } from './app.js';
import { byId, element, showFacts, showText } from './dom.js';
import { formatBytes, formatPlural, formatSpeed } from './format.js';
import type { Load } from './model-step.js';
import { HUB_MODELS } from './hub-models.js';
import { HubToken } from './hub-token.js';

const HUB = 'https://huggingface.co';
/** Tokens in a pass, as the settings have it at first, and what is tried where that does not fit. */
const PASS = 512;
const SHORTER = [256, 128, 64];

/** What is open: a repository, one of its models, and what is known of it. */
interface Open {
  listing: HubListing;
  choice: HubChoice;
  /** Bytes that are here already. */
  cachedBytes: number;
  refused: boolean;
  /** What was foreseen last, with weights as they are or made smaller, and by which engine. */
  quantize: Quantization | undefined;
  engine: Engine | undefined;
}

/** The Hub, or the mirror that `?hub=` of the page's address names. */
export function hubEndpoint(): string {
  return (new URLSearchParams(location.search).get('hub') ?? HUB).replace(/\/+$/, '');
}

/** Wires the panel; what it returns opens it on a source. */
export function hubPanel(app: App, load: Load): (source: HubSource) => void {
  const endpoint = hubEndpoint();
  const host = URL.canParse(endpoint) ? new URL(endpoint).host : endpoint;
  const fold = byId<HTMLDetailsElement>('hub');
  const error = byId('hub-error');
  const name = byId<HTMLInputElement>('hub-name');
  const token = new HubToken(endpoint, () => void foresee());
  let open: Open | undefined;
  /** Ends what is being asked when something else is. */
  let asking = new AbortController();

  const sourceOf = ({ listing, choice }: Open): HubSource => ({
    endpoint: listing.endpoint,
    repo: listing.repo,
    revision: listing.revision,
    file: choice.name,
    ...token.of(listing.endpoint),
  });

  const show = (state: 'list' | 'looking' | 'choice') => {
    byId('hub-list').hidden = state !== 'list';
    byId('hub-looking').hidden = state !== 'looking';
    byId('hub-choice').hidden = state !== 'choice';
    byId('hub-go').hidden = state !== 'choice';
  };

  const lookUp = async (source: HubSource) => {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    byId<HTMLDetailsElement>('model-more').open = true;
    fold.open = true;
    showText(error, undefined);
    showText(byId('hub-fit'), undefined);
    byId('hub-looking').textContent = `Asking ${host} about ${source.repo}…`;
    show('looking');
    try {
      const listing = await listHubFiles({ endpoint, ...token.of(source.endpoint ?? endpoint), ...source }, { signal });
      const choice = listing.choices.find(({ name }) => name === source.file) ?? listing.choices[0];
      if (!choice || signal.aborted) return;
      open = { listing, choice, cachedBytes: 0, refused: false, quantize: app.state.quantize, engine: app.state.engine };
      drawListing(listing, choice);
      show('choice');
      byId('hub-download').focus();
      await choose(choice);
    } catch (thrown) {
      if (signal.aborted) return;
      const failure = toError(thrown);
      showText(error, failure.message);
      // A private repository answers like one that is not there.
      byId('hub-token-field').hidden = !['not_found', 'gated', 'bad_token'].includes(failure.code);
      show('list');
    }
  };

  const drawListing = (listing: HubListing, chosen: HubChoice) => {
    byId('hub-repo').textContent = listing.repo;
    showFacts(byId('hub-facts'), {
      Revision: `${listing.revision.slice(0, 12)}${listing.revision === listing.commit ? '' : ` (${listing.commit.slice(0, 7)})`}`,
      ...(listing.license ? { Licence: listing.license } : {}),
      ...(listing.gated ? { Access: 'gated' } : {}),
    });
    byId('hub-token-field').hidden = !listing.gated;
    const rows = listing.choices.map((choice) => {
      const input = element('input');
      input.type = 'radio';
      input.name = 'hub-file';
      input.checked = choice === chosen;
      input.addEventListener('change', () => void choose(choice));
      const files = choice.files.length > 1 ? ` in ${formatPlural(choice.files.length, 'file')}` : '';
      const size = element('span', { className: 'quiet', text: `${formatBytes(choice.sizeBytes)}${files}` });
      return element('label', { className: 'check' }, input, element('span', { text: choice.name }), size);
    });
    byId('hub-files').replaceChildren(...rows);
  };

  const choose = async (choice: HubChoice) => {
    if (!open) return;
    open.choice = choice;
    await refresh();
    await foresee();
  };

  /** What is here of the chosen model may have changed by a download, here or in another tab. */
  const refresh = async () => {
    const now = open;
    if (!now) return;
    const kept = (await hubCache.list()).find(
      ({ source }) => source.revision === now.listing.commit && source.repo === now.listing.repo && source.file === now.choice.name,
    );
    now.cachedBytes = kept?.cachedBytes ?? 0;
    app.update({});
  };

  /** Asks the engine what training would take, from the headers of the files, wherever they are. */
  const foresee = async () => {
    const now = open;
    if (!now || !app.state.engine) return;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const { quantize, engine } = app.state;
    now.quantize = quantize;
    now.engine = engine;
    const fit = byId('hub-fit');
    showText(error, undefined);
    now.refused = false;
    showText(fit, 'Reading its headers, to say whether it fits…');
    try {
      showText(fit, await fitOf((tokensPerPass) => app.engine.planMemory(sourceOf(now), { tokensPerPass, ...(quantize ? { quantize } : {}) }, { signal })));
    } catch (thrown) {
      if (signal.aborted) return;
      const failure = toError(thrown);
      const locked = failure.code === 'gated' && !sourceOf(now).token;
      showText(fit, locked ? 'With an access token its headers can be read, to say whether it fits.' : undefined);
      if (!locked) showText(error, failure.message);
      now.refused = ['unsupported', 'out_of_memory', 'bad_file', 'bad_setting'].includes(failure.code);
    }
    app.update({});
  };

  byId('hub-models').replaceChildren(
    ...HUB_MODELS.map(({ repo, name, parameters, license, memory, gated }) => {
      const facts = [`${parameters} parameters`, license, `about ${memory} GPU memory`, ...(gated ? ['gated'] : [])];
      const button = element('button', { text: 'Choose' });
      button.type = 'button';
      button.setAttribute('aria-label', `Choose ${name}`);
      button.addEventListener('click', () => void lookUp({ repo }));
      const words = element('div', {}, element('p', { text: name }), element('p', { className: 'quiet', text: facts.join(' · ') }));
      return element('li', {}, words, button);
    }),
  );
  byId('hub-token-host').textContent = host;
  byId('hub-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const [repo = '', ...revision] = name.value.trim().replace(`${endpoint}/`, '').split('@');
    void lookUp({ repo, ...(revision.length > 0 ? { revision: revision.join('@') } : {}) });
  });
  byId('hub-back').addEventListener('click', () => {
    asking.abort();
    open = undefined;
    showText(error, undefined);
    byId('hub-token-field').hidden = true;
    show('list');
    name.focus();
  });
  byId('hub-download').addEventListener('click', () => {
    if (!open) return;
    asking.abort();
    load(sourceOf(open), error);
  });

  let wasLoading = false;
  app.onChange(({ busy, engine, loading, model, quantize, trouble }) => {
    // What the Hub has can be asked while the engine starts.
    const waits = (busy !== undefined && busy !== 'engine') || trouble !== undefined;
    for (const button of byId('hub-list').querySelectorAll('button')) button.disabled = waits;
    const ended = wasLoading && !loading;
    wasLoading = loading !== undefined;
    if (ended) void refresh();
    if (!open) return;
    if (open.quantize !== quantize || (!busy && open.engine !== engine)) void foresee();
    const { choice, cachedBytes, refused } = open;
    const left = choice.sizeBytes - cachedBytes;
    const button = byId<HTMLButtonElement>('hub-download');
    button.textContent =
      left === 0 ? 'Load' : cachedBytes > 0 ? `Go on: ${formatBytes(left)} to come` : `Download ${formatBytes(left)}`;
    button.disabled = busy !== undefined || !engine || refused;
    // The button to pause is gone, and with it the focus: on to the one that goes on.
    if (!busy && !model && document.activeElement === document.body) button.focus();
  });

  return (source) => void lookUp(source);
}

/** What to tell of a plan, and at which shorter length the model would fit where it does not as it is. */
async function fitOf(plan: (tokensPerPass: number) => Promise<Forecast>): Promise<string> {
  const sentence = ({ total, weights, tokensPerSecond }: Forecast, tokens: number) =>
    `Training takes ${formatBytes(total)} of GPU memory at rank 8 and ${tokens} tokens a pass; ${formatBytes(weights)} of it are the weights. This GPU should do about ${formatSpeed(tokensPerSecond)} tokens a second.`;
  try {
    return sentence(await plan(PASS), PASS);
  } catch (error) {
    if (toError(error).code !== 'out_of_memory') throw error;
    for (const tokens of SHORTER) {
      const fits = await plan(tokens).catch(() => undefined);
      if (!fits) continue;
      return `With ${PASS} tokens a pass it does not fit this GPU. Under Train, Settings, set the maximum length to ${tokens} and the batch size to 1. ${sentence(fits, tokens)}`;
    }
    throw error;
  }
}
