// What four neighbouring inputs of a linear are multiplied by under dropout: 0 with probability p, or 1 / (1 - p). A function of
// the optimiser step's key, the stream of the linear, the row among all rows of that step, and the column, so that
// whoever asks again gets the same.
struct Dropout {
    // Added to the key: one for each matrix that is dropped from.
    stream: u32,
    // p · 2^32.
    threshold: u32,
    // 1 / (1 - p).
    keep: f32,
    _pad: u32,
}

fn kept(dropout: Dropout, row: u32, column4: u32) -> vec4<f32> {
    if (step.dropout == 0u) {
        return vec4<f32>(1.0);
    }
    let words = random(vec4<u32>(step.random_key0, step.random_key1 + dropout.stream, step.first_row + row, column4));
    return select(vec4<f32>(0.0), vec4<f32>(dropout.keep), words >= vec4<u32>(dropout.threshold));
}
