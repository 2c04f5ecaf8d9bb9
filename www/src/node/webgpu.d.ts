/** The package that brings Dawn to Node, of which this much is used. Optional: it is not installed with this one. */
declare module 'webgpu' {
  export function create(flags: string[]): GPU;
  export const globals: Record<string, unknown>;
}
