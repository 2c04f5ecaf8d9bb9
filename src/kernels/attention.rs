//! Causal attention within segments: `out = softmax(scale · q · kᵀ) · v` a query row and head, without ever storing
//! the scores (online softmax, arXiv 2205.14135). Query heads share key heads in groups, as transformers' `repeat_kv`.

use bytemuck::{Pod, Zeroable};

use super::eight::Eight;
use super::{Columns, Matrix};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice, Variant, Work};

/// WebGPU's most threads of a workgroup.
const MAX_THREADS: u32 = 256;

/// Of the kernel for a batch of one row: no fewer than a head has groups of four columns.
const ROW_THREADS: u32 = 64;

/// Threads of a workgroup at least: small ones share out evenly over a CPU's cores, whose vectors are eight long.
fn least_threads(variant: Variant) -> u32 {
    if variant.is_tiled() { 32 } else { 8 }
}

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// `num_attention_heads`, a multiple of `n_kv_heads`, at most 1,024 times as many (a workgroup holds at least one row's of a
    /// key head).
    pub n_heads: usize,
    /// `num_key_value_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Keys a row sees at most, itself included.
    pub sliding_window: Option<usize>,
}

/// `struct Params` of `shaders/shared/attention.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AttentionParams {
    pub(super) rows: Rows,
    scale: f32,
    window: u32,
    head_vec4s: u32,
    half: u32,
}

impl AttentionShape {
    pub(super) fn params(&self) -> AttentionParams {
        let window = self.sliding_window.map_or(u32::MAX, |window| window.clamp(1, u32::MAX as usize) as u32);
        AttentionParams {
            rows: Rows::TOKENS,
            scale: self.scale,
            window,
            head_vec4s: self.head_dim.div_ceil(4) as u32,
            half: self.head_dim as u32 / 2,
        }
    }

    /// Columns of queries and of keys.
    pub(crate) fn widths(&self) -> (usize, usize) {
        (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim)
    }

    /// `kernel` with the constants and functions that attention kernels share, among them `load_NAME` for each of
    /// `loads` and `store_NAME` for each of `stores`, and `load_eight_NAME` for each of `eights`. A workgroup has so many
    /// threads and covers so many rows.
    pub(super) fn shader(
        &self,
        name: &'static str,
        kernel: &str,
        (threads, rows): (u32, u32),
        eight: Eight,
        [q, k, v]: [Columns; 3],
        [loads, eights, stores]: [&[&str]; 3],
    ) -> Shader {
        assert_eq!((q.width, k.width), self.widths(), "{name}: widths of q and k for {self:?}");
        assert_eq!((k.width, k.matrix.width), (v.width, v.matrix.width), "{name}: widths of k and v");
        let constants = [
            ("HEAD_DIM", self.head_dim as u32),
            ("N_KV_HEADS", self.n_kv_heads as u32),
            ("GROUP", (self.n_heads / self.n_kv_heads) as u32),
            ("THREADS", threads),
            ("ROWS", rows),
            // Where keys are handed round, loading queries is what is left.
            ("AT_ONCE", if eight == Eight::Subgroup { 32 } else { 16 }),
            ("Q_FIRST", q.first as u32),
            ("Q_STRIDE", q.matrix.stride() as u32),
            ("K_FIRST", k.first as u32),
            ("V_FIRST", v.first as u32),
            ("KV_STRIDE", k.matrix.stride() as u32),
        ];
        // WGSL functions cannot be handed a storage binding, so each binding has its own.
        let load = |name: &&str| include_str!("../../shaders/shared/load_head.wgsl").replace("NAME", name);
        let store = |name: &&str| include_str!("../../shaders/shared/store_head.wgsl").replace("NAME", name);
        let eights = eights.iter().map(|name| eight.load(name));
        let accessors: String = loads.iter().map(load).chain(stores.iter().map(store)).chain(eights).collect();
        let parts = [
            include_str!("../../shaders/shared/math.wgsl"),
            include_str!("../../shaders/shared/token.wgsl"),
            eight.shader(),
            include_str!("../../shaders/shared/attention.wgsl"),
            &accessors,
            kernel,
        ];
        Shader::new(name, &constants, &parts)
    }

    /// `each` floating-point operations for every key that a row sees and every column of q. (Where a window hides
    /// keys, these are more than are done.)
    pub(super) fn work(&self, each: u64) -> Work {
        Work { rows: Rows::TOKENS, flops: 0, flops_per_key: each * self.widths().0 as u64 }
    }

    /// Threads of a workgroup of four queries of a key head each, and the rows that these are of: as many rows as fill
    /// whole eights of threads, and on GPUs at least a warp's.
    pub(super) fn query_tile(&self, variant: Variant) -> (u32, u32) {
        let group = (self.n_heads / self.n_kv_heads) as u32;
        let filling = 32 >> group.trailing_zeros().min(5);
        let threads = filling * group / 4;
        let rows = (filling * least_threads(variant).div_ceil(threads)).min(4 * MAX_THREADS / group);
        ((rows * group).div_ceil(4).next_multiple_of(8), rows)
    }

