//! How likely a token was, and which others were.

/// Most alternatives told of a token.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Natural logarithms of the probabilities that the model gave before a token was chosen: of its own distribution,
/// softmax(logits), whatever temperature and nucleus the choice was made with.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token chosen.
    pub logprob: f64,
    /// The likeliest tokens, with theirs, the likeliest first; of equal ones the lowest id.
    pub top: Vec<(u32, f64)>,
}

impl Logprobs {
    /// Of `chosen` and the `n` likeliest, by logits `[vocab_size]`; sums in f64.
    pub fn new(logits: &[f32], chosen: u32, n: usize) -> Self {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        let logprob = |id: u32| f64::from(logits[id as usize]) - largest - sum.ln();
        let before = |a: u32, b: u32| logits[a as usize].total_cmp(&logits[b as usize]).is_gt();
        let mut top: Vec<u32> = vec![];
        // In the order of ids, so that of equal ones the lowest stays before the others.
        for id in 0..logits.len() as u32 {
            if n > 0 && (top.len() < n || before(id, top[n - 1])) {
                top.insert(top.partition_point(|&other| !before(id, other)), id);
                top.truncate(n);
            }
        }
        Self { logprob: logprob(chosen), top: top.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_are_in_order() {
        let logits: Vec<f32> = (0..101).map(|i| ((i * 37) % 101) as f32 * 0.1 + 700.0).collect();
        let all = Logprobs::new(&logits, 5, 101);
        let sum: f64 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12 && all.top.len() == 101);
        assert!(all.top.is_sorted_by(|one, next| one.1 > next.1));
        assert_eq!(all.logprob, all.top.iter().find(|(id, _)| *id == 5).unwrap().1);
        for n in [0, 1, 20, 1000] {
            assert_eq!(Logprobs::new(&logits, 5, n), Logprobs { top: all.top[..n.min(101)].to_vec(), ..all.clone() });
        }
        let equal = Logprobs::new(&[1.0; 8], 3, 2);
        assert!((equal.logprob - -(8f64.ln())).abs() < 1e-15);
        assert_eq!(equal.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1]);
    }
}
