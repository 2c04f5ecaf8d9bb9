// Σ g² in N_PARTIALS parts. Thread i takes the vec4s i, i + N_PARTIALS, … and keeps (largest bits of |g|, sum): the sum is
// of (g / 2^k)², with 2^k the power of two below that largest |g| (see exponent_of), so that no gradient is too large
// or too small to square. Bits of Inf and NaN are larger than those of any number.
struct Params {
    n4: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> partial_largest: array<u32>;
@group(0) @binding(4) var<storage, read_write> partial_sum: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    var largest = 0u;
    var down = power_of_two(-exponent_of(largest));
    var squares = vec4<f32>(0.0);
    for (var i = global_id.x; i < params.n4; i += N_PARTIALS) {
        let g = grads[i];
        let bits4 = bitcast<vec4<u32>>(g) & vec4<u32>(0x7fffffffu);
        let bits = max(max(bits4.x, bits4.y), max(bits4.z, bits4.w));
        if (bits > largest) {
            let shrink = rescale(largest, bits);
            squares = squares * shrink * shrink;
            largest = bits;
            down = power_of_two(-exponent_of(largest));
        }
        let scaled = g * down;
        squares += scaled * scaled;
    }
    partial_largest[global_id.x] = largest;
    partial_sum[global_id.x] = (squares.x + squares.y) + (squares.z + squares.w);
}