    /// The same for threads of four keys each.
    pub(super) fn key_tile(&self, variant: Variant) -> (u32, u32) {
        (least_threads(variant), 4 * least_threads(variant))
    }
}

/// Attention of the rows of the batch: `q` is `[n_tokens, n_heads * head_dim]`, `k` and `v` are
/// `[key rows, n_kv_heads * head_dim]`, all columns of larger matrices or of one; `out` is as wide as `q`. Row `t` sees key
/// rows `start ..= start + position` of its [`super::Token`], of those at most the last `sliding_window`; they may be
/// rows of the batch or of a cache. A batch of one row has a kernel of its own on GPUs. `lse_delta`, pairs of f32 `[n_tokens, n_heads]`, is kept for the backward pass: the
/// logarithm of the sum of the exponentials of the scaled scores, and room for one more number.
pub fn attention(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    tokens: Slice,
    qkv: [Columns; 3],
    out: Matrix,
    lse_delta: Slice,
) {
    assert_eq!(qkv[0].width, out.width, "{label}: widths of q and out");
    let params = shape.params();
    let rows = params.rows;
    let (variant, capacity) = (rec.variant(), rec.capacity(rows));
    let eight = Eight::of(variant, capacity);
    let (shader, grid) = if variant.is_tiled() && capacity == 1 && shape.head_dim <= 256 {
        let kernel = include_str!("../../shaders/attention_row.wgsl");
        let accessors: [&[&str]; 3] = [&["q", "k", "v"], &[], &["out"]];
        let shader = shape.shader("attention_row", kernel, (ROW_THREADS, 1), eight, qkv, accessors);
        (shader, [Extent::Fixed(shape.n_heads as u32), Extent::Fixed(1)])
    } else {
        let (tile, kernel) = (shape.query_tile(variant), include_str!("../../shaders/attention.wgsl"));
        let accessors: [&[&str]; 3] = [&["q", "k", "v"], &["k", "v"], &["out"]];
        let shader = shape.shader("attention", kernel, tile, eight, qkv, accessors);
        (shader, [Extent::Rows { rows, per: tile.1 }, Extent::Fixed(shape.n_kv_heads as u32)])
    };
    let grid = [grid[0], grid[1], Extent::Fixed(1)];
    let [q, k, v] = qkv.map(|columns| columns.matrix.slice);
    rec.dispatch(label, &shader, &[tokens, q, k, v, out.slice, lse_delta], &params, grid, shape.work(4));
}

/// The key rows that a token sees.
#[cfg(test)]
pub(crate) fn visible(params: &AttentionParams, token: &super::Token) -> std::ops::Range<usize> {
    let last = token.start + token.position;
    (last - token.position.min(params.window - 1)) as usize..last as usize + 1
}

