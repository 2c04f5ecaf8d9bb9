//! First factors made of a weight W `[out, in]`, as peft's `pissa_init` and `olora_init` make them, in f64.

use nalgebra::{DMatrix, SymmetricEigen};
use rand_chacha::ChaCha8Rng;

use crate::lora::normal;

/// A `[r, in]` and B `[out, r]`.
pub(super) struct Factors {
    pub(super) a: DMatrix<f64>,
    pub(super) b: DMatrix<f64>,
}

/// `U diag(s) Vᵀ`, the largest singular value first: u `[out, r]`, v `[in, r]`.
struct Singular {
    u: DMatrix<f64>,
    s: Vec<f64>,
    v: DMatrix<f64>,
}

/// PiSSA (arXiv 2404.02948): the r largest singular values of W. `scaling · B A` is the best approximation of W that has
/// rank r.
pub(super) fn pissa(weight: &DMatrix<f64>, r: usize, scaling: f64) -> Factors {
    split(largest(weight, r), scaling)
}

/// PiSSA by `torch.svd_lowrank` (Halko et al., arXiv 0909.4061, algorithms 4.4 and 5.1): a random subspace of r dimensions,
/// turned by W and back so many times.
pub(super) fn pissa_niter(
    weight: &DMatrix<f64>,
    r: usize,
    scaling: f64,
    rounds: usize,
    rng: &mut ChaCha8Rng,
) -> Factors {
    let mut q = (weight * DMatrix::from_fn(weight.ncols(), r, |_, _| normal(rng))).qr().q();
    for _ in 0..rounds {
        q = weight.tr_mul(&q).qr().q();
        q = (weight * q).qr().q();
    }
    let within = largest(&q.tr_mul(weight), r);
    split(Singular { u: q * within.u, ..within }, scaling)
}

/// OLoRA (arXiv 2406.01775): B the first r columns of Q, A the first r rows of R, of `W = Q R`.
pub(super) fn olora(weight: &DMatrix<f64>, r: usize) -> Factors {
    // The first columns of Q depend on the first columns of W alone.
    let b = weight.columns(0, r).clone_owned().qr().q();
    Factors { a: b.tr_mul(weight), b }
}

/// The roots of the singular values go to either side.
fn split(Singular { mut u, s, mut v }: Singular, scaling: f64) -> Factors {
    for (i, s) in s.iter().enumerate() {
        let root = (s / scaling).sqrt();
        u.column_mut(i).scale_mut(root);
        v.column_mut(i).scale_mut(root);
    }
    Factors { a: v.transpose(), b: u }
}

/// The r largest singular values, by the eigenvectors of the smaller of `W Wᵀ` and `Wᵀ W`: in f64 those are right to far
/// more than the digits of an f32.
fn largest(weight: &DMatrix<f64>, r: usize) -> Singular {
    if weight.nrows() > weight.ncols() {
        let Singular { u, s, v } = largest(&weight.transpose(), r);
        return Singular { u: v, s, v: u };
    }
    let eigen = SymmetricEigen::new(weight * weight.transpose());
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
    let u = DMatrix::from_fn(weight.nrows(), r, |row, i| eigen.eigenvectors[(row, order[i])]);
    let mut v = weight.tr_mul(&u);
    let s: Vec<f64> = (0..r).map(|i| v.column(i).norm()).collect();
    // Where W has a lower rank there is nothing to point at.
    s.iter().enumerate().filter(|(_, s)| **s > 0.0).for_each(|(i, s)| v.column_mut(i).unscale_mut(*s));
    Singular { u, s, v }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn random(rows: usize, cols: usize) -> DMatrix<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        DMatrix::from_fn(rows, cols, |_, _| normal(&mut rng))
    }

    /// Against nalgebra's own singular values, which are not found by eigenvectors.
    #[test]
    fn pissa_is_the_best_approximation() {
        for (rows, cols, r) in [(30, 20, 4), (20, 30, 20), (1, 5, 1), (8, 8, 3)] {
            let (weight, scaling) = (random(rows, cols), 1.5);
            let svd = weight.clone().svd(true, true);
            let of = |i: usize| {
                svd.u.as_ref().unwrap().column(i) * svd.singular_values[i] * svd.v_t.as_ref().unwrap().row(i)
            };
            let best = (0..r).map(of).fold(DMatrix::zeros(rows, cols), |sum, part| sum + part);
            let exact = pissa(&weight, r, scaling);
            assert!((scaling * &exact.b * &exact.a - &best).norm() < 1e-10 * best.norm());
            // Both sides carry the roots.
            for i in 0..r {
                let root = (svd.singular_values[i] / scaling).sqrt();
                assert!(
                    (exact.a.row(i).norm() - root).abs() < 1e-10 && (exact.b.column(i).norm() - root).abs() < 1e-10
                );
            }
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let fast = pissa_niter(&weight, r, scaling, 100, &mut rng);
            assert!((scaling * &fast.b * &fast.a - &best).norm() < 1e-3 * best.norm(), "{rows} x {cols}, rank {r}");
        }
    }

    #[test]
    fn olora_is_the_beginning_of_qr() {
        for (rows, cols, r) in [(30, 20, 4), (20, 30, 20), (8, 8, 8)] {
            let weight = random(rows, cols);
            let Factors { a, b } = olora(&weight, r);
            assert!((b.tr_mul(&b) - DMatrix::identity(r, r)).norm() < 1e-12);
            let (q, full) = {
                let qr = weight.clone().qr();
                (qr.q(), qr.r())
            };
            assert!((&b * &a - q.columns(0, r) * full.rows(0, r)).norm() < 1e-10, "{rows} x {cols}, rank {r}");
            // A is upper triangular.
            assert!((0..r).all(|i| (0..i).all(|j| a[(i, j)].abs() < 1e-10)));
        }
    }
}
