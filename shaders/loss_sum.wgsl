// metrics[0] += loss_scale · Σ_i losses[i] over the targets of the step.
//
// A single thread: there are thousands of values at most, and their order stays fixed. Sums four at a time, then pairwise.
@group(0) @binding(1) var<uniform> params: vec4<u32>;
@group(0) @binding(2) var<storage, read> losses: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> metrics: array<f32>;

@compute @workgroup_size(1)
fn main() {
    let n = step.n_targets;
    let n_whole = n / 4u;
    for (var i = 0u; i < n_whole; i += 1u) {
        let v = losses[i];
        pairwise_add(i, (v.x + v.y) + (v.z + v.w));
    }
    var sum = pairwise_total(n_whole);
    // Values past the last may be anything.
    if (n % 4u != 0u) {
        let v = losses[n_whole];
        sum += v.x + select(0.0, v.y, n % 4u > 1u) + select(0.0, v.z, n % 4u > 2u);
    }
    metrics[0] += step.loss_scale * sum;
}
