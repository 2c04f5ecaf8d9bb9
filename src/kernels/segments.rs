//! Linears that read the same matrix, and so share one product: where the columns of each lie in what they write.

use bytemuck::{Pod, Zeroable};

use super::column_sum::Run;
use super::stride;

/// Most linears of one product.
pub const MAX_SEGMENTS: usize = 4;
const NO_SLOT: u32 = u32::MAX;

/// How linears lie in one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One after the other, each from a multiple of eight columns on.
    SideBySide,
    /// Two of one width, by turns of four columns, so that one thread has the same columns of both.
    Interleaved,
    /// One, whose two halves lie as two interleaved ones would.
    Halves,
}

impl Layout {
    /// Columns of the output, pads included, for linears of these widths.
    pub fn width(self, widths: &[usize]) -> usize {
        match self {
            Self::SideBySide | Self::Interleaved => widths.iter().map(|&width| stride(width)).sum(),
            Self::Halves => 2 * stride(widths[0] / 2),
        }
    }

    /// The output's columns for those of linear `index`, in their order.
    pub fn runs(self, widths: &[usize], index: usize) -> Vec<Run> {
        let run = |column: usize, len: usize, step: usize| Run { first: self.column(widths, index, column), len, step };
        match self {
            Self::SideBySide => vec![run(0, widths[index], 1)],
            Self::Interleaved => vec![run(0, widths[index], 2)],
            Self::Halves => [0, widths[0] / 2].map(|column| run(column, widths[0] / 2, 2)).into(),
        }
    }

    /// The output's column for column `column` of linear `index`.
    pub fn column(self, widths: &[usize], index: usize, column: usize) -> usize {
        match self {
            Self::SideBySide => self.width(&widths[..index]) + column,
            Self::Interleaved => column / 4 * 8 + 4 * index + column % 4,
            Self::Halves => {
                let half = widths[0] / 2;
                Self::Interleaved.column(&[half, half], column / half, column % half)
            }
        }
    }
}

/// `struct Segments` of `shaders/shared/segments.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(super) struct SegmentsParams {
    ends: [u32; MAX_SEGMENTS],
    slots: [u32; MAX_SEGMENTS],
    factors: [f32; MAX_SEGMENTS],
}

/// The linears of a product and which of them are adapted. Low-rank columns (of `x Aᵀ` and its gradient) exist for the
/// adapted ones only, [`stride`]`(r)` for each, in order: their slots.
#[derive(Debug, Clone, Copy)]
pub struct Segments {
    n: usize,
    layout: Layout,
    rank: usize,
    pub(super) params: SegmentsParams,
}

impl Segments {
    /// Linears of these output widths, of which those `adapted` have an adapter of rank `r`.
    pub fn new(layout: Layout, widths: &[usize], adapted: &[bool], r: usize) -> Self {
        assert!(widths.len() <= MAX_SEGMENTS && widths.len() == adapted.len(), "linears of a product");
        let mut params = SegmentsParams {
            ends: [u32::MAX; MAX_SEGMENTS],
            slots: [NO_SLOT; MAX_SEGMENTS],
            factors: [1.0; MAX_SEGMENTS],
        };
        let mut n_slots = 0;
        for (index, adapted) in adapted.iter().enumerate() {
            // The last one has no end: a column past it does not exist.
            if index + 1 < widths.len() {
                params.ends[index] = layout.width(&widths[..=index]) as u32;
            }
            if *adapted {
                params.slots[index] = (n_slots * stride(r) / 4) as u32;
                n_slots += 1;
            }
        }
        Self { n: widths.len(), layout, rank: n_slots * stride(r), params }
    }

    /// One linear, adapted with rank `r`.
    pub fn one(r: usize) -> Self {
        Self::new(Layout::SideBySide, &[0], &[true], r)
    }

    /// The same with a factor for the low-rank columns of each slot: what the scaling of its linear is to that of the
    /// product. Kernels that write low-rank values apply it, those that read them take all for alike.
    pub fn with_factors(mut self, factors: &[f32]) -> Self {
        self.params.factors[..factors.len()].copy_from_slice(factors);
        self
    }

    /// Low-rank columns of all slots.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Blocks of eight columns in a slot, and the factor of each slot.
    pub(super) fn slots(&self) -> (u32, [f32; MAX_SEGMENTS]) {
        let n_slots = self.params.slots.iter().filter(|&&slot| slot != NO_SLOT).count();
        ((self.rank / n_slots.max(1) / 8).max(1) as u32, self.params.factors)
    }

    /// What the shaders are told: how many, and whether interleaved.
    pub(super) fn constants(&self) -> [(&'static str, u32); 2] {
        [("N_SEGMENTS", self.n as u32), ("INTERLEAVED", self.is_interleaved())]
    }

    pub(super) fn is_interleaved(&self) -> u32 {
        u32::from(self.layout == Layout::Interleaved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_columns() {
        let layouts: [(Layout, &[usize]); 3] =
            [(Layout::SideBySide, &[42, 10, 9]), (Layout::Interleaved, &[21, 21]), (Layout::Halves, &[42])];
        for (layout, widths) in layouts {
            for (index, &width) in widths.iter().enumerate() {
                let runs = layout.runs(widths, index);
                let places = runs.iter().flat_map(|run| (0..run.len).map(|at| run.place(at)));
                let columns = (0..width).map(|column| layout.column(widths, index, column));
                assert!(places.eq(columns), "{layout:?} {index}");
            }
        }
    }
}
