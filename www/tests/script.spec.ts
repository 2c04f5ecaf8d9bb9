/** The training script: what comes from outside is in it as text, whatever it is. */

import { readFile } from 'node:fs/promises';
import { expect, test } from '@playwright/test';
import { trainingScript, type ScriptSettings } from '../src/training-script.js';
import { FIXTURES } from './studio.js';

const settings = (name: string): ScriptSettings => ({
  model: name,
  ggufFile: name,
  dataFiles: [name],
  adapter: { targetModules: [name], excludeModules: name, rankPattern: { [name]: 2 } },
  training: { loraplusLrRatio: 4 },
});

test('a name cannot become code', () => {
  const name = 'a"\'\\\n)\r\nimport os; os.system("x") # \u2028\u202e\u0000 模型 😀 """';
  const literal =
    String.raw`"a\"'\\\n)\r\nimport os; os.system(\"x\") # \u2028\u202e\u0000 模型 \U0001f600 \"\"\""`;
  expect(trainingScript(settings(name))).toBe(trainingScript(settings('plain')).replaceAll('"plain"', literal));
});

test('what is written now is what was run in Python', async () => {
  const read = (name: string) => readFile(`${FIXTURES}training_script/${name}`, 'utf8');
  const cases = JSON.parse(await read('cases.json')) as Record<string, ScriptSettings>;
  for (const [name, settings] of Object.entries(cases)) {
    expect(trainingScript(settings), `run make_training_script.py for ${name} again`).toBe(await read(`${name}.py`));
  }
});

test('a script has what its files need, and what does not belong together is refused', () => {
  const script = (dataFiles: ScriptSettings['dataFiles'], data = {}, loss: 'sft' | 'dpo' = 'sft') =>
    trainingScript({ ...settings('plain'), dataFiles, data, training: { loss } });
  const chats = script([{ path: 'a', format: 'jsonl', shape: 'messages' }]);
  expect(chats).toContain('def chat(');
  for (const other of ['def plain(', 'def windows(', 'def pair(', 'import csv', 'ROLES']) expect(chats).not.toContain(other);
  expect(script(['a.csv', 'b.parquet', 'c.TXT'])).toContain('DATA = [["a.csv", "csv"], ["b.parquet", "parquet"], ["c.TXT", "text"]]');
  const mapping = { prompt: '") + os.system("', completion: 'b', chat: false };
  expect(script(['a'], { mapping })).toContain(String.raw`column(row, "\") + os.system(\"")), text(column(row, "b")), "", as_chat=False)`);
  expect(() => script(['a'], { mapping }, 'dpo')).toThrow('loss is dpo, allowed is sft');
  expect(() => script(['a'], { mapping: { chosen: 'b', rejected: 'c' } })).toThrow('loss is sft, allowed is dpo or orpo');
  expect(() => script([{ path: 'a', shape: 'preference' }])).toThrow('loss is sft, allowed is dpo or orpo');
});

test('numbers that are none and words that are not known are refused', () => {
  const script = (training: object) => () => trainingScript({ ...settings('plain'), training });
  expect(script({ learningRate: NaN })).toThrow('learningRate is NaN');
  expect(script({ schedule: 'constructor' })).toThrow('schedule is constructor, allowed is cosine');
  expect(script({ beta1: 'exec(open("x").read())' })()).toContain(String.raw`adam_beta1="exec(open(\"x\").read())",`);
});

test('settings have the names and meanings of transformers', () => {
  const script = (training: object, data = {}) => trainingScript({ ...settings('plain'), data, training });
  expect(script({ steps: 50 })).toContain('warmup_steps=2,');
  expect(script({ steps: 50, warmupRatio: 0.05 })).toContain('warmup_steps=3,');
  expect(script({ epochs: 2, warmupRatio: 0.1 })).toContain('num_train_epochs=2,');
  expect(script({ schedule: 'constant' })).toContain('lr_scheduler_type="constant_with_warmup",');
  expect(script({ loss: 'dpo', beta: 0.3 })).toContain('trainer = DPOTrainer(');
  expect(script({ evalSteps: 5 })).not.toContain('eval_steps');
  expect(script({ evalSteps: 5 }, { evalShare: 0.1 })).toContain('eval_steps=5,');
  const lora = (adapter: object) => trainingScript({ ...settings('plain'), adapter });
  for (const adapter of [{ initLoraWeights: 'pissa', loraDropout: 0.1, useDora: true }, { useDora: false }]) {
    const said = ['init_lora_weights="pissa",', 'lora_dropout=0.1,', 'use_dora=True,'].map((line) => lora(adapter).includes(line));
    expect(said).toEqual(Array(3).fill(adapter.useDora));
  }
  const vectors = lora({ bias: 'lora_only', modulesToSave: ['ln_1', 'a"b'] });
  expect(vectors).toContain('bias="lora_only",');
  expect(vectors).toContain(String.raw`modules_to_save=["ln_1", "a\"b"],`);
  expect(lora({ bias: 'none', modulesToSave: [] })).not.toMatch(/bias|modules_to_save/);
});
