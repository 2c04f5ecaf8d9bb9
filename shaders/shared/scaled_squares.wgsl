// Sums of squares at a power-of-two scale. 2^k for k in -126 ..= 127.
fn power_of_two(k: i32) -> f32 {
    return bitcast<f32>(u32(k + 127) << 23u);
}

// k with 2^k <= |g| < 2^(k + 1) for the bits of |g|, as far as both 2^k and 2^-k are normal numbers.
fn exponent_of(bits: u32) -> i32 {
    return clamp(i32(bits >> 23u) - 127, -126, 126);
}

// What brings a value, twice for a square, from the scale of `largest` to that of the larger `grown`.
fn rescale(largest: u32, grown: u32) -> f32 {
    return power_of_two(max(exponent_of(largest) - exponent_of(grown), -126));
}
