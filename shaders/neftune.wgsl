// y[t, c] += u · alpha / sqrt(length · width), with u uniform in (-1, 1) and the length of token t's own example (NEFTune,
// arXiv 2310.05914). u is a function of the optimiser step's key, of the row among all rows of that step, and of the column.
//
// One thread a vec4: columns along x, rows along y.
struct Params {
    rows: Rows,
    // Columns.
    width: u32,
    // vec4s from one row to the next.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let c = global_id.x;
    let row = global_id.y;
    if (c >= params.stride4 || row >= n_rows(params.rows)) {
        return;
    }
    let words = random(vec4<u32>(step.random_key0, step.random_key1, step.first_row + row, c));
    // Odd multiples of 2^-23, which are exact.
    let u = (vec4<f32>(words >> vec4<u32>(9u)) + 0.5) * 2.3841857910e-7 - 1.0;
    let length = tokens[row].end - tokens[row].start;
    let bound = step.neftune_noise_alpha / sqrt(f32(length * params.width));
    let is_pad = c * 4u + vec4<u32>(0u, 1u, 2u, 3u) >= vec4<u32>(params.width);
    y[row * params.stride4 + c] += select(u * bound, vec4<f32>(0.0), is_pad);
}
