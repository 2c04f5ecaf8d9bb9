/** Makes dist/ of src/: what it takes of other packages is put inside, so that a page needs no bundler to import it. */

import { fileURLToPath } from 'node:url';
import { defineConfig } from 'rolldown';
import { licences } from './licences.mjs';

const INSIDE = ['fflate', '@noble/hashes', 'hyparquet', 'fzstd', '@huggingface/hub'];

const hubInBrowsers = fileURLToPath(new URL('node_modules/@huggingface/hub/dist/browser/index.mjs', import.meta.url));

/** Shared code of Node's half lies with it: from there it names its worker. @type {(chunk: { moduleIds: string[] }) => string} */
const besideEntry = ({ moduleIds }) => (moduleIds.some((id) => id.includes('/src/node/')) ? 'node/[name].js' : '[name].js');

/** What the package has inside comes with its terms. @type {import('rolldown').Plugin} */
const terms = {
  name: 'licences',
  async generateBundle() {
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source: await licences(INSIDE) });
  },
};

/** What the Hub's library cuts and hashes large uploads with by a protocol that we do not ask for. */
const XET = '@huggingface/xetchunk-wasm';
const XET_NAMES = [
  'MerkleHashSubtree', 'createChunker', 'fileHash', 'finalize', 'hashToHex', 'hexToBytes', 'hmac', 'nextBlock',
  'verificationHash', 'xorbHash',
];

/** It is left out: a third of the library's bytes, and never called. @type {import('rolldown').Plugin} */
const noXet = {
  name: 'no-xet',
  resolveId: (id) => (id === XET ? `\0${XET}` : null),
  load: (id) => (id === `\0${XET}` ? XET_NAMES.map((name) => `export const ${name} = undefined;`).join('\n') : null),
};

export default defineConfig({
  input: {
    index: 'src/index.ts',
    worker: 'src/worker.ts',
    'node/index': 'src/node/index.ts',
    'node/worker': 'src/node/worker.ts',
    'node/cli': 'src/node/cli/main.ts',
  },
  external: [/^node:/, /\/pkg\/web_lora\.js$/, 'webgpu'],
  platform: 'neutral',
  resolve: {
    mainFields: ['module', 'main'],
    conditionNames: ['browser', 'import'],
    // As its field `browser` has it: the other build imports Node's own modules.
    alias: { '@huggingface/hub': hubInBrowsers },
  },
  plugins: [noXet, terms],
  output: { dir: 'dist', format: 'es', chunkFileNames: besideEntry, minifyInternalExports: false },
});
