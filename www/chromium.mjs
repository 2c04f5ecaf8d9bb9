/** Headless Chromium with WebGPU on SwiftShader, for the tests and the demo: no GPU needed, and the same everywhere. */

import { tmpdir } from 'node:os';

export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Flags that make it speak to nobody but us; what a page asks for is all that leaves it. */
const QUIET_FLAGS = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export const CHROMIUM_FLAGS = [...QUIET_FLAGS, '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];

/** The same, without what costs SwiftShader ten seconds of compiling at each start: for tests that are not of shaders. */
export const FAST_FLAGS = [...CHROMIUM_FLAGS, '--enable-dawn-features=disable_workgroup_init'];

/** The same browser on the machine's own GPU, where Linux is not trusted with it unasked. */
export const GPU_FLAGS = [...QUIET_FLAGS, '--enable-unsafe-webgpu', '--enable-features=Vulkan', '--ignore-gpu-blocklist'];

/** The same browser where no GPU answers. */
export const NO_GPU_FLAGS = [...QUIET_FLAGS, '--disable-gpu', '--disable-features=WebGPUService'];

/** SwiftShader is what Dawn takes in Node; the flag leaves out what costs it ten seconds of compiling. */
export const NODE_GPU = {
  VK_DRIVER_FILES: process.env.SWIFTSHADER ?? '/usr/lib/chromium/vk_swiftshader_icd.json',
  WEB_LORA_DAWN: 'enable-dawn-features=disable_workgroup_init',
  // Where there is none, libwayland, which a Vulkan driver may ask, complains on stderr.
  XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? tmpdir(),
};
