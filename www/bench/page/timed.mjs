/** Loss and milliseconds of each of `n` steps. @param {number} n @param {() => Promise<number>} step */
export async function timed(n, step) {
  const steps = [];
  for (let i = 0; i < n; i++) {
    const start = performance.now();
    const loss = await step();
    steps.push({ loss, ms: performance.now() - start });
  }
  return steps;
}
