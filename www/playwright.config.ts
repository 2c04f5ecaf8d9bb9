/** The page's tests: the built page, served as `make run` serves it, in Chromium on SwiftShader. */

import { defineConfig } from '@playwright/test';
import { CHROMIUM, FAST_FLAGS } from './chromium.mjs';

const PORT = Number(process.env.PORT ?? 8323);

export default defineConfig({
  testDir: 'tests',
  // Files named .test are Node's: to look for tests in them is to run them here, all in one process.
  testMatch: '**/*.spec.ts',
  outputDir: '../.cache/test-results',
  // The GPU is the processor here, but half of the time a test waits for something else.
  workers: 2,
  timeout: 180_000,
  expect: { timeout: 60_000 },
  forbidOnly: !!process.env.CI,
  reporter: 'list',
  use: {
    baseURL: `http://localhost:${PORT}`,
    launchOptions: { executablePath: CHROMIUM, args: FAST_FLAGS },
    // Shorter than a test's, so that a failure says what was waited for.
    actionTimeout: 120_000,
    trace: 'retain-on-failure',
    // What it keeps would hide requests from the tests; those of being offline allow it.
    serviceWorkers: 'block',
  },
  webServer: {
    command: `npm start -- --strictPort --port ${PORT}`,
    url: `http://localhost:${PORT}/`,
    reuseExistingServer: false,
  },
});
