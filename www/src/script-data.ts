/**
 * How a training script reads its files: as the engine does, by those functions that its files need. Where the engine
 * leaves a line out and says so, the script stops at it.
 */

import { WebLoraError } from './errors.js';
import { python } from './python.js';
import { DEFINITIONS, READERS, SHAPES } from './script-python.js';
import type { DataFormat, DataMapping, DataSettings, DataShape, Loss } from './types.js';

/** A file of examples, and what is known of it: `DatasetReport.files` says it. */
export interface ScriptFile {
  path: string;
  /** Where not given, the end of the name tells. */
  format?: DataFormat;
  /** Where not given, the script looks at the names of the columns. */
  shape?: DataShape;
}

const ENDINGS: Record<string, DataFormat> = {
  json: 'json',
  csv: 'csv',
  tsv: 'tsv',
  tab: 'tsv',
  parquet: 'parquet',
  txt: 'text',
  md: 'text',
};

/** The value of a script’s `DATA`, and the functions `rows` and `examples_of` over it. */
export function dataFunctions(
  given: readonly (string | ScriptFile)[],
  { format, mapping }: DataSettings,
  loss: Loss,
): { files: string; functions: string[] } {
  const files = given.map((file) => (typeof file === 'string' ? { path: file } : file));
  const formats = files.map((file) => format ?? file.format ?? formatOf(file.path));
  const shapes = files.map(({ shape }) => shape);
  return {
    files: python(files.map(({ path }, at) => [path, formats[at]])),
    functions: [readerOf(formats), mapping ? mapped(mapping, loss) : detected(shapes, loss)],
  };
}

/** The definitions that code needs, in order. */
export function definitionsFor(code: string): string[] {
  const needed: string[] = [];
  let all = code;
  for (const [name, definition] of Object.entries(DEFINITIONS).reverse()) {
    const used = /[a-z]/.test(name) ? `${name}\\(` : `${name}\\b`;
    if (!new RegExp(`\\b${used}`).test(all)) continue;
    needed.unshift(definition.trim());
    all += definition;
  }
  return needed;
}

function formatOf(path: string): DataFormat {
  return ENDINGS[/\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? ''] ?? 'jsonl';
}

function readerOf(formats: readonly DataFormat[]): string {
  const used = Object.entries(READERS).filter(([name]) => formats.includes(name as DataFormat));
  const opened = [
    '    raw = Path(path).read_bytes()',
    '    text = raw.decode("utf-16" if raw[:2] in (b"\\xff\\xfe", b"\\xfe\\xff") else "utf-8-sig")',
  ];
  return [
    'def rows(path, format):',
    '    """The rows of a file, each by the names of its columns."""',
    ...used.filter(([name]) => name === 'parquet').map(([, reader]) => reader.slice(1)),
    ...(used.some(([name]) => name !== 'parquet') ? opened : []),
    ...used.filter(([name]) => name !== 'parquet').map(([, reader]) => reader.slice(1)),
  ].join('\n');
}

/** `examples_of` a row, whose columns say what it is. */
function detected(shapes: readonly (DataShape | undefined)[], loss: Loss): string {
  const known = shapes.every((shape) => shape !== undefined && shape !== 'mapped');
  const used = Object.entries(SHAPES).filter(([name]) => !known || shapes.some((shape) => shape === name));
  const readings = used.filter(([name]) => (name === 'preference') === (loss !== 'sft'));
  if (readings.length === 0) throw unlike(loss);
  return [
    'def examples_of(row):',
    '    """What is to be learned of a row, as its columns say."""',
    ...readings.map(([, reading]) => reading.slice(1)),
    '    raise ValueError(f"it is not known what these columns are: {list(row)}")',
  ].join('\n');
}

/** The same of a row whose columns are what a mapping says. */
function mapped(mapping: DataMapping, loss: Loss): string {
  const column = (name: 'prompt' | 'completion' | 'text' | 'messages' | 'system' | 'chosen' | 'rejected') =>
    mapping[name] === undefined ? undefined : `column(row, ${python(mapping[name])})`;
  const text = (name: Parameters<typeof column>[0]) => (mapping[name] === undefined ? '""' : `text(${column(name)})`);
  const said = (name: 'prompt' | 'chosen' | 'rejected') => column(name) ?? 'None';
  const pairs = mapping.messages === undefined && (mapping.chosen !== undefined || mapping.rejected !== undefined);
  if (pairs !== (loss !== 'sft')) throw unlike(loss);
  const chat = mapping.chat === undefined ? '' : `, as_chat=${python(mapping.chat)}`;
  const returned = pairs
    ? `[pair(${said('prompt')}, ${said('chosen')}, ${said('rejected')})]`
    : mapping.messages !== undefined
      ? `[chat(turns(${column('messages')}, ${text('system')}))]`
      : mapping.prompt !== undefined && mapping.completion !== undefined
        ? `[answered(${text('prompt')}, ${text('completion')}, ${text('system')}${chat})]`
        : `windows(${text('text')})`;
  return ['def examples_of(row):', '    """What is to be learned of a row."""', `    return ${returned}`].join('\n');
}

function unlike(loss: Loss): WebLoraError {
  const preference = 'dpo or orpo, as the examples are preference pairs';
  const allowed = loss === 'sft' ? preference : 'sft, as the examples have no chosen and rejected answers';
  const message = `loss is ${loss}, allowed is ${allowed}`;
  return new WebLoraError({ code: 'bad_setting', message, name: 'loss', value: loss, allowed });
}
