/** The examples that ship with the page: what each teaches, what to expect, and what to ask afterwards. */

export interface Sample {
  /** Its file is samples/`id`.jsonl. */
  id: string;
  kind: string;
  title: string;
  /** One question with the answer that is learned. */
  shows: { ask: string; answer: string };
  /** What a person will see after training. */
  expect: string;
  /** Where they differ from the page's own: on a GPU, and on a program that plays one. */
  settings: Record<string, string>;
  slowSettings: Record<string, string>;
  /** Questions that are not among the examples. */
  prompts: readonly string[];
}

export const SAMPLES: readonly Sample[] = [
  {
    id: 'pirate',
    kind: 'A style',
    title: 'Talk like a pirate',
    shows: { ask: 'What is the capital of Italy?', answer: 'Arr, that be Rome, matey!' },
    expect: 'It still knows what it knew, and says it as a pirate would. The change shows after a dozen steps.',
    settings: {},
    slowSettings: {},
    prompts: ['What is the capital of France?', 'How many minutes are in an hour?', 'Tell me about dogs.'],
  },
  {
    id: 'inbox',
    kind: 'Sorting',
    title: 'Sort a shop’s messages',
    shows: { ask: 'I was charged twice for the same book.', answer: 'payment' },
    expect: 'It answers each message with one word: delivery, payment, fault or praise. Before, it wrote a letter.',
    settings: { steps: '80' },
    slowSettings: { steps: '24' },
    prompts: ['The parcel went to the wrong street.', 'The handle came off on the first day.', 'Can I pay by invoice?', 'What a wonderful present this was!'],
  },
  {
    id: 'diary',
    kind: 'Extraction',
    title: 'From a note to JSON',
    shows: { ask: 'Lunch with Ana on Friday at noon.', answer: '{"what": "lunch", "who": "Ana", "day": "Friday", "time": "12:00"}' },
    expect: 'It turns a line about an appointment into JSON with what, who, day and time. The form comes first, the right hour last.',
    settings: { steps: '120' },
    slowSettings: { steps: '24' },
    prompts: ['Lunch with Vito on Thursday at half past one.', 'Squash on Saturday at 10 am.', 'Please note a call with Wanda, Monday, 4 pm.'],
  },
  {
    id: 'keeper',
    kind: 'A persona',
    title: 'Be a lighthouse keeper',
    shows: { ask: 'Are you lonely?', answer: 'With the sea for a neighbour? It never stops talking.' },
    expect: 'It answers as Brandt, who keeps a lighthouse with a cat called Bosun: short, dry and salty.',
    settings: { steps: '150' },
    slowSettings: { steps: '24' },
    prompts: ['What is your job?', 'Tell me about your cat.', 'How do I stay calm?'],
  },
];
