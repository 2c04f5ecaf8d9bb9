// d·s of 16 columns, of Q3_K and Q6_K. Five u32 for 256 columns: sixteen s, a signed byte each, then d as f16.
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn signed_scale(at: u32) -> f32 {
    let block = (at >> 4u) * 5u;
    let s = (bitcast<i32>(w_scales[block + ((at >> 2u) & 3u)]) << (24u - (at & 3u) * 8u)) >> 24u;
    return unpack2x16float(w_scales[block + 4u]).x * f32(s);
}
