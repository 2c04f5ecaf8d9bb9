/** The training settings: their fields, each with a sentence, and what they hold. */

import type { AdapterOptions, LoadDatasetOptions, ModelInfo, Schedule, TrainOptions, WebLoraError } from 'web-lora';
import { byId, element, showText } from './dom.js';
import { check, field, notes, type Setting } from './fields.js';
import { CHECKS, CHOICES, MORE, type Of } from './more-settings.js';
import type { Sample } from './samples.js';

const NUMBERS: Setting[] = [
  { name: 'steps', label: 'Steps', hint: 'How often the adapter is adjusted. More learns more and takes longer.', value: '60' },
  { name: 'batchSize', label: 'Batch size', hint: 'Examples looked at in each step. Larger is steadier and slower.', value: '4' },
  { name: 'learningRate', label: 'Learning rate', hint: 'How far a step goes. Too high and the loss jumps about, too low and little changes.', value: '0.001' },
  { name: 'warmupSteps', label: 'Warm-up steps', hint: 'Steps over which the learning rate rises from zero at the start.', value: '2' },
  { name: 'r', label: 'Rank', hint: 'The size of the adapter. 8 suits a manner of speaking; 16 or 32 hold more.', value: '8' },
  { name: 'loraAlpha', label: 'Alpha', hint: 'The weight of the adapter, in proportion to its rank. Twice the rank is usual.', value: '16' },
  { name: 'maxLength', label: 'Maximum length', hint: 'Examples longer than this many tokens are cut.', value: '512' },
  { name: 'seed', label: 'Seed', hint: 'The same seed and examples on the same device give the same adapter, byte for byte.', value: '0' },
  { name: 'evalShare', label: 'Held out', hint: 'Share of the examples that is only evaluated on, ten times in a training. 0.1 is a tenth; 0 is none.', value: '0' },
];
/** Those that need no setting of their own. */
const SCHEDULES: Record<Exclude<Schedule, 'cosine_with_restarts'>, string> = {
  cosine: 'Cosine: falls to zero in a curve',
  linear: 'Linear: falls to zero in a line',
  constant: 'Constant: stays as it is',
};
/** What an adapter can target in most models, until there is one that says what it has. */
const TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
/** In a training, where examples are held out. */
const EVALUATIONS = 10;
/** On a software GPU an example takes ten seconds, so the defaults are what shows a change in a few minutes. */
const ON_SOFTWARE: Record<string, string> = { steps: '12', batchSize: '2', learningRate: '0.0015', warmupSteps: '0' };
/** Rewards move fast: what suits answers to be learned would run away. */
const ON_PAIRS: Record<string, string> = { learningRate: '0.0002' };

/** The form's fields. */
export class Settings {
  readonly #fold = byId<HTMLDetailsElement>('settings');
  readonly #fields = byId('settings-fields');
  /** Names of the fields that the person has changed. */
  readonly #chosen = new Set<string>();
  /** The norms that the model has. */
  #norms: readonly string[] = [];
  /** Those that are of use for pairs of answers. */
  readonly #pairs: readonly HTMLElement[];

