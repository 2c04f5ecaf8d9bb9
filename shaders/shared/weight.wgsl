// Eight neighbouring columns of a weight's row. Each weight_<format>.wgsl has `weight_pair(row, k8)`, columns
// 8·k8 .. 8·k8 + 8 of `row`, as f32; a row is `params.k8` such groups long.
struct Pair {
    lo: vec4<f32>,
    hi: vec4<f32>,
}
