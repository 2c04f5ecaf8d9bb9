//! Products with a frozen weight, both ways, with LoRA's low-rank term as the last part of the same sum:
//! `y = x Wᵀ + s (x Aᵀ) Bᵀ` forward (arXiv 2106.09685, section 4.1), `dx = dy W + s (dy B) A` backward.

use bytemuck::{Pod, Zeroable};

use super::eight::Eight;
use super::segments::{Segments, SegmentsParams};
use super::weight::Weight;
use super::{Matrix, ROW_PAD};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice, Variant};

/// `struct Params` of `shaders/shared/product.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct MatmulParams {
    rows: Rows,
    n: u32,
    k8: u32,
    first: u32,
    x_stride4: u32,
    y_stride4: u32,
    other_stride4: u32,
    accumulate: u32,
    finish: u32,
    tail_rank: u32,
    tail_x_stride4: u32,
    tail_w_stride4: u32,
    tail_scale: f32,
    segments: SegmentsParams,
}

/// The low-rank continuation of a product.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// `x Aᵀ` forward, `dy B` backward: `[rows, low-rank columns of all adapted linears]`.
    pub x: Matrix,
    /// B `[out, stride(r)]` forward, A `[columns of x, stride(in)]` backward: f32.
    pub w: Slice,
    /// Columns of `w`: terms of the sum forward, columns of the result backward.
    pub w_cols: usize,
    /// `lora_alpha / r` or its rsLoRA form; multiplied by `step.strength`.
    pub scale: f32,
    /// Which columns of `x` belong to which columns of the result; read forward only.
    pub segments: Segments,
}

/// What becomes of the columns of a product before it is stored.
#[derive(Debug, Clone, Copy)]
pub enum Affine {
    /// They get a bias: f32, as long as a row of `y`, pads zero.
    Bias(Slice),
    /// DoRA's: they are multiplied by their gains and get a bias, as [`super::dora_gain::dora_gain`] leaves both.
    Gain(Slice),
}

impl Affine {
    fn slice(self) -> Slice {
        match self {
            Self::Bias(slice) | Self::Gain(slice) => slice,
        }
    }

    /// Shader code of the factors and of the biases.
    fn shader(affine: Option<Self>) -> &'static str {
        macro_rules! joined {
            ($($name:literal),+) => { concat!($(include_str!(concat!("../../shaders/shared/", $name, ".wgsl"))),+) };
        }
        match affine {
            None => joined!("gain_none", "bias_none"),
            Some(Self::Bias(_)) => joined!("gain_none", "bias"),
            Some(Self::Gain(_)) => joined!("gain"),
        }
    }
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy)]
pub enum Store {
    /// `y = …`
    Replace,
    /// `y += …`
    Add,
    /// `y = residual + …`, with a residual as wide as `y`.
    Residual(Matrix),
    /// `y = …` is gate and up, interleaved, and `h` becomes `act(gate) · up`.
    Gated {
        /// Of the gate.
        act: Activation,
        /// Half as wide as `y`.
        h: Matrix,
        /// Earlier terms of the sum lie in `y`.
        add: bool,
    },
    /// The product is the gradient on `act(gate) · up`; `y` becomes that on gate and up, interleaved as they are here.
    GatedBackward {
        /// Of the gate.
        act: Activation,
        /// As the forward pass wrote it.
        gate_up: Matrix,
        /// Earlier terms of the sum lie in `y`.
        add: bool,
        /// No more terms follow.
        finish: bool,
    },
    /// `y = …`, and `h` becomes `act(y)`.
    Activated {
        /// The function.
        act: Activation,
        /// As wide as `y`.
        h: Matrix,
        /// Earlier terms of the sum lie in `y`.
        add: bool,
    },
    /// The product is the gradient on `act(x)`; `y` becomes that on `x`.
    ActivatedBackward {
        /// The function.
        act: Activation,
        /// `x`, as the forward pass wrote it.
        before: Matrix,
        /// Earlier terms of the sum lie in `y`.
        add: bool,
        /// No more terms follow.
        finish: bool,
    },
}

