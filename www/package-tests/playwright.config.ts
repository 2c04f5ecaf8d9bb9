/** The package's tests: what `npm pack` makes, installed in a folder of its own. */

import { defineConfig } from '@playwright/test';
import { CHROMIUM, FAST_FLAGS } from '../chromium.mjs';

export default defineConfig({
  testDir: '.',
  testMatch: '*.spec.ts',
  outputDir: '../../.cache/test-results/package',
  // The GPU is the processor here: two tests at once would only slow each other down.
  workers: 1,
  timeout: 300_000,
  expect: { timeout: 120_000 },
  forbidOnly: !!process.env.CI,
  reporter: 'list',
  use: { launchOptions: { executablePath: CHROMIUM, args: FAST_FLAGS }, trace: 'retain-on-failure' },
});
