//! Where the factors of linears that run as one lie in the arena.

use super::ALIGN_BYTES;
use super::modules::ModuleShape;
use crate::kernels::segments::{Layout, Segments};
use crate::kernels::stride;

/// A group of which some modules are adapted, and where its factors lie in the arena: A of the adapted ones, one below
/// the other with [`stride`]`(r)` rows each, then B of all columns of the output, and with DoRA their magnitudes. What
/// belongs to no factor is zero and stays so.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) modules: Vec<ModuleShape>,
    pub(super) layout: Layout,
    /// Of each module, where it is adapted: which of the stacked As is its own, and its rank.
    pub(super) slots: Vec<Option<(usize, usize)>>,
    /// Of the first adapted module; `segments` has what the others' are to it.
    pub(super) scaling: f32,
    pub(super) start: u64,
    pub(super) b_start: u64,
    /// Where B ends and magnitudes may follow.
    pub(super) b_end: u64,
    pub(super) end: u64,
    pub(super) segments: Segments,
}

impl Group {
    /// Floats of the arena that are the rows of a module's factors, as (first float, length), in the order of the rows:
    /// A `[r, in]`, or B `[out, r]`, in the `places` from `first` on; or the magnitudes `[out, 1]`.
    pub(super) fn rows(&self, index: usize, factor: Factor, first: usize, places: usize) -> Vec<(usize, usize)> {
        let widths: Vec<usize> = self.modules.iter().map(|module| module.out_features).collect();
        let ModuleShape { in_features, out_features, .. } = self.modules[index];
        let (slot, r) = self.slots[index].expect("only adapted modules have factors");
        match factor {
            Factor::A => {
                let row = |row: usize| ((slot * stride(places) + first + row) * stride(in_features), in_features);
                (0..r).map(|at| (self.start as usize / 4 + row(at).0, row(at).1)).collect()
            }
            Factor::B => {
                let start = (self.start + self.b_start) as usize / 4;
                let row = |row: usize| (start + self.layout.column(&widths, index, row) * stride(places) + first, r);
                (0..out_features).map(row).collect()
            }
            Factor::Magnitude => {
                let start = (self.start + self.magnitude_start()) as usize / 4;
                (0..out_features).map(|row| (start + self.layout.column(&widths, index, row), 1)).collect()
            }
        }
    }

    /// Columns of the output, pads included.
    pub(super) fn width(&self) -> usize {
        let widths: Vec<usize> = self.modules.iter().map(|module| module.out_features).collect();
        self.layout.width(&widths)
    }

    /// Where its magnitudes begin, if it has any.
    pub(super) fn magnitude_start(&self) -> u64 {
        self.b_end.next_multiple_of(ALIGN_BYTES)
    }

    /// Its adapted modules, with their numbers and ranks.
    pub(super) fn adapted(&self) -> impl Iterator<Item = (usize, &ModuleShape, usize)> {
        let modules = self.modules.iter().enumerate().zip(&self.slots);
        modules.filter_map(|((index, module), slot)| slot.map(|(_, r)| (index, module, r)))
    }
}

/// Which of what a module has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    A,
    B,
    /// DoRA's.
    Magnitude,
}

impl Factor {
    pub(super) const ALL: [Self; 3] = [Self::A, Self::B, Self::Magnitude];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }

    /// Of the first factors, where their product is to be subtracted.
    pub(super) fn sign_taken_off(self) -> f32 {
        match self {
            Self::B => -1.0,
            Self::A | Self::Magnitude => 1.0,
        }
    }
}