/// An activation function, all of the form `x · sigmoid(inner(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh (arXiv 1606.08415): transformers' `gelu_pytorch_tanh` and `gelu_new`.
    GeluTanh,
}

impl Activation {
    fn shader(self) -> [&'static str; 2] {
        let inner = match self {
            Self::Silu => include_str!("../../shaders/shared/act_silu.wgsl"),
            Self::GeluTanh => include_str!("../../shaders/shared/act_gelu_tanh.wgsl"),
        };
        [include_str!("../../shaders/shared/math.wgsl"), inner]
    }
}

impl Store {
    fn shader(self) -> Vec<&'static str> {
        let (act, store) = match self {
            Self::Replace | Self::Add => (None, include_str!("../../shaders/shared/store_sum.wgsl")),
            Self::Residual(_) => (None, include_str!("../../shaders/shared/store_residual.wgsl")),
            Self::Gated { act, .. } => (Some(act), include_str!("../../shaders/shared/store_gated.wgsl")),
            Self::GatedBackward { act, .. } => {
                (Some(act), include_str!("../../shaders/shared/store_gated_backward.wgsl"))
            }
            Self::Activated { act, .. } => (Some(act), include_str!("../../shaders/shared/store_activated.wgsl")),
            Self::ActivatedBackward { act, .. } => {
                (Some(act), include_str!("../../shaders/shared/store_activated_backward.wgsl"))
            }
        };
        act.map(Activation::shader).into_iter().flatten().chain([store]).collect()
    }

    fn other(self) -> Option<Matrix> {
        match self {
            Self::Replace | Self::Add => None,
            Self::Residual(other) | Self::Gated { h: other, .. } | Self::Activated { h: other, .. } => Some(other),
            Self::GatedBackward { gate_up, .. } => Some(gate_up),
            Self::ActivatedBackward { before, .. } => Some(before),
        }
    }

    /// The same for one of several products that are terms of one sum: whether `add`ed to those before, whether the
    /// last.
    pub fn term(mut self, is_later: bool, is_last: bool) -> Self {
        match &mut self {
            Self::Replace | Self::Residual(_) if is_later => self = Self::Add,
            Self::Gated { .. } | Self::Activated { .. } if !is_last => self = Self::Replace,
            Self::Gated { add, .. } | Self::Activated { add, .. } => *add = is_later,
            Self::GatedBackward { add, finish, .. } | Self::ActivatedBackward { add, finish, .. } => {
                (*add, *finish) = (is_later, is_last);
            }
            _ => {}
        }
        self
    }

    /// (earlier terms of the sum lie in `y`, no more follow)
    fn terms(self) -> (bool, bool) {
        match self {
            Self::Add => (true, true),
            Self::Gated { add, .. } | Self::Activated { add, .. } => (add, true),
            Self::GatedBackward { add, finish, .. } | Self::ActivatedBackward { add, finish, .. } => (add, finish),
            _ => (false, true),
        }
    }
}

impl MatmulParams {
    fn new(rows: Rows, x: Matrix, w: &Weight, tail: Option<Tail>, y: Matrix, store: Store) -> Self {
        let stride4 = |matrix: Matrix| matrix.stride() as u32 / 4;
        let (accumulate, finish) = store.terms();
        Self {
            rows,
            n: w.rows as u32,
            k8: w.k8(),
            first: w.first_row as u32,
            x_stride4: stride4(x),
            y_stride4: stride4(y),
            other_stride4: store.other().map_or(0, stride4),
            accumulate: accumulate.into(),
            finish: finish.into(),
            tail_rank: 0,
            tail_x_stride4: tail.map_or(0, |tail| stride4(tail.x)),
            tail_w_stride4: tail.map_or(0, |tail| super::stride(tail.w_cols) as u32 / 4),
            tail_scale: tail.map_or(0.0, |tail| tail.scale),
            segments: tail.map_or_else(SegmentsParams::default, |tail| tail.segments.params),
        }
    }
}

