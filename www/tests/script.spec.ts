/** The training script: what comes from outside is in it as text, whatever it is. */

import { expect, test } from '@playwright/test';
import { trainingScript, type ScriptSettings } from '../src/training-script.js';

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
});
