/** A folder with nothing in it but the package, as npm installs it, the tiny model and four examples. */

import { execFile, spawn } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { copyFile, cp, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import sirv from 'sirv';
import { NODE_GPU } from '../chromium.mjs';
import { CHATS, MODEL_FILES } from '../tests/studio.js';

const WWW = fileURLToPath(new URL('..', import.meta.url));
const HERE = fileURLToPath(new URL('.', import.meta.url));
export const APP = fileURLToPath(new URL('../../.cache/package-app', import.meta.url));

/** What the README asks of a page's policy, and nothing else. */
const POLICY = "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'";

const exec = promisify(execFile);

/** Packs and installs; without the package that brings a GPU to Node. */
export async function install(): Promise<void> {
  await rm(APP, { recursive: true, force: true });
  await mkdir(`${APP}/model`, { recursive: true });
  const { stdout } = await exec('npm', ['pack', '--silent', '--pack-destination', APP], { cwd: WWW });
  await writeFile(`${APP}/package.json`, '{ "name": "app", "private": true, "type": "module" }\n');
  await exec('npm', ['install', '--offline', '--no-audit', '--no-fund', `./${stdout.trim()}`], { cwd: APP });
  await cp(`${HERE}app`, APP, { recursive: true });
  await cp(`${WWW}examples`, APP, { recursive: true });
  for (const [from, name] of MODEL_FILES) await copyFile(from, `${APP}/model/${name}`);
  await writeFile(`${APP}/data.jsonl`, CHATS);
}

/** As `npm install webgpu` would, which fetches 100 MB. */
export async function installDawn(): Promise<void> {
  await symlink(`${HERE}node_modules/webgpu`, `${APP}/node_modules/webgpu`);
}

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs Node in the folder. */
export async function node(args: string[], env: Record<string, string> = NODE_GPU): Promise<Ran> {
  const outcome = exec(process.execPath, args, { cwd: APP, env: { ...process.env, WEB_LORA_CACHE: `${APP}/cache`, ...env } });
  return outcome.then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }: Ran) => ({ code, stdout, stderr }),
  );
}

/** The command, as `npx web-lora` runs it. */
export function command(args: string[], env?: Record<string, string>): Promise<Ran> {
  return node(['node_modules/.bin/web-lora', ...args], env);
}

/** Presses Ctrl-C, or sends another signal, once the command has said `text`; what it ended with. */
export async function interrupt(args: string[], text: string, signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> {
  const child = spawn(process.execPath, ['node_modules/.bin/web-lora', ...args], {
    cwd: APP,
    env: { ...process.env, WEB_LORA_CACHE: `${APP}/cache`, ...NODE_GPU },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (said: Buffer) => said.includes(text) && child.kill(signal));
  return new Promise((resolve) => child.once('exit', resolve));
}

/** Serves files of the folder, those of `site` first. */
export async function serve(site: string): Promise<{ url: string; close: () => void }> {
  const setHeaders = (response: { setHeader(name: string, value: string): void }) => response.setHeader('Content-Security-Policy', POLICY);
  const [first, then] = [site, APP].map((folder) => sirv(folder, { dev: true, setHeaders }));
  const server: Server = createServer((request, response) =>
    first?.(request, response, () => then?.(request, response, () => void response.writeHead(404).end())),
  );
  await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
  return { url: `http://localhost:${(server.address() as AddressInfo).port}/`, close: () => server.close() };
}