/// `y[t, w.first_row + j] = Σ_k x[t, k] w[j, k]` plus the tail, then as `affine` says, for the token or target `rows`.
///
/// `x` is `[rows, w.cols]`, `y` at least `w.first_row + w.rows` wide.
pub fn matmul(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    affine: Option<Affine>,
    y: Matrix,
    store: Store,
) {
    assert_eq!(x.width, w.cols, "{label}: columns of x and of the weight");
    let mut params = MatmulParams::new(rows, x, w, tail, y, store);
    params.tail_rank = tail.map_or(0, |tail| tail.w_cols as u32);
    let constants = tail.map_or_else(|| Segments::one(0).constants(), |tail| tail.segments.constants());
    let flops = 2 * (w.rows * (w.cols + params.tail_rank as usize)) as u64;
    dispatch(rec, label, Direction::Forward, constants, params, x, w, tail, affine, y, store, w.rows, flops);
}

/// `y[t, k] = Σ_j x[t, w.first_row + j] w[j, k]` plus the tail: the gradient on a linear's input from that on its output.
///
/// `x` is at least `w.first_row + w.rows` wide, `y` is `[rows, w.cols]` (gate and up of it where the store says so).
pub fn matmul_transposed(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    y: Matrix,
    store: Store,
) {
    let y_width = if matches!(store, Store::GatedBackward { .. }) { y.width / 2 } else { y.width };
    assert_eq!(super::stride(y_width), super::stride(w.cols), "{label}: columns of y and of the weight");
    let mut params = MatmulParams::new(rows, x, w, tail, y, store);
    params.tail_rank = tail.map_or(0, |tail| tail.x.width as u32);
    let flops = 2 * ((w.rows + params.tail_rank as usize) * w.cols) as u64;
    let constants = Segments::one(0).constants();
    dispatch(rec, label, Direction::Transposed, constants, params, x, w, tail, None, y, store, w.cols, flops);
}

/// The gradient on `x Aᵀ`, without LoRA's scale, of all adapted linears of a product:
/// `y[t, slot + i] = factor · Σ_j dy[t, j] b[j, i]` over the columns `j` of that slot's linear. `b` is `[columns of dy, stride(r)]`, `y` as wide as `segments` say.
pub fn lora_dxa(rec: &mut Recording, label: &str, dy: Matrix, b: Slice, r: usize, segments: Segments, y: Matrix) {
    assert_eq!(y.width, segments.rank(), "{label}: columns of y");
    let w = Weight::f32(b, dy.width, r);
    let mut params = MatmulParams::new(Rows::TOKENS, dy, &w, None, y, Store::Replace);
    params.segments = segments.params;
    let flops = 2 * (dy.width * r) as u64;
    dispatch(
        rec,
        label,
        Direction::LowRank,
        segments.constants(),
        params,
        dy,
        &w,
        None,
        None,
        y,
        Store::Replace,
        y.width,
        flops,
    );
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Transposed,
    LowRank,
}

