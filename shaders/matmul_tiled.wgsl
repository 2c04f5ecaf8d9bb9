// matmul.wgsl through workgroup memory: how shared/tiles.wgsl gets columns of w [n, k], which are rows in memory.

fn n_terms() -> u32 {
    return 8u * params.k8;
}

fn n_columns() -> u32 {
    return params.n;
}

fn x_column() -> u32 {
    return 0u;
}

fn y_column() -> u32 {
    return params.first;
}

// Columns past the last repeat it; nobody stores them.
fn load_weights(thread: u32, col: u32, k: u32) {
    let last = params.n - 1u;
    let c = col + thread / 4u * 4u;
    let k8 = k / 8u + thread % 4u;
    var lo: mat4x4<f32>;
    var hi: mat4x4<f32>;
    if (k8 < params.k8) {
        let w0 = weight_pair(min(c, last), k8);
        let w1 = weight_pair(min(c + 1u, last), k8);
        let w2 = weight_pair(min(c + 2u, last), k8);
        let w3 = weight_pair(min(c + 3u, last), k8);
        lo = mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo);
        hi = mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi);
    }
    let at = thread % 4u * 128u + thread / 4u;
    put_w(at, lo);
    put_w(at + 64u, hi);
}

fn load_tail(thread: u32, col: u32, r: u32, segment: u32) {
    let scale = params.tail_scale * step.strength;
    let last = params.n - 1u;
    for (var i = thread; i < 128u; i += 64u) {
        let c = col + i / 8u * 4u;
        let k4 = r / 4u + i % 8u;
        var w = mat4x4<f32>();
        if (4u * k4 < params.tail_rank && segment_of(params.first + c, params.segments.ends, INTERLEAVED) == segment) {
            w = scale * mat4x4<f32>(
                tail_weight(params.first + min(c, last), k4), tail_weight(params.first + min(c + 1u, last), k4),
                tail_weight(params.first + min(c + 2u, last), k4), tail_weight(params.first + min(c + 3u, last), k4),
            );
        }
        put_w(i % 8u * 64u + i / 8u, w);
    }
}
