//! Which examples are held out, and which are the same.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Example, Pair};

/// What can be held out: one or two rows of tokens.
pub(super) trait Sequences {
    /// All that the model reads of it.
    fn sequences(&self) -> Vec<&Example>;
}

impl Sequences for Example {
    fn sequences(&self) -> Vec<&Example> {
        vec![self]
    }
}

impl Sequences for Pair {
    fn sequences(&self) -> Vec<&Example> {
        vec![&self.chosen, &self.rejected]
    }
}

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

/// Pairs by what they are, copies not counted.
pub(super) fn distinct_pairs(pairs: &[Pair]) -> HashSet<[&[u32]; 2]> {
    pairs.iter().map(pair_ids).collect()
}

/// The tokens of both answers.
pub(super) fn pair_ids(pair: &Pair) -> [&[u32]; 2] {
    [&pair.chosen.ids, &pair.rejected.ids]
}

/// `(trained on, held out)`: held out are those whose hash is among the smallest `share` of all hashes, with all their
/// copies; both in the order in which they were.
pub(super) fn hold_out<T: Sequences>(examples: Vec<T>, share: f64, seed: u64) -> (Vec<T>, Vec<T>) {
    let hashes: Vec<u64> = examples.iter().map(|example| hash(example, seed)).collect();
    let distinct: BTreeSet<u64> = hashes.iter().copied().collect();
    let n = distinct.len();
    let n_held_out = ((n as f64 * share).round() as usize).max(1).min(n.saturating_sub(1));
    let limit = distinct.iter().nth(n_held_out).copied().unwrap_or(0);
    let (held_out, trained): (Vec<_>, Vec<_>) =
        examples.into_iter().zip(hashes).partition(|&(_, hash)| n_held_out > 0 && hash < limit);
    let examples = |hashed: Vec<(T, u64)>| hashed.into_iter().map(|(example, _)| example).collect();
    (examples(trained), examples(held_out))
}

/// FNV-1a over tokens and targets, then SplitMix64's finaliser with the seed: the same everywhere.
fn hash(example: &impl Sequences, seed: u64) -> u64 {
    let sequences = example.sequences().into_iter();
    let tokens = sequences.flat_map(|example| example.ids.iter().zip(&example.supervised));
    let folded = tokens.fold(0xcbf2_9ce4_8422_2325u64, |hash, (&id, &supervised)| {
        (hash ^ (u64::from(id) << 1 | u64::from(supervised))).wrapping_mul(0x0100_0000_01b3)
    });
    let mut mixed = folded.wrapping_add(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
