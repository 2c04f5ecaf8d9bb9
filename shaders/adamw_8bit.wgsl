// AdamW (shared/adamw.wgsl) with both moments in 8 bits: block-wise dynamic quantisation (Dettmers et al., "8-bit
// Optimizers via Block-wise Quantization", arXiv 2110.02861). A moment is map[code] · absmax, absmax the largest magnitude
// of its block; the step is taken in f32 between decoding the old moments and encoding the new ones, each to the nearest
// value of the map. But a second moment that is not 0 never becomes 0: a first moment over its root would be huge.
//
// One workgroup a block, one thread a vec4.
struct Params {
    n4: u32,
    // Workgroups in a row of the grid.
    row_groups: u32,
    _pad0: u32,
    _pad1: u32,
    // Of the codes of first moments, ascending, then of those of second ones.
    map: array<vec4<f32>, 128>,
    // Half way from each to the next.
    middles: array<vec4<f32>, 128>,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
// As grad_norm leaves them: loss, norm, clip factor, 1 if finite.
@group(0) @binding(3) var<storage, read> metrics: array<f32>;
@group(0) @binding(4) var<storage, read_write> weights: array<vec4<f32>>;
// Four codes each, the lowest byte first.
@group(0) @binding(5) var<storage, read_write> exp_avg: array<u32>;
@group(0) @binding(6) var<storage, read_write> exp_avg_sq: array<u32>;
// Of the first and the second moment, by block.
@group(0) @binding(7) var<storage, read_write> absmax: array<vec2<f32>>;

const SIGNED = 0u;
const UNSIGNED = 256u;

var<workgroup> sh_map: array<f32, 512>;
var<workgroup> sh_middles: array<f32, 512>;
var<workgroup> sh_absmax: array<vec2<f32>, WORKGROUP>;

fn decode(codes: u32, first: u32) -> vec4<f32> {
    let at = ((vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)) + first;
    return vec4<f32>(sh_map[at.x], sh_map[at.y], sh_map[at.z], sh_map[at.w]);
}

// The codes of the nearest values, and of two as near of the lower: how many middles lie below.
fn encode(x: vec4<f32>, first: u32) -> vec4<u32> {
    var code = vec4<u32>(0u);
    for (var half = 128u; half > 0u; half >>= 1u) {
        let at = code + (first + half - 1u);
        let middle = vec4<f32>(sh_middles[at.x], sh_middles[at.y], sh_middles[at.z], sh_middles[at.w]);
        code += select(vec4<u32>(0u), vec4<u32>(half), x > middle);
    }
    return code;
}

fn packed(code: vec4<u32>) -> u32 {
    return code.x | (code.y << 8u) | (code.z << 16u) | (code.w << 24u);
}

fn largest(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = workgroup_id.y * params.row_groups + workgroup_id.x;
    let i = block * WORKGROUP + thread;
    let is_in = i < params.n4;
    for (var at = thread * 8u; at < thread * 8u + 8u; at += 1u) {
        sh_map[at] = params.map[at / 4u][at % 4u];
        sh_middles[at] = params.middles[at / 4u][at % 4u];
    }
    workgroupBarrier();

    var after = Moments(vec4<f32>(0.0), vec4<f32>(0.0));
    if (is_in) {
        let before = Moments(decode(exp_avg[i], SIGNED) * absmax[block].x, decode(exp_avg_sq[i], UNSIGNED) * absmax[block].y);
        after = moved(before, grads[i] * metrics[2]);
    }
    sh_absmax[thread] = vec2<f32>(largest(abs(after.m)), largest(after.v));
    for (var half = WORKGROUP / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            sh_absmax[thread] = max(sh_absmax[thread], sh_absmax[thread + half]);
        }
    }
    workgroupBarrier();
    if (!is_in || metrics[3] == 0.0) {
        return;
    }
    // Where all are 0, so is each quotient.
    let divisor = max(sh_absmax[0], vec2<f32>(1.17549435e-38));
    let least = select(vec4<u32>(0u), vec4<u32>(1u), after.v > vec4<f32>(0.0));
    exp_avg[i] = packed(encode(after.m / divisor.x, SIGNED));
    exp_avg_sq[i] = packed(max(encode(after.v / divisor.y, UNSIGNED), least));
    if (thread == 0u) {
        absmax[block] = sh_absmax[0];
    }
    weights[i] = updated(weights[i], after, learning_rate(i), weight_decay(i));
}
