/** Makes dist/ of src/: what it takes of other packages is put inside, so that a page needs no bundler to import it. */

import { readFile } from 'node:fs/promises';
import { defineConfig } from 'rolldown';

const INSIDE = ['fflate', '@noble/hashes', 'hyparquet', 'fzstd'];

/** Shared code of Node's half lies with it: from there it names its worker. @type {(chunk: { moduleIds: string[] }) => string} */
const besideEntry = ({ moduleIds }) => (moduleIds.some((id) => id.includes('/src/node/')) ? 'node/[name].js' : '[name].js');

/** The terms of the packages inside, which ask to come with every copy. @type {import('rolldown').Plugin} */
const licences = {
  name: 'licences',
  async generateBundle() {
    const texts = INSIDE.map(async (name) => `${name}\n\n${await readFile(`node_modules/${name}/LICENSE`, 'utf8')}`);
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source: (await Promise.all(texts)).join('\n\n') });
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
  resolve: { mainFields: ['module', 'main'], conditionNames: ['browser', 'import'] },
  plugins: [licences],
  output: { dir: 'dist', format: 'es', chunkFileNames: besideEntry, minifyInternalExports: false },
});
