// The gradient through rope.wgsl: the pairs of the head that starts at `at` in d_qkv, just written by this thread, turned
// by the negative of their angles at `position`: `n` pairs from pair `first` on.
fn turn_back(at: u32, position: u32, first: u32, n: u32) {
    let half = params.half;
    for (var i = first; i < first + n; i += 1u) {
        let angle = table[position * half + i];
        let a = d_qkv[at + i];
        let b = d_qkv[at + half + i];
        d_qkv[at + i] = a * angle.x + b * angle.y;
        d_qkv[at + half + i] = b * angle.x - a * angle.y;
    }
}
