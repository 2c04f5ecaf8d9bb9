// Pairs (i, i + head_dim/2) of every head turned by the angle of the row's position:
// x[i] ← x[i] cos - x[i + half] sin,  x[i + half] ← x[i + half] cos + x[i] sin.   transformers' `apply_rotary_pos_emb`
//
// Thread (i, t) turns pair i of every query and key head of row t, in place. Nothing else is touched.
struct Params {
    rows: Rows,
    n_heads: u32,
    n_kv_heads: u32,
    // Pairs a head, half of head_dim.
    half: u32,
    // Columns from one row to the next.
    stride: u32,
    // The first column of the keys.
    k_first: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// cos and sin, [n_positions, half].
@group(0) @binding(3) var<storage, read> table: array<vec2<f32>>;
// [n_tokens, n_heads * head_dim] and, from column k_first on, [n_tokens, n_kv_heads * head_dim]
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

fn turn_heads(first: u32, n: u32, angle: vec2<f32>) {
    var at = first;
    for (var head = 0u; head < n; head += 1u) {
        let a = x[at];
        let b = x[at + params.half];
        x[at] = a * angle.x - b * angle.y;
        x[at + params.half] = b * angle.x + a * angle.y;
        at += 2u * params.half;
    }
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let pair = global_id.x;
    let row = global_id.y;
    if (pair >= params.half || row >= n_rows(params.rows)) {
        return;
    }
    let angle = table[tokens[row].position * params.half + pair];
    let start = row * params.stride + pair;
    turn_heads(start, params.n_heads, angle);
    turn_heads(start + params.k_first, params.n_kv_heads, angle);
}
