// metrics: loss (read), L2 norm of all gradients, clip = min(1, max_grad_norm / (norm + 1e-6)), and whether loss and norm
// are finite as 1.0 or 0.0. If they are not, clip is 0 and a norm that is Inf or NaN is stored as such.
//
// A single thread over N_PARTIALS parts, pairwise.
@group(0) @binding(1) var<uniform> params: vec4<u32>;
@group(0) @binding(2) var<storage, read> partial_largest: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> partial_sum: array<vec4<f32>>;
// Bits of f32, as compilers may take it that no f32 is Inf or NaN.
@group(0) @binding(4) var<storage, read_write> metrics: array<u32>;

fn is_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(1)
fn main() {
    var largest4 = vec4<u32>(0u);
    for (var i = 0u; i < N_PARTIALS / 4u; i += 1u) {
        largest4 = max(largest4, partial_largest[i]);
    }
    let largest = max(max(largest4.x, largest4.y), max(largest4.z, largest4.w));
    for (var i = 0u; i < N_PARTIALS / 4u; i += 1u) {
        let l = partial_largest[i];
        let shrink = vec4<f32>(rescale(l.x, largest), rescale(l.y, largest), rescale(l.z, largest), rescale(l.w, largest));
        let v = partial_sum[i] * shrink * shrink;
        pairwise_add(i, (v.x + v.y) + (v.z + v.w));
    }
    let norm = sqrt(pairwise_total(N_PARTIALS / 4u)) * power_of_two(exponent_of(largest));
    let norm_bits = select(largest, bitcast<u32>(norm), is_finite(largest));
    let finite = is_finite(norm_bits) && is_finite(metrics[0]);
    var clip = 0.0;
    if (finite) {
        clip = 1.0;
        if (step.max_grad_norm > 0.0) {
            clip = min(1.0, step.max_grad_norm / (norm + 1e-6));
        }
    }
    metrics[1] = norm_bits;
    metrics[2] = bitcast<u32>(clip);
    metrics[3] = bitcast<u32>(select(0.0, 1.0, finite));
}
