// gain[j] = m[j] / ‖w[j] + s f Σ_i b[j, i] a[slot + i]‖, what DoRA multiplies column j of a product with (arXiv 2402.09353,
// equation 5), for the rows j of a weight; with it a copy of the column's bias, and the norm. s is LoRA's scale, f the factor
// of the linear's slot. Columns without an adapter, and pads, have a gain of 1.
//
// At another strength than 1 the low-rank term is as strong as that says, and the magnitude as far on its way from ‖w[j]‖ to
// m[j]: 0 is the weight alone.
//
// One thread a row of the weight; f32 sums, four interleaved partial sums a row.
struct Params {
    // Rows of the weight.
    n: u32,
    // Groups of eight columns in a row of the weight, and of a.
    k8: u32,
    // Where the weight is a part of a taller one: its first row there.
    first: u32,
    // vec4s in a row of b: those of a slot.
    rank4: u32,
    // Columns of the output, pads included.
    width: u32,
    scale: f32,
    _pad0: u32,
    _pad1: u32,
    segments: Segments,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> magnitude: array<f32>;
// Gains, biases and norms, `width` of each.
@group(0) @binding(7) var<storage, read_write> gains: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    if (global_id.x >= params.n) {
        return;
    }
    let column = params.first + global_id.x;
    let bias = bias_at(column);
    gains[params.width + column] = bias[column % 4u];
    let slot = params.segments.slots[segment_of(column, params.segments.ends, INTERLEAVED)];
    if (slot == NO_SLOT) {
        gains[column] = 1.0;
        gains[2u * params.width + column] = 0.0;
        return;
    }
    let scale = params.scale * step.strength * params.segments.factors[slot / params.rank4];
    // vec4s from one row of a to the next.
    let s = 2u * params.k8;
    var own = vec4<f32>(0.0);
    var sum = vec4<f32>(0.0);
    for (var k8 = 0u; k8 < params.k8; k8 += 1u) {
        var lo = vec4<f32>(0.0);
        var hi = vec4<f32>(0.0);
        var at = 4u * slot * s + 2u * k8;
        for (var i = 0u; i < params.rank4; i += 1u) {
            let f = b[column * params.rank4 + i];
            lo += f.x * a[at] + f.y * a[at + s] + f.z * a[at + 2u * s] + f.w * a[at + 3u * s];
            hi += f.x * a[at + 1u] + f.y * a[at + s + 1u] + f.z * a[at + 2u * s + 1u] + f.w * a[at + 3u * s + 1u];
            at += 4u * s;
        }
        let w = weight_pair(global_id.x, k8);
        lo = w.lo + scale * lo;
        hi = w.hi + scale * hi;
        own += w.lo * w.lo + w.hi * w.hi;
        sum += lo * lo + hi * hi;
    }
    let norm = sqrt(sum.x + sum.y + sum.z + sum.w);
    let own_norm = sqrt(own.x + own.y + own.z + own.w);
    let m = (1.0 - step.strength) * own_norm + step.strength * magnitude[column];
    gains[column] = select(1.0, m / norm, norm > 0.0);
    gains[2u * params.width + column] = norm;
}
