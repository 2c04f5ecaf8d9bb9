//! The end of the model: final norm, vocabulary, loss. It works only on rows that have a target, a few at a time, so
//! that the logits of a batch never exist together.

use super::{BatchView, Frozen, Norm, matrix};
use crate::gpu::{Recording, Rows, Slice};
use crate::kernels::cross_entropy::{cross_entropy, cross_entropy_scores};
use crate::kernels::loss_sum::loss_sum;
use crate::kernels::matmul::{Store, matmul, matmul_transposed};
use crate::kernels::preference::preference;
use crate::kernels::rms_norm::After;
use crate::kernels::rows::{gather_rows, scatter_rows};
use crate::kernels::{Matrix, ROW_PAD, stride};
use crate::lora::AdapterView;

/// Logits that exist at a time, in bytes.
const CHUNK_BYTES: usize = 16 << 20;
/// Rows of a tile of the products with most.
const TALLEST_TILE: usize = 64;

/// Final norm and vocabulary.
pub struct Head<'a> {
    /// The norm before it.
    pub norm: &'a Norm,
    /// `[vocab_size, hidden_size]`.
    pub weight: &'a Frozen,
    /// What may train the norm.
    pub adapter: &'a AdapterView,
}

impl Head<'_> {
    /// Logits `[max_targets, vocab_size]` of the rows that have a target, into `logits`.
    pub fn logits(&self, rec: &mut Recording, batch: &BatchView, hidden: Matrix, logits: Matrix) {
        let rows = Rows::targets(0, batch.max_targets as u32);
        let gathered = matrix(rec, "rows", rows, hidden.width);
        gather_rows(rec, "rows", rows, batch.target_rows, hidden, gathered);
        let (normed, _) = self.norm.forward(rec, self.adapter, "norm", rows, gathered, After::Nothing);
        for weight in self.weight.weights(rec) {
            matmul(rec, "lm_head", rows, normed, &weight, None, None, logits, Store::Replace);
        }
    }

    /// Mean cross-entropy (smoothed with `label_smoothing`) times its share of the step, or what [`preference`] makes of
    /// the cross-entropies of pairs, added to `metrics`, and its gradient on `hidden`, written to `d_hidden` (zero in rows
    /// without a target).
    pub fn loss(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        hidden: Matrix,
        label_smoothing: bool,
        metrics: Slice,
        d_hidden: Matrix,
    ) {
        let all = Rows::targets(0, batch.max_targets as u32);
        let gathered = matrix(rec, "rows", all, hidden.width);
        gather_rows(rec, "rows", all, batch.target_rows, hidden, gathered);
        let (normed, saved) = self.norm.forward(rec, self.adapter, "norm", all, gathered, After::Nothing);
        let d_normed = matrix(rec, "d_norm", all, hidden.width);
        let losses = rec.floats("losses", batch.max_targets as u64);

        let (logits, chunks) = self.chunks(rec, batch);
        for (start, rows) in chunks {
            let x = normed.rows_from(start);
            let dx = d_normed.rows_from(start);
            for weight in self.weight.weights(rec) {
                matmul(rec, "lm_head", rows, x, &weight, None, None, logits, Store::Replace);
            }
            cross_entropy(rec, "cross_entropy", rows, logits, batch.target_ids, losses, label_smoothing);
            for (index, weight) in self.weight.weights(rec).iter().enumerate() {
                let store = Store::Replace.term(index > 0, true);
                matmul_transposed(rec, "lm_head.dx", rows, logits, weight, None, dx, store);
            }
        }
        match batch.pairs {
            None => loss_sum(rec, "loss", losses, metrics),
            Some((kind, pairs)) => preference(rec, "preference", kind, pairs, losses, metrics, all, d_normed),
        }

        let d_gathered = matrix(rec, "d_rows", all, hidden.width);
        self.norm.backward(rec, self.adapter, "norm", all, &saved, d_normed, Some((d_gathered, false)));
        rec.clear(d_hidden.slice);
        scatter_rows(rec, "d_rows", all, batch.target_rows, d_gathered.into(), d_hidden);
    }

    /// Of each target its cross-entropy into `losses` (f32 `[max_targets]`), and 1.0 into `hits` (as many) where no
    /// token is likelier.
    pub fn scores(&self, rec: &mut Recording, batch: &BatchView, hidden: Matrix, losses: Slice, hits: Slice) {
        let all = Rows::targets(0, batch.max_targets as u32);
        let gathered = matrix(rec, "rows", all, hidden.width);
        gather_rows(rec, "rows", all, batch.target_rows, hidden, gathered);
        let (normed, _) = self.norm.forward(rec, self.adapter, "norm", all, gathered, After::Nothing);
        let (logits, chunks) = self.chunks(rec, batch);
        for (start, rows) in chunks {
            for weight in self.weight.weights(rec) {
                matmul(rec, "lm_head", rows, normed.rows_from(start), &weight, None, None, logits, Store::Replace);
            }
            cross_entropy_scores(rec, "scores", rows, logits, batch.target_ids, losses, hits);
        }
    }

    /// Room for the logits of some targets, and which these are, by the first: a few at a time.
    fn chunks(&self, rec: &mut Recording, batch: &BatchView) -> (Matrix, Vec<(usize, Rows)>) {
        let vocab_size = self.weight.rows();
        // Whole tiles of every kernel, where there is room for as many rows as the tallest has.
        let fitting = CHUNK_BYTES / (stride(vocab_size) * 4);
        let whole = if fitting >= TALLEST_TILE { TALLEST_TILE } else { ROW_PAD };
        let chunk = (fitting / whole).max(1) * whole;
        let chunk = chunk.min(batch.max_targets.next_multiple_of(ROW_PAD));
        let logits = matrix(rec, "logits", Rows::targets(0, chunk as u32), vocab_size);
        let rows = |start| Rows::targets(start as u32, chunk.min(batch.max_targets - start) as u32);
        (logits, (0..batch.max_targets).step_by(chunk).map(|start| (start, rows(start))).collect())
    }
}
