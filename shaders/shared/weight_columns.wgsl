// What matmul.wgsl and matvec.wgsl load of a weight and of the low-rank term. Columns past the last repeat it; nobody
// stores them.

// Eight columns of the product, eight terms of each: the first four, then the others.
struct Weights {
    lo_left: mat4x4<f32>,
    lo_right: mat4x4<f32>,
    hi_left: mat4x4<f32>,
    hi_right: mat4x4<f32>,
}

fn weights(col: u32, k8: u32) -> Weights {
    let last = params.n - 1u;
    let w0 = weight_pair(min(col, last), k8); let w1 = weight_pair(min(col + 1u, last), k8);
    let w2 = weight_pair(min(col + 2u, last), k8); let w3 = weight_pair(min(col + 3u, last), k8);
    let w4 = weight_pair(min(col + 4u, last), k8); let w5 = weight_pair(min(col + 5u, last), k8);
    let w6 = weight_pair(min(col + 6u, last), k8); let w7 = weight_pair(min(col + 7u, last), k8);
    return Weights(
        mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo), mat4x4<f32>(w4.lo, w5.lo, w6.lo, w7.lo),
        mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi), mat4x4<f32>(w4.hi, w5.hi, w6.hi, w7.hi),
    );
}

// Four columns of the low-rank term.
fn tail_weights(col: u32, k4: u32) -> mat4x4<f32> {
    let f = params.first;
    let last = params.n - 1u;
    return (params.tail_scale * step.strength) * mat4x4<f32>(
        tail_weight(f + min(col, last), k4), tail_weight(f + min(col + 1u, last), k4),
        tail_weight(f + min(col + 2u, last), k4), tail_weight(f + min(col + 3u, last), k4),
    );
}

// Adds the low-rank terms 4·k4 .. of eight columns, whose weights are a and b.
fn add_tail(block: ptr<function, Block>, at: RowsAt, col: u32, k4: u32, a: mat4x4<f32>, b: mat4x4<f32>) {
    let rows = tail_rows(at, k4, segment_of(params.first + col, params.segments.ends, INTERLEAVED));
    if (INTERLEAVED == 1u) {
        add_products_apart(block, rows, tail_rows(at, k4, 1u), a, b);
    } else {
        add_products(block, rows, a, b);
    }
}
