//! Which examples are held out, and which are the same.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Example, Pair};

/// Examples by what they are: tokens and targets.
pub(super) struct Distinct<'a>(HashMap<(&'a [u32], &'a [bool]), usize>);

impl<'a> Distinct<'a> {
    pub(super) fn new(examples: &'a [Example]) -> Self {
        let mut counts = HashMap::new();
        for example in examples {
            *counts.entry((&example.ids[..], &example.supervised[..])).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// How many there are, copies not counted.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, example: &Example) -> bool {
        self.0.contains_key(&(&example.ids[..], &example.supervised[..]))
    }
}

/// How many pairs there are, copies not counted.
pub(super) fn distinct_pairs(pairs: &[Pair]) -> usize {
    pairs.iter().map(|pair| (&pair.chosen.ids, &pair.rejected.ids)).collect::<HashSet<_>>().len()
}

/// `(trained on, held out)`: held out are those whose hash is among the smallest `share` of all hashes, with all their
/// copies; both in the order in which they were.
pub(super) fn hold_out(examples: Vec<Example>, share: f64, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let hashes: Vec<u64> = examples.iter().map(|example| hash(example, seed)).collect();
    let distinct: BTreeSet<u64> = hashes.iter().copied().collect();
    let n = distinct.len();
    let n_held_out = ((n as f64 * share).round() as usize).max(1).min(n.saturating_sub(1));
    let limit = distinct.iter().nth(n_held_out).copied().unwrap_or(0);
    let (held_out, trained): (Vec<_>, Vec<_>) =
        examples.into_iter().zip(hashes).partition(|&(_, hash)| n_held_out > 0 && hash < limit);
    let examples = |pairs: Vec<(Example, u64)>| pairs.into_iter().map(|(example, _)| example).collect();
    (examples(trained), examples(held_out))
}

/// FNV-1a over tokens and targets, then SplitMix64's finaliser with the seed: the same everywhere.
fn hash(example: &Example, seed: u64) -> u64 {
    let tokens = example.ids.iter().zip(&example.supervised);
    let folded = tokens.fold(0xcbf2_9ce4_8422_2325u64, |hash, (&id, &supervised)| {
        (hash ^ (u64::from(id) << 1 | u64::from(supervised))).wrapping_mul(0x0100_0000_01b3)
    });
    let mut mixed = folded.wrapping_add(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