/// The same in f64 over rows at the padded stride: `(out, lse)`.
#[cfg(test)]
pub(crate) fn attention_reference(
    params: &AttentionParams,
    shape: &AttentionShape,
    tokens: &[super::Token],
    q: &[f64],
    k: &[f64],
    v: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (q_stride, kv_stride) = (super::stride(shape.widths().0), super::stride(shape.widths().1));
    let head_dim = shape.head_dim;
    let mut out = vec![0.0; tokens.len() * q_stride];
    let mut lse = vec![];
    for (t, token) in tokens.iter().enumerate() {
        for head in 0..shape.n_heads {
            let at = t * q_stride + head * head_dim;
            let kv_at = |j: usize| j * kv_stride + head / (shape.n_heads / shape.n_kv_heads) * head_dim;
            let score =
                |j: usize| f64::from(params.scale) * (0..head_dim).map(|d| q[at + d] * k[kv_at(j) + d]).sum::<f64>();
            let sum: f64 = visible(params, token).map(|j| score(j).exp()).sum();
            for j in visible(params, token) {
                let p = score(j).exp() / sum;
                (0..head_dim).for_each(|d| out[at + d] += p * v[kv_at(j) + d]);
            }
            lse.push(sum.ln());
        }
    }
    (out, lse)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::Token;
    use crate::kernels::testing::*;

    pub(in crate::kernels) fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionShape {
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape { n_heads, n_kv_heads, head_dim, scale, sliding_window: None }
    }

    /// Segments of these lengths packed end to end.
    pub(in crate::kernels) fn packed(lengths: &[u32]) -> Vec<Token> {
        let mut tokens = vec![];
        for &length in lengths {
            let start = tokens.len() as u32;
            let token = |position| Token { position, start, end: start + length, ..Default::default() };
            tokens.extend((0..length).map(token));
        }
        tokens
    }

    /// The last `n` of a conversation of `length`, whose keys are in a cache.
    fn cached(n: u32, length: u32) -> Vec<Token> {
        (length - n..length).map(|position| Token { position, start: 0, end: length, ..Default::default() }).collect()
    }

    /// A matrix whose rows past the last are what no result may depend on.
    pub(in crate::kernels) fn poison(values: &[f32], rows: usize, width: usize) -> Vec<f32> {
        let mut values = values.to_vec();
        values[rows * crate::kernels::stride(width)..].fill(f32::NAN);
        values
    }

    fn case(shape: AttentionShape, tokens: Vec<Token>) -> Case {
        let n = tokens.len();
        let key_rows = tokens.iter().map(|token| token.end as usize).max().unwrap_or(0);
        let mut case =
            Case::new(format!("{n} of {key_rows}, {shape:?}"), Step { n_tokens: n as u32, ..Default::default() });
        let (q_width, kv_width) = shape.widths();
        let q = random_matrix(n, q_width, 1);
        let [k, v] = [2, 3].map(|seed| random_matrix(key_rows, kv_width, seed));
        let (out, lse) = attention_reference(&shape.params(), &shape, &tokens, &f64s(&q), &f64s(&k), &f64s(&v));
        let mut stale = tokens.clone();
        stale.resize(n.next_multiple_of(16), Token { position: u32::MAX, start: 7, ..Default::default() });
        let tokens_at = case.buffer(&stale);
        let q_at = case.buffer(&poison(&q, n, q_width));
        let [k_at, v_at] = [&k, &v].map(|values| case.buffer(&poison(values, key_rows, kv_width)));
        let (out_at, lse_at) = (case.output(q.len()), case.output(2 * n * shape.n_heads));
        case.record(move |rec, b| {
            let matrix = |at: usize, width| Matrix { slice: b[at], width };
            let (k, v) = (matrix(k_at, kv_width), matrix(v_at, kv_width));
            let (q, out) = (matrix(q_at, q_width), matrix(out_at, q_width));
            attention(rec, "attention", shape, b[tokens_at], [q, k, v].map(Columns::from), out, b[lse_at]);
        });
        // Errors of a score (a sum of head_dim products) and of the sum of up to key_rows weights, relative to each
        // weight; the weights add up to one and values are below one.
        let rows = Tolerance::sum(key_rows, 1.0).abs;
        let tolerance = Tolerance { abs: Tolerance::sum(shape.head_dim, f64::from(shape.scale)).abs + rows, rel: 1e-6 };
        case.expect(out_at, out, tolerance);
        case.expect(lse_at, lse.into_iter().flat_map(|lse| [lse, 0.0]).collect(), tolerance);
        case
    }

    fn cases() -> Vec<Case> {
        vec![
            case(shape(1, 1, 2), packed(&[1])),
            case(shape(3, 3, 10), packed(&[7, 1, 1, 20])),
            case(AttentionShape { sliding_window: Some(3), ..shape(4, 2, 12) }, packed(&[5, 9, 30])),
            case(AttentionShape { sliding_window: Some(1), ..shape(2, 1, 16) }, packed(&[8, 17])),
            case(AttentionShape { sliding_window: Some(40), ..shape(9, 3, 64) }, packed(&[100, 1, 29])),
            case(shape(9, 3, 64), packed(&[16, 47, 1, 1, 66])),
            case(shape(9, 3, 64), cached(1, 77)),
            case(AttentionShape { sliding_window: Some(16), ..shape(9, 3, 64) }, cached(5, 77)),
            case(shape(5, 5, 7), cached(3, 33)),
            case(shape(70, 2, 8), packed(&[3, 6])),
            case(shape(4, 1, 128), packed(&[33])),
            case(AttentionShape { scale: 2.0, ..shape(4, 1, 256) }, packed(&[3, 18])),
        ]
    }

    kernel_test!(attention_matches, cases());
    subgroup_test!(attention_matches_in_subgroups, cases());

    kernel_test!(
        attention_row_matches,
        [
            (shape(1, 1, 2), 1),
            (shape(3, 3, 10), 63),
            (shape(9, 3, 64), 64),
            (shape(9, 3, 64), 65),
            (shape(9, 3, 64), 1000),
            (AttentionShape { sliding_window: Some(1), ..shape(2, 1, 16) }, 9),
            (AttentionShape { sliding_window: Some(70), ..shape(5, 5, 7) }, 333),
            (AttentionShape { scale: 2.0, ..shape(4, 1, 256) }, 130),
            (shape(70, 2, 100), 77),
        ]
        .map(|(shape, length)| case(shape, cached(1, length)).variant(Variant::Tiled))
        .into()
    );
}
