//! The ways products are computed, of which a device gets the one that suits it.

use std::fmt;

/// How the products with a weight are computed. All give the same sums but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Operands go straight from storage to register blocks: fastest where the "GPU" is a program on the CPU.
    #[default]
    Direct,
    /// Operands pass through workgroup memory: fastest on GPUs.
    Tiled,
    /// As `Tiled`, with the products of the forward pass in f16, their sums in f32. Needs `shader-f16`, and is less
    /// accurate than what PEFT computes, so it is never chosen unasked.
    TiledF16,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Tiled, Self::TiledF16];

    /// The name to ask for it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tiled => "tiled",
            Self::TiledF16 => "tiled-f16",
        }
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
