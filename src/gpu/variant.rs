//! The ways products are computed, of which a device gets the one that suits it.

use std::fmt;

/// How the products with a weight are computed. All give the same sums but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Operands go straight from storage to register blocks: fastest where the "GPU" is a program on the CPU.
    #[default]
    Direct,
    /// As `Direct`, but what all threads of a subgroup read alike each of them loads an eighth of: half as fast again on
    /// lavapipe, whose loads go lane by lane. Attention has it too. Needs subgroups of eight or more, which wgpu cannot
    /// ask browsers for.
    DirectSubgroups,
    /// Operands pass through workgroup memory: fastest on GPUs.
    Tiled,
    /// As `Tiled`, with the products of the forward pass in f16, their sums in f32. Needs `shader-f16`, and is less
    /// accurate than what PEFT computes, so it is never chosen unasked.
    TiledF16,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 4] = [Self::Direct, Self::DirectSubgroups, Self::Tiled, Self::TiledF16];

    /// The name to ask for it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectSubgroups => "direct-subgroups",
            Self::Tiled => "tiled",
            Self::TiledF16 => "tiled-f16",
        }
    }

    /// True where operands pass through workgroup memory.
    pub fn is_tiled(self) -> bool {
        matches!(self, Self::Tiled | Self::TiledF16)
    }

    /// The variant of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
