/** Settings that few people need. */

import type { Setting } from './fields.js';

/** Whose option it is. */
export type Of = 'adapter' | 'training';

/** Left empty, the engine's own choice holds. Those of pairs are shown where the examples are pairs of answers. */
export const MORE: readonly (Setting & { of: Of; pairs?: true })[] = [
  { of: 'training', name: 'gradientAccumulationSteps', label: 'Batches in a step', hint: 'So many batches make one step: a larger batch for the same memory.', value: '' },
  { of: 'training', name: 'weightDecay', label: 'Weight decay', hint: 'Draws the adapter back to nothing a little in each step. 0.01 is usual where it is used.', value: '' },
  { of: 'training', name: 'maxGradNorm', label: 'Gradient limit', hint: 'Longer gradients are cut to this. 1 where nothing is said, 0 for no limit.', value: '' },
  { of: 'adapter', name: 'loraDropout', label: 'Dropout', hint: 'Share of what goes into the adapter that is left out at random in each step, against learning by heart. 0.05 is usual.', value: '' },
  { of: 'training', name: 'loraplusLrRatio', label: 'Rate of B (LoRA+)', hint: 'How many times as far B goes as A. 16 is what its authors suggest, with a lower learning rate.', value: '' },
  { of: 'training', name: 'neftuneNoiseAlpha', label: 'Noise (NEFTune)', hint: 'Noise on what the model reads while it trains, for answers less stuck to the examples. 5 is usual.', value: '' },
  { of: 'training', name: 'labelSmoothingFactor', label: 'Label smoothing', hint: 'Share of each answer that is spread over all tokens, against being too sure. 0.1 is usual.', value: '' },
  { of: 'training', name: 'beta', pairs: true, label: 'Weight of preference (beta)', hint: 'In DPO how much a change of likelihood counts, in ORPO the weight of the odds ratio. 0.1 where nothing is said.', value: '' },
  { of: 'training', name: 'earlyStoppingPatience', label: 'Patience', hint: 'Ends after so many evaluations that were no better. Needs examples that are held out.', value: '' },
];
/** Off unless they are ticked. */
export const CHECKS: readonly { of: Of; name: string; label: string; hint: string }[] = [
  { of: 'adapter', name: 'useDora', label: 'Magnitudes apart (DoRA)', hint: 'Learns how long the rows of a matrix are apart from where they point: often better at low ranks, and slower.' },
];
/** The first of each is the engine's own. */
export const CHOICES: readonly (Omit<Setting, 'value'> & { of: Of; pairs?: true; options: Record<string, string> })[] = [
  {
    of: 'adapter',
    name: 'initLoraWeights',
    label: 'Beginning',
    hint: 'From what the adapter starts. What begins from the weights learns faster and is saved at twice the rank.',
    options: { '': 'At random, as is usual', gaussian: 'Normal numbers', pissa_niter_16: 'The largest part of the weights (PiSSA)', olora: 'Directions of the weights (OLoRA)' },
  },
  {
    of: 'adapter',
    name: 'bias',
    label: 'Biases',
    hint: 'Numbers that some models add to what a matrix gives. Learned, they are saved with the adapter, for PEFT or merged into the model.',
    options: { '': 'As the model has them', lora_only: 'Learned where there is an adapter', all: 'All of them learned' },
  },
  {
    of: 'training',
    name: 'optim',
    label: 'Optimiser',
    hint: 'With 8 bits its memory is halved, and the result a little rougher.',
    options: { '': 'AdamW', adamw_8bit: 'AdamW with 8 bits' },
  },
  {
    of: 'training',
    name: 'loss',
    pairs: true,
    label: 'What pairs teach',
    hint: 'DPO stays near the model as it was, and takes a smaller learning rate; ORPO learns the chosen answers as well.',
    options: { dpo: 'DPO: prefer the chosen', orpo: 'ORPO: learn the chosen' },
  },
];
