//! How neighbouring threads get at eight rows that all of them read: `shaders/shared/eight_*.wgsl`.

use crate::gpu::Variant;

/// Who loads what all threads of a subgroup read alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eight {
    /// Every thread loads all of it.
    Each,
    /// Every thread loads one of eight rows and hands it round.
    Subgroup,
}

impl Eight {
    /// For a recording of at most so many rows: one has no neighbours to share with.
    pub(super) fn of(variant: Variant, capacity: usize) -> Self {
        if variant == Variant::DirectSubgroups && capacity > 1 { Self::Subgroup } else { Self::Each }
    }

    /// The types, and where rows lie.
    pub(super) fn shader(self) -> &'static str {
        match self {
            Self::Each => include_str!("../../shaders/shared/eight_each.wgsl"),
            Self::Subgroup => include_str!("../../shaders/shared/eight_subgroup.wgsl"),
        }
    }

    /// `load_eight_NAME` for a `load_NAME`.
    pub(super) fn load(self, name: &str) -> String {
        let load = match self {
            Self::Each => include_str!("../../shaders/shared/load_eight_each.wgsl"),
            Self::Subgroup => include_str!("../../shaders/shared/load_eight_subgroup.wgsl"),
        };
        load.replace("NAME", name)
    }
}