fn dispatch(
    rec: &mut Recording,
    label: &str,
    direction: Direction,
    segments: [(&'static str, u32); 2],
    params: MatmulParams,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    affine: Option<Affine>,
    y: Matrix,
    store: Store,
    y_cols: usize,
    flops_per_row: u64,
) {
    let tail_shader = match tail {
        Some(_) => include_str!("../../shaders/shared/tail_lora.wgsl"),
        None => include_str!("../../shaders/shared/tail_none.wgsl"),
    };
    let capacity = rec.capacity(params.rows);
    let forward = direction == Direction::Forward;
    // LoRA's ranks make products with a block of columns or two: their threads lie along the rows.
    let down = direction == Direction::LowRank || y_cols <= 64;
    let on_gpu = rec.variant().is_tiled();
    // A single row's sums are too long and too few for a thread each.
    let split = on_gpu && capacity == 1 && forward;
    let tiled = on_gpu && capacity > 1 && !down;
    // Threads that lie along the rows have none in common.
    let eight = if down { Eight::Each } else { Eight::of(rec.variant(), capacity) };
    // Programs on the CPU spend most of their time on loads, one lane at a time: a thread with four blocks loads half
    // as much for the same products. It also takes four times as long to compile, which a small product never repays.
    // Where rows are handed round they cost little: tall is best, as long as the blocks fit the registers, or the rows.
    let (tall, wide) = match eight {
        _ if tiled || down => (1, 1),
        Eight::Subgroup if !forward && capacity.next_multiple_of(ROW_PAD).is_multiple_of(32) => (4, 1),
        Eight::Subgroup => (2, 1),
        Eight::Each if capacity >= 64 && y_cols >= 128 => (2, 2),
        _ => (1, 1),
    };
    let workgroup: u32 = match capacity {
        _ if split => 32,
        // Small workgroups share out evenly over the CPU's cores.
        1 => 8,
        _ if eight == Eight::Subgroup => 8,
        _ if down || wide == 2 => 16,
        _ => 64,
    };
    let (rows_per_thread, rows_shader) = match capacity {
        1 => (1, include_str!("../../shaders/shared/rows_1.wgsl")),
        _ => (8, include_str!("../../shaders/shared/rows_8.wgsl")),
    };
    let mut parts = vec![
        include_str!("../../shaders/shared/weight.wgsl"),
        w.format.shader(),
        include_str!("../../shaders/shared/segments.wgsl"),
        include_str!("../../shaders/shared/product.wgsl"),
        tail_shader,
        Affine::shader(affine),
        rows_shader,
    ];
    parts.extend(store.shader());
    let loads = ["x_row", "tail_row"].map(|name| eight.load(name));
    if !tiled {
        parts.push(eight.shader());
        if rows_per_thread > 1 {
            parts.push(include_str!("../../shaders/shared/rows_8_direct.wgsl"));
            parts.extend(loads.iter().map(String::as_str));
        }
    }
    if !tiled && forward {
        parts.push(include_str!("../../shaders/shared/weight_columns.wgsl"));
    }
    if tiled {
        // Gradients would vanish in f16: the way back keeps f32.
        parts.push(if forward && rec.variant() == Variant::TiledF16 {
            include_str!("../../shaders/shared/value_f16.wgsl")
        } else {
            include_str!("../../shaders/shared/value_f32.wgsl")
        });
        parts.push(include_str!("../../shaders/shared/tiles.wgsl"));
    }
    let (name, kernel) = match (direction, tiled) {
        (Direction::LowRank, _) => ("lora_dxa", include_str!("../../shaders/lora_dxa.wgsl")),
        (Direction::Forward, false) if split => ("matvec", include_str!("../../shaders/matvec.wgsl")),
        (Direction::Forward, false) => ("matmul", include_str!("../../shaders/matmul.wgsl")),
        (Direction::Forward, true) => ("matmul_tiled", include_str!("../../shaders/matmul_tiled.wgsl")),
        (Direction::Transposed, false) => ("matmul_transposed", include_str!("../../shaders/matmul_transposed.wgsl")),
        (Direction::Transposed, true) => {
            ("matmul_transposed_tiled", include_str!("../../shaders/matmul_transposed_tiled.wgsl"))
        }
    };
    parts.push(kernel);
    let [n_segments, interleaved] = segments;
    let constants =
        [("WORKGROUP", workgroup), ("DOWN", u32::from(down)), ("TALL", tall), ("WIDE", wide), n_segments, interleaved];
    let shader = Shader::new(name, &constants, &parts);
    let bindings: Vec<Slice> = w
        .bindings()
        .chain([x.slice, y.slice])
        .chain(tail.iter().flat_map(|tail| [tail.x.slice, tail.w]))
        .chain(store.other().map(|other| other.slice))
        .chain(affine.map(Affine::slice))
        .collect();
    // Rows and columns of a workgroup.
    let (height, width) = match (tiled, down) {
        _ if split => (1, 8),
        (true, _) => (64, 64),
        (false, true) => (rows_per_thread * workgroup, 8),
        (false, false) => (tall * rows_per_thread, wide * 8 * workgroup),
    };
    let (rows, columns) = (Extent::Rows { rows: params.rows, per: height }, Extent::cover(y_cols as u32, width));
    let grid = if down && !split { [rows, columns] } else { [columns, rows] };
    let grid = [grid[0], grid[1], Extent::Fixed(1)];
    rec.dispatch(label, &shader, &bindings, &params, grid, (params.rows, flops_per_row));
}

#[cfg(test)]
mod tests;
