/**
 * Put before the code of the engine's worker: counts from outside what is asked of WebGPU, and sends with each step the
 * time, the bytes on the GPU, how much there is or has been made of anything, and the bytes of the wasm memory.
 */

/** Buffers count while they live: the adapter's copy, which the main thread gets every ten steps, has one of its own. */
let [gpuBytes, made] = [0, 0];
/** @type {WebAssembly.Memory} */
let memory;

/** Calls `after` with the object and the result of each call of `name`. */
function watch(prototype, name, after) {
  const original = prototype[name];
  prototype[name] = function (...args) {
    const result = original.apply(this, args);
    after(this, result);
    return result;
  };
}

watch(GPUDevice.prototype, 'createBuffer', (_, { size }) => {
  gpuBytes += size;
  made += 1;
});
watch(GPUBuffer.prototype, 'destroy', ({ size }) => {
  gpuBytes -= size;
  made -= 1;
});
for (const kind of [
  'BindGroup',
  'BindGroupLayout',
  'PipelineLayout',
  'ShaderModule',
  'ComputePipeline',
  'ComputePipelineAsync',
  'QuerySet',
]) {
  watch(GPUDevice.prototype, `create${kind}`, () => (made += 1));
}
watch(WebAssembly, 'instantiateStreaming', async (_, result) => ({ memory } = (await result).instance.exports));

const post = self.postMessage;
self.postMessage = (message, ...rest) => {
  const step = message.event?.step;
  if (step) step.seen = { time: performance.now(), gpuBytes, made, wasmBytes: memory.buffer.byteLength };
  post.call(self, message, ...rest);
};