  constructor() {
    this.#fields.append(...NUMBERS.map(numberField));
    this.#pairs = [...CHOICES.filter(({ pairs }) => pairs).map(choiceField), ...MORE.filter(({ pairs }) => pairs).map(numberField)];
    const schedule = element('select');
    for (const [value, text] of Object.entries(SCHEDULES)) schedule.add(new Option(text, value));
    const hint = 'What becomes of the learning rate in the course of the training.';
    this.#fields.append(
      ...this.#pairs,
      field({ name: 'schedule', label: 'Schedule', hint }, schedule),
      check('useRslora', 'Rank-stabilised scaling (rsLoRA)', 'Divides alpha by the root of the rank. Helps from rank 32 on.'),
      targets(),
      this.#more(),
    );
    this.#fields.addEventListener('input', ({ target }) => {
      this.showError(undefined);
      if (target instanceof HTMLInputElement) this.#chosen.add(target.id);
    });
  }

  /** Calls back on every change that the person makes. */
  onInput(changed: () => void): void {
    this.#fields.addEventListener('input', changed);
  }

  /**
   * What suits the GPU and the examples: fewer and smaller steps where they are slow, smaller ones on pairs. What the person
   * chose stays.
   */
  suggest(software: boolean, sample: Sample | undefined, pairs: boolean): void {
    for (const shown of this.#pairs) shown.hidden = !pairs;
    const suited: Record<string, string> = {
      ...(software ? { ...ON_SOFTWARE, ...sample?.slowSettings } : sample?.settings),
      ...(pairs ? ON_PAIRS : {}),
    };
    for (const { name, value } of NUMBERS) {
      const input = this.#input(name);
      if (!this.#chosen.has(input.id)) input.value = suited[name] ?? value;
    }
  }

  /** Offers what the model has. What was left out stays left out. */
  offer({ targetModules: names, normModules }: ModelInfo): void {
    this.#norms = normModules;
    const boxes = this.#targets();
    if (boxes.map(({ value }) => value).join() === names.join()) return;
    const left = boxes.filter(({ checked }) => !checked).map(({ value }) => value);
    byId('setting-targetModules').querySelector('.boxes')?.replaceChildren(...names.map((name) => target(name, !left.includes(name))));
  }

  /** Takes over the settings of a run, those that have a field here. */
  apply(values: Record<string, unknown>): void {
    for (const { name } of NUMBERS) {
      const value = values[name] ?? (name === 'evalShare' ? 0 : undefined);
      if (typeof value !== 'number') continue;
      this.#input(name).value = String(value);
      this.#chosen.add(this.#input(name).id);
    }
    for (const { name } of [...MORE, ...CHOICES]) {
      const input = byId<HTMLInputElement | HTMLSelectElement>(`setting-${name}`);
      input.value = String(values[name] ?? (input instanceof HTMLSelectElement ? input.options[0]?.value : ''));
    }
    for (const { name } of CHECKS) this.#input(name).checked = values[name] === true;
    const { schedule, useRslora, targetModules, modulesToSave, samplePrompts } = values;
    this.#input('modulesToSave').checked = Array.isArray(modulesToSave) && modulesToSave.length > 0;
    this.#input('samplePrompts').value = Array.isArray(samplePrompts) ? String(samplePrompts[0] ?? '') : '';
    if (typeof schedule === 'string' && schedule in SCHEDULES) byId<HTMLSelectElement>('setting-schedule').value = schedule;
    this.#input('useRslora').checked = useRslora === true;
    if (Array.isArray(targetModules)) for (const box of this.#targets()) box.checked = targetModules.includes(box.value);
  }

  get dataset(): LoadDatasetOptions {
    const evalShare = this.#number('evalShare');
    return { maxLength: this.#number('maxLength'), ...(evalShare === 0 ? {} : { evalShare }) };
  }

  get adapter(): AdapterOptions {
    return {
      ...this.#given('adapter'),
      r: this.#number('r'),
      loraAlpha: this.#number('loraAlpha'),
      useRslora: this.#input('useRslora').checked,
      targetModules: this.#targets().filter((box) => box.checked).map((box) => box.value),
      ...(this.#input('modulesToSave').checked ? { modulesToSave: [...this.#norms] } : {}),
      seed: this.#number('seed'),
    };
  }

  /** `pairs`: whether the examples are pairs of answers, which are not learned as others are. */
  training(pairs: boolean): TrainOptions {
    const steps = this.#number('steps');
    const { loss, beta, earlyStoppingPatience, ...given } = this.#given('training') as TrainOptions;
    const evaluates = this.#number('evalShare') > 0;
    const question = this.#input('samplePrompts').value.trim();
    return {
      steps,
      ...given,
      ...(pairs && loss ? { loss } : {}),
      ...(pairs && beta !== undefined ? { beta } : {}),
      ...(question ? { samplePrompts: [question] } : {}),
      ...(evaluates ? { evalSteps: Math.max(1, Math.round(steps / EVALUATIONS)) } : {}),
      ...(evaluates && earlyStoppingPatience ? { earlyStoppingPatience } : {}),
      batchSize: this.#number('batchSize'),
      learningRate: this.#number('learningRate'),
      warmupSteps: this.#number('warmupSteps'),
      schedule: byId<HTMLSelectElement>('setting-schedule').value as Schedule,
      seed: this.#number('seed'),
    };
  }

  /** Marks the field that an error is about, and tells whether there is one. */
  showError(error: WebLoraError | undefined): boolean {
    for (const input of this.#fields.querySelectorAll('[aria-invalid]')) {
      input.removeAttribute('aria-invalid');
      const message = document.getElementById(`${input.id}-error`);
      if (message) showText(message, undefined);
    }
    const input = error?.setting ? document.getElementById(`setting-${error.setting}`) : null;
    if (!error || !input) return false;
    this.#fold.open = true;
    const more = input.closest('details');
    if (more) more.open = true;
    input.setAttribute('aria-invalid', 'true');
    const value = error.value === 'NaN' ? 'not a number' : error.value;
    const label = input.closest('.field')?.querySelector('label, legend')?.textContent;
    showText(byId(`${input.id}-error`), `${label} is ${value}; allowed is ${error.allowed}.`);
    input.focus();
    return true;
  }

  #more(): HTMLElement {
    const fields = element('div', { className: 'fields' });
    fields.append(...MORE.filter(({ pairs }) => !pairs).map(numberField));
    const hint = 'A question that the model is asked ten times in the course of the training. Its answers are shown beside the curves.';
    fields.append(field({ name: 'samplePrompts', label: 'Ask on the way', hint }, element('input')));
    fields.append(...CHOICES.filter(({ pairs }) => !pairs).map(choiceField));
    fields.append(...CHECKS.map(({ name, label, hint }) => check(name, label, hint)));
    fields.append(check('modulesToSave', 'Also train norms', 'A few numbers in each layer that scale what it reads. They are saved with the adapter, for PEFT or merged into the model.'));
    return element('details', { className: 'fold wide' }, element('summary', { text: 'More settings' }), fields);
  }

  /** What was said of those that need not be. */
  #given(of: Of): Record<string, string | number | boolean> {
    const value = (name: string) => byId<HTMLInputElement | HTMLSelectElement>(`setting-${name}`).value.trim();
    const numbers = MORE.filter((setting) => setting.of === of && value(setting.name) !== '');
    const choices = CHOICES.filter((choice) => choice.of === of && value(choice.name) !== '');
    const checks = CHECKS.filter((setting) => setting.of === of && this.#input(setting.name).checked);
    return Object.fromEntries([
      ...numbers.map(({ name }) => [name, Number(value(name))]),
      ...choices.map(({ name }) => [name, value(name)]),
      ...checks.map(({ name }) => [name, true]),
    ]);
  }

  #input(name: string): HTMLInputElement {
    return byId<HTMLInputElement>(`setting-${name}`);
  }

  #number(name: string): number {
    const text = this.#input(name).value.trim();
    return text === '' ? NaN : Number(text);
  }

  #targets(): HTMLInputElement[] {
    return [...this.#fields.querySelectorAll<HTMLInputElement>('#setting-targetModules input')];
  }
}

function numberField(setting: Setting): HTMLElement {
  const input = element('input');
  input.inputMode = 'decimal';
  input.autocomplete = 'off';
  input.value = setting.value;
  return field(setting, input);
}

function choiceField(choice: (typeof CHOICES)[number]): HTMLElement {
  const select = element('select');
  for (const [value, text] of Object.entries(choice.options)) select.add(new Option(text, value));
  return field(choice, select);
}

function targets(): HTMLElement {
  const group = element('fieldset', { className: 'field wide' }, element('legend', { text: 'Targets' }));
  group.id = 'setting-targetModules';
  group.tabIndex = -1;
  const boxes = element('div', { className: 'boxes' }, ...TARGETS.map((name) => target(name, true)));
  const hint = 'The matrices of the model that get an adapter. All of them learn best, fewer are faster.';
  group.append(boxes, ...notes(group, hint));
  return group;
}

function target(name: string, checked: boolean): HTMLElement {
  const box = element('input');
  box.type = 'checkbox';
  box.value = name;
  box.checked = checked;
  return element('label', { className: 'check' }, box, element('code', { text: name }));
}
