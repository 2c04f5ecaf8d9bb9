/** Makes dist/ of src/: what it takes of other packages is put inside, so that a page needs no bundler to import it. */

import { fileURLToPath } from 'node:url';
import { defineConfig } from 'rolldown';
import { licences } from './licences.mjs';

const INSIDE = ['fflate', '@noble/hashes', 'hyparquet', 'fzstd', '@huggingface/hub', '@huggingface/blake3-jit', '@huggingface/xetchunk-wasm'];

/** Shared code of Node's half lies with it: from there it names its worker. @type {(chunk: { moduleIds: string[] }) => string} */
const besideEntry = ({ moduleIds }) => (moduleIds.some((id) => id.includes('/src/node/')) ? 'node/[name].js' : '[name].js');

/** What the package has inside comes with its terms. @type {import('rolldown').Plugin} */
const terms = {
  name: 'licences',
  async generateBundle() {
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source: await licences(INSIDE) });
  },
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
    alias: { '@huggingface/hub': fileURLToPath(new URL('node_modules/@huggingface/hub/dist/browser/index.mjs', import.meta.url)) },
  },
  plugins: [terms],
  output: { dir: 'dist', format: 'es', chunkFileNames: besideEntry, minifyInternalExports: false },
});
