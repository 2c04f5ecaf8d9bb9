// Sums a run of values as a binary tree, so that the rounding error grows with the logarithm of their number. Adding is
// counting in binary: two sums of equally many values carry into one of twice as many.
// (Compensated summation is no help here, as compilers may reorder sums and optimise the compensation away.)
var<private> pairwise_sums: array<f32, 32>;

// Adds `value` as number `i`; numbers come in order from 0.
fn pairwise_add(i: u32, value: f32) {
    var sum = value;
    var level = 0u;
    for (var carry = i; (carry & 1u) == 1u; carry >>= 1u) {
        sum += pairwise_sums[level];
        level += 1u;
    }
    pairwise_sums[level] = sum;
}

// The sum of the first `n`, which are all.
fn pairwise_total(n: u32) -> f32 {
    var sum = 0.0;
    for (var level = 0u; (n >> level) != 0u; level += 1u) {
        if (((n >> level) & 1u) == 1u) {
            sum += pairwise_sums[level];
        }
    }
    return sum;
}
