/** The terms of everything that is put inside the package: npm packages in its scripts, crates in its wasm. */

import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

/** A licence that we may ship under, the best first: Apache-2.0 is the package's own, and its text is there already. */
const ACCEPTED = ['Apache-2.0', 'MIT', 'Zlib', 'BSD-3-Clause', 'Unicode-3.0', 'Unlicense'];

/**
 * Which licences of an SPDX expression are taken: one for each part that `AND` joins. Cargo's older `/` means `OR`.
 *
 * @param {string} expression
 * @returns {string[]}
 */
export function taken(expression) {
  return expression.split(/ AND /).map((part) => {
    const offered = part.replace(/[()]/g, '').split(/ OR |\//).map((name) => name.trim());
    const licence = ACCEPTED.find((name) => offered.includes(name));
    if (!licence) throw new Error(`${part}: no licence that we may ship under`);
    return licence;
  });
}

/**
 * All that has to come with a copy, as one text.
 *
 * @param {readonly string[]} inside npm packages whose code is in the scripts
 * @returns {Promise<string>}
 */
export async function licences(inside) {
  const scripts = inside.map(async (name) => `${name}\n\n${await readFile(`node_modules/${name}/LICENSE`, 'utf8')}`);
  const crates = await cratesInside();
  const apache = crates.filter(({ terms }) => terms.includes('Apache-2.0')).map(({ title }) => title);
  const others = crates.flatMap(({ title, folder, terms }) =>
    terms.filter((name) => name !== 'Apache-2.0').map(async (name) => `${title}\n\n${await text(folder, name)}`),
  );
  return [
    'Under the Apache License 2.0, whose text is in LICENSE:\n',
    ...apache,
    ...(await Promise.all([...scripts, ...others])).map((part) => `\n\n${'-'.repeat(80)}\n${part.trim()}`),
  ].join('\n');
}

/**
 * What Cargo.lock names and the wasm contains: neither tests' crates nor those that run while it is built.
 *
 * @returns {Promise<{ title: string, folder: string, terms: string[] }[]>}
 */
async function cratesInside() {
  const args = ['metadata', '--format-version=1', '--locked', '--filter-platform=wasm32-unknown-unknown'];
  const { stdout } = await promisify(execFile)('cargo', args, { cwd: '..', maxBuffer: 64 << 20 });
  /** @type {{ packages: Crate[], resolve: { root: string, nodes: Node[] } }} */
  const { packages, resolve } = JSON.parse(stdout);
  const crates = new Map(packages.map((crate) => [crate.id, crate]));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const found = new Set([resolve.root]);
  for (const id of found) {
    for (const { pkg, dep_kinds } of nodes.get(id)?.deps ?? []) {
      const runsInBuild = crates.get(pkg)?.targets.some(({ kind }) => kind.includes('proc-macro'));
      if (!runsInBuild && dep_kinds.some(({ kind }) => kind === null)) found.add(pkg);
    }
  }
  found.delete(resolve.root);
  return [...found]
    .map((id) => /** @type {Crate} */ (crates.get(id)))
    .map(({ name, version, license, manifest_path }) => ({
      title: `${name} ${version}`,
      folder: dirname(manifest_path),
      terms: taken(license ?? `${name} names no licence`),
    }))
    .sort((a, b) => (a.title < b.title ? -1 : 1));
}

/** @typedef {{ id: string, name: string, version: string, license: string | null, manifest_path: string, targets: { kind: string[] }[] }} Crate */
/** @typedef {{ id: string, deps: { pkg: string, dep_kinds: { kind: string | null }[] }[] }} Node */

/**
 * The file of a crate that has the licence's text.
 *
 * @param {string} folder
 * @param {string} licence
 */
async function text(folder, licence) {
  const files = (await readdir(folder)).filter((name) => /^(licen[cs]e|copying|unlicense)/i.test(name)).sort();
  const short = licence.split('-')[0]?.toLowerCase() ?? '';
  const file = files.find((name) => name.toLowerCase().includes(short)) ?? files[0];
  if (!file) throw new Error(`${folder} has no text of ${licence}`);
  return readFile(join(folder, file), 'utf8');
}
