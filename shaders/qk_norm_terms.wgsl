// What each row adds to the gradient of the weights of qk_norm.wgsl, of queries and of keys: with d the gradient on the
// normalised heads (turned back already), terms[t, i] = Σ_heads d[i] · x[i] · rstd over the heads of either kind.
//
// One workgroup a row: its threads take the heads for their rstd, then the columns, heads in order.
// [n_tokens, n_heads + n_kv_heads, head_dim]
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
// [n_tokens, 2 head_dim], rows a multiple of eight apart.
@group(0) @binding(4) var<storage, read_write> terms: array<f32>;

var<workgroup> sh_rstd: array<f32, HEADS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = workgroup_id.x;
    let head_dim = 2u * params.half;
    for (var head = thread; head < HEADS; head += WORKGROUP) {
        let raw_at = head_at(head, row).raw_at;
        var squares = 0.0;
        for (var i = 0u; i < head_dim; i += 1u) {
            squares += raw[raw_at + i] * raw[raw_at + i];
        }
        sh_rstd[head] = 1.0 / sqrt(squares / f32(head_dim) + params.eps);
    }
    workgroupBarrier();
    let width = (2u * head_dim + 7u) / 8u * 8u;
    for (var column = thread; column < width; column += WORKGROUP) {
        let is_key = u32(column >= head_dim);
        let end = select(params.n_heads, HEADS, is_key == 1u);
        var sum = 0.0;
        for (var head = is_key * params.n_heads; head < end && column < 2u * head_dim; head += 1u) {
            let place = head_at(head, row);
            let i = column - is_key * head_dim;
            sum += d[place.at + i] * raw[place.raw_at + i] * sh_rstd[head];
        }
        terms[row * width + column] = sum;
    }
}
