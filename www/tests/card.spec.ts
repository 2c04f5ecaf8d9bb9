/** The model card: what the Hub reads of it, and that what comes from outside is text in it, whatever it is. */

import { expect, test } from '@playwright/test';
import { modelCard, type AdapterCard } from '../src/model-card.js';

const card = (name: string, baseModel = name): AdapterCard => ({
  name,
  baseModel,
  model: { modelType: 'llama', parameters: 134_515_008, dtype: 'Q4_1' },
  adapter: { r: 8, loraAlpha: 16, useRslora: true, useDora: false, targetModules: ['q_proj', name], bias: 'all', modulesToSave: ['norm', name], parameters: 1000, trainedSteps: 60 },
  dataset: { file: name, examples: 40, preferencePairs: 0, tokens: 2041, supervisedTokens: 558, evalExamples: 4 },
  training: { learningRate: 1e-3, batchSize: 4, samplePrompts: ['my secret'], sampleSteps: 5 },
  loss: 1.88941,
  evaluation: { loss: 2, perplexity: 7.389, accuracy: 0.5, examples: 4 },
  license: name,
  facts: { [name]: name },
});

/** What stands between the lines of dashes, and below. */
function split(text: string): { head: string[]; body: string } {
  const [, head = '', body = ''] = /^---\n(.*?)\n---\n(.*)$/s.exec(text) ?? [];
  return { head: head.split('\n'), body };
}

test('the head names the base, the library and the tags', () => {
  const { head, body } = split(modelCard({ ...card('sea'), baseModel: 'org/base-1.5', license: 'apache-2.0' }));
  expect(head).toEqual([
    'base_model: "org/base-1.5"',
    'base_model_relation: adapter',
    'license: "apache-2.0"',
    'library_name: peft',
    'pipeline_tag: text-generation',
    'tags:',
    '- "lora"',
    '- "peft"',
    '- "web-lora"',
    '- "base_model:adapter:org/base-1.5"',
  ]);
  expect(body).toContain('40 examples of `sea`. It was trained to say 558 of their 2,041 tokens');
  expect(body).toContain('4 more were held out to evaluate on.');
  expect(body).toContain('| Loss of the last step | 1.8894 |');
  expect(body).toContain('| Evaluation loss | 2.0000 on 4 examples held out |');
  expect(body).toContain('from_pretrained("org/base-1.5")');
  expect(body).not.toContain('secret');
  // A file is no repository, which the Hub would refuse.
  expect(split(modelCard(card('base.gguf'))).head.join()).not.toContain('base_model');
  // Without anything else there is still a card.
  expect(modelCard({ name: 'a', baseModel: 'b' })).not.toContain('| |');
});

test('a name cannot become markup', () => {
  const name = 'x"\n---\ntags: [evil]\r\n# y | <img src=x> `z` ``` [a](b) ![c](d) *e* _f_ ~g~ &amp; $h$ \u2028\u202e\u0000 {{i}} @j 1. k';
  const [hostile, plain] = [split(modelCard(card(name))), split(modelCard(card('PLAIN')))];
  expect(hostile.head.length).toBe(plain.head.length);
  expect(hostile.head.filter((line, at) => line !== plain.head[at])).toEqual([
    'license: "x\\" --- tags: [evil] # y | <img src=x> `z` ``` [a](b) ![c](d) *e* _f_ ~g~ &amp; $h$ {{i}} @j 1. k"',
  ]);
  // As many lines of every kind as with a plain name.
  const kinds = ({ body }: { body: string }) => body.split('\n').map((line) => /^(\||#+ |```|)/.exec(line)?.[0]);
  expect(kinds(hostile)).toEqual(kinds(plain));
  // Outside of what is code, no mark of it is left.
  const text = hostile.body.replace(/```python\n.*?```/s, '').replace(/(`+) .*? \1/g, '').replace(/\\./g, '');
  expect(text).not.toMatch(/[<[\]*_~${}@!]|\u202e/);
});
