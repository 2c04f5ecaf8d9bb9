//! Which examples a step takes, and the passes they become.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::{Example, pack};
use crate::gpu::Step;
use crate::kernels::Token;
use crate::kernels::preference::PairRows;

/// Tokens of one forward and backward pass: examples end to end, none of which sees another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// Rows.
    pub tokens: Vec<Token>,
    /// `(row, id of the token that should follow)` for the rows that are supervised.
    pub targets: Vec<(u32, u32)>,
    /// Which preference pairs they are, where that is what is learned, each with its number among the examples.
    pub pairs: Vec<(usize, PairRows)>,
}

impl Pass {
    /// Appends an example: `supervised[i]` says that token `i` is to be predicted from those before it.
    pub fn push(&mut self, ids: &[u32], supervised: &[bool]) {
        let start = self.tokens.len() as u32;
        let end = start + ids.len() as u32;
        self.tokens.extend((0..).zip(ids).map(|(position, &id)| Token { id, position, start, end }));
        let next = (start..).zip(ids.iter().zip(supervised).skip(1));
        self.targets.extend(next.filter(|(_, (_, supervised))| **supervised).map(|(row, (&id, _))| (row, id)));
    }

    /// `examples` in passes of at most `max_tokens` tokens; none of them is longer than that.
    pub fn packed(examples: &[&Example], max_tokens: usize) -> Vec<Self> {
        let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        let passes = pack(&lengths, max_tokens).into_iter().map(|packed| {
            let mut pass = Self::default();
            packed.examples.iter().for_each(|&at| pass.push(&examples[at].ids, &examples[at].supervised));
            pass
        });
        passes.collect()
    }

    /// `step` with this pass's rows and the whole adapter.
    pub fn step(&self, step: Step) -> Step {
        let (n_tokens, n_targets) = (self.tokens.len() as u32, self.targets.len() as u32);
        Step { n_tokens, n_targets, keys_per_row: Token::keys_per_row(&self.tokens), strength: 1.0, ..step }
    }
}

/// The endless stream of examples, shuffled anew each epoch; the same for the same seed.
#[derive(Debug, Clone)]
pub struct Batches {
    n_examples: usize,
    batch_size: usize,
    seed: u64,
}

impl Batches {
    /// Batches of `batch_size` out of `n_examples`.
    pub fn new(n_examples: usize, batch_size: usize, seed: u64) -> Self {
        assert!(n_examples > 0 && batch_size > 0, "batches of something");
        Self { n_examples, batch_size, seed }
    }

    /// The examples of 0-based `step`: a function of the seed and the step alone, so that a run can be taken up
    /// anywhere.
    pub fn examples(&self, step: usize) -> Vec<usize> {
        let first = step * self.batch_size;
        let mut order = (usize::MAX, vec![]);
        (first..first + self.batch_size)
            .map(|at| {
                let epoch = at / self.n_examples;
                if order.0 != epoch {
                    order = (epoch, self.shuffled(epoch));
                }
                order.1[at % self.n_examples]
            })
            .collect()
    }

    fn shuffled(&self, epoch: usize) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..self.n_examples).collect();
        order.shuffle(&mut rng);
        order
    }

    /// The passes of 0-based `step`, each of at most `max_tokens` tokens; no example is longer than that.
    pub fn passes(&self, step: usize, examples: &[Example], max_tokens: usize) -> Vec<Pass> {
        let chosen: Vec<&Example> = self.examples(step).into_iter().map(|at| &examples[at]).collect();
        Pass::packed(&chosen, max_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_next_supervised_tokens() {
        let mut pass = Pass::default();
        pass.push(&[5, 6, 7], &[true, false, true]);
        pass.push(&[8, 9], &[false, true]);
        assert_eq!(pass.targets, [(1, 7), (3, 9)]);
        assert_eq!(pass.tokens[4], Token { id: 9, position: 1, start: 3, end: 5 });
    }

    #[test]
    fn every_epoch_has_every_example_once_in_its_own_order() {
        let batches = Batches::new(7, 3, 1);
        let stream: Vec<usize> = (0..7).flat_map(|step| batches.examples(step)).collect();
        for epoch in stream.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(stream[..7], stream[7..14]);
        assert_eq!(batches.examples(5), Batches::new(7, 3, 1).examples(5));
    }
}
