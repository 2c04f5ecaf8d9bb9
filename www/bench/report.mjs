/** Numbers on the terminal and in target/bench.json, which other measurements share. */

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FILE = fileURLToPath(new URL('../../target/bench.json', import.meta.url));

/** @param {number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Prints rows of cells, the first column to the left and numbers to the right. @param {(string | number)[][]} rows */
export function printTable(rows) {
  const text = rows.map((row) => row.map((cell) => (typeof cell === 'number' ? cell.toPrecision(3) : cell)));
  const widths = text[0].map((_, column) => Math.max(...text.map((row) => row[column].length)));
  for (const row of text) {
    console.log(row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  '));
  }
}

/** @param {Record<string, number>} ratios */
export function printRatios(ratios) {
  for (const [name, ratio] of Object.entries(ratios)) console.log(`${name.padEnd(28)}${ratio.toFixed(2)}`);
}

/**
 * Puts `ratios` into bench.json as they are and `details` under `section`; what else is there stays.
 * @param {Record<string, number>} ratios @param {string} section @param {Record<string, unknown>} details
 */
export async function merge(ratios, section, details) {
  const before = JSON.parse(await readFile(FILE, 'utf8').catch(() => '{}'));
  const merged = { ...before, ...ratios, [section]: { ...before[section], ...details } };
  await mkdir(path.dirname(FILE), { recursive: true });
  await writeFile(FILE, `${JSON.stringify(merged, null, 2)}\n`);
}
