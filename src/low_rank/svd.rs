//! Singular values of a product of thin factors: QR of both, then those of the small matrix between.
//!
//! With `B = Q_B R_B` and `Aᵀ = Q_A R_A`, `B A = Q_B (R_B R_Aᵀ) Q_Aᵀ`, and the singular values of the `[r, r]` matrix in
//! the middle are those of the product (Golub & Van Loan, Matrix Computations, 4th ed., 5.4.5).

use nalgebra::DMatrix;

use crate::{Error, Result};

/// Some ten are the most that are seen.
const MAX_SWEEPS: usize = 60;

/// `B A`, with B `[out, r]` and A `[r, in]`.
pub(super) struct Product {
    pub(super) b: DMatrix<f64>,
    pub(super) a: DMatrix<f64>,
}

impl Product {
    /// The sum of products of one shape: Bs side by side, As one below the other.
    pub(super) fn sum(products: &[Product]) -> Self {
        let (out, width) = products.first().map_or((0, 0), |product| (product.b.nrows(), product.a.ncols()));
        let r = products.iter().map(|product| product.a.nrows()).sum();
        let (mut b, mut a) = (DMatrix::zeros(out, r), DMatrix::zeros(r, width));
        let mut at = 0;
        for product in products {
            let n = product.a.nrows();
            b.columns_mut(at, n).copy_from(&product.b);
            a.rows_mut(at, n).copy_from(&product.a);
            at += n;
        }
        Self { b, a }
    }

    /// `(Q_B, R_B R_Aᵀ, Q_A)`.
    fn thin(&self) -> (DMatrix<f64>, DMatrix<f64>, DMatrix<f64>) {
        let (b, a) = (self.b.clone().qr(), self.a.transpose().qr());
        (b.q(), b.r() * a.r().transpose(), a.q())
    }

    /// Its Frobenius norm.
    pub(super) fn norm(&self) -> f64 {
        self.thin().1.norm()
    }

    pub(super) fn svd(&self) -> Result<Svd> {
        let (q_b, middle, q_a) = self.thin();
        let wide = middle.ncols() > middle.nrows();
        let (vectors, singular_values, others) = jacobi(if wide { middle.transpose() } else { middle })?;
        let (u, v) = if wide { (others, vectors) } else { (vectors, others) };
        Ok(Svd { u: q_b * u, singular_values, v_t: (q_a * v).transpose() })
    }
}

/// U, σ and V of a matrix that is no wider than it is tall, by one-sided Jacobi rotations (Golub & Van Loan, 8.6.3): its
/// columns are turned against one another until all are at right angles, and their lengths are the singular values.
/// For ranks as small as an adapter's it is fast enough, and it holds for matrices that are not of full rank, of which
/// nalgebra 0.35 decomposes one in a hundred or so into something else.
fn jacobi(mut u: DMatrix<f64>) -> Result<(DMatrix<f64>, Vec<f64>, DMatrix<f64>)> {
    let n = u.ncols();
    // What is shorter is the rounding of what it was made from, and has no direction.
    let shortest = f64::EPSILON * u.norm();
    let mut v = DMatrix::identity(n, n);
    let mut turned = true;
    for _ in 0..MAX_SWEEPS {
        turned = false;
        for p in 0..n {
            for q in p + 1..n {
                let (one, other, dot) = (u.column(p).norm(), u.column(q).norm(), u.column(p).dot(&u.column(q)));
                let seen = one > shortest && other > shortest;
                if seen && dot.abs() > f64::EPSILON * u.nrows() as f64 * one * other {
                    turned = true;
                    let zeta = (other - one) * (other + one) / (2.0 * dot);
                    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                    let cosine = 1.0 / tangent.hypot(1.0);
                    turn(&mut u, p, q, cosine, cosine * tangent);
                    turn(&mut v, p, q, cosine, cosine * tangent);
                }
            }
        }
        if !turned {
            break;
        }
    }
    let lengths: Vec<f64> = u.column_iter().map(|column| column.norm()).collect();
    if turned || !lengths.iter().all(|length| length.is_finite()) {
        let message = "the singular values of its factors are not found".to_owned();
        return Err(Error::BadFile { file: "adapter_model.safetensors".to_owned(), message });
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&one, &other| lengths[other].total_cmp(&lengths[one]));
    // A column of zeros stays one: its singular value is zero.
    let unit = |at: &usize| u.column(*at) / if lengths[*at] > 0.0 { lengths[*at] } else { 1.0 };
    let u = DMatrix::from_columns(&order.iter().map(unit).collect::<Vec<_>>());
    let v = DMatrix::from_columns(&order.iter().map(|&at| v.column(at)).collect::<Vec<_>>());
    Ok((u, order.iter().map(|&at| lengths[at]).collect(), v))
}

/// Columns p and q become `cosine p − sine q` and `sine p + cosine q`.
fn turn(matrix: &mut DMatrix<f64>, p: usize, q: usize, cosine: f64, sine: f64) {
    for row in 0..matrix.nrows() {
        let (a, b) = (matrix[(row, p)], matrix[(row, q)]);
        (matrix[(row, p)], matrix[(row, q)]) = (cosine * a - sine * b, sine * a + cosine * b);
    }
}

/// `U diag(σ) Vᵀ`.
pub(super) struct Svd {
    /// `[out, k]`, its columns of length 1 and at right angles; zeros where σ is 0.
    u: DMatrix<f64>,
    /// `[k]`, the largest first.
    pub(super) singular_values: Vec<f64>,
    /// `[k, in]`, its rows likewise.
    v_t: DMatrix<f64>,
}

impl Svd {
    /// The nearest product of rank `r` (Eckart & Young 1936): `(U √σ) (√σ Vᵀ)` of the first r, so that B and A are alike
    /// in size.
    pub(super) fn truncated(&self, r: usize) -> Product {
        let roots = self.singular_values[..r].iter().map(|value| value.sqrt());
        let (mut b, mut a) = (self.u.columns(0, r).into_owned(), self.v_t.rows(0, r).into_owned());
        for (at, root) in roots.enumerate() {
            b.column_mut(at).scale_mut(root);
            a.row_mut(at).scale_mut(root);
        }
        Product { b, a }
    }

    /// ‖what [`Self::truncated`] leaves out‖.
    pub(super) fn dropped(&self, r: usize) -> f64 {
        norm(&self.singular_values[r..])
    }

    /// ‖all of it‖.
    pub(super) fn norm(&self) -> f64 {
        norm(&self.singular_values)
    }
}

/// The root of a sum of squares, the smallest (last) first.
fn norm(values: &[f64]) -> f64 {
    values.iter().rev().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(rng: &mut ChaCha8Rng, rows: usize, cols: usize) -> DMatrix<f64> {
        DMatrix::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0))
    }

    fn check(name: &str, product: &Product) {
        let whole = &product.b * &product.a;
        let svd = product.svd().unwrap_or_else(|error| panic!("{name}: {error}"));
        let k = svd.singular_values.len();
        assert_eq!(k, product.a.nrows().min(whole.nrows()).min(whole.ncols()), "{name}");
        assert!(svd.singular_values.is_sorted_by(|one, next| one >= next), "{name}: {:?}", svd.singular_values);
        let back = svd.truncated(k);
        // As far as rounding goes that is relative to the factors, which may cancel.
        let scale = product.b.norm() * product.a.norm();
        let close = |one: &DMatrix<f64>, other: &DMatrix<f64>, scale: f64, what: &str| {
            let error = (one - other).norm();
            assert!(error <= 1e-13 * scale, "{name}, {what}: {error:e} of {scale:e}");
        };
        close(&(&back.b * &back.a), &whole, scale, "product");
        let of_rank = svd.singular_values.iter().filter(|value| **value > 1e-12 * scale).count();
        let (u, v_t) = (svd.u.columns(0, of_rank), svd.v_t.rows(0, of_rank));
        let one = DMatrix::identity(of_rank, of_rank);
        close(&(u.transpose() * u), &one, k as f64, "U");
        close(&(v_t * v_t.transpose()), &one, k as f64, "V");
        assert!([product.norm(), svd.norm()].iter().all(|norm| (norm - whole.norm()).abs() <= 1e-13 * scale), "{name}");
    }

    /// Shapes that are thinner and wider than the rank, ranks that are not full, values that are equal, tiny and zero.
    #[test]
    fn factors_of_every_kind_come_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        check("equal", &Product { b: DMatrix::identity(20, 12), a: DMatrix::identity(12, 16) });
        for (out, width, r) in [(1, 1, 1), (7, 5, 1), (9, 40, 8), (40, 9, 8), (3, 30, 8), (30, 3, 8), (64, 64, 33)] {
            let (b, a) = (random(&mut rng, out, r), random(&mut rng, r, width));
            check("random", &Product { b: b.clone(), a: a.clone() });
            check("tiny", &Product { b: &b * 1e-40, a: &a * 1e-40 });
            check("huge", &Product { b: &b * 1e38, a: &a * 1e38 });
            check("zero", &Product { b: DMatrix::zeros(out, r), a: a.clone() });
            let column = b.column(0).into_owned();
            check("one column", &Product { b: DMatrix::from_fn(out, r, |row, _| column[row]), a });
        }
        for index in 0..3000 {
            let [out, width, r] = [20, 20, 12].map(|most| rng.random_range(1..most));
            let (b, a) = (random(&mut rng, out, r), random(&mut rng, r, width));
            let b = match index % 3 {
                // Numbers that are whole cancel exactly.
                0 => b.map(|value| (value * 2.0).round()),
                1 => DMatrix::from_fn(out, r, |row, col| b[(row, col)] * 0.01f64.powi(col as i32)),
                // The sum of an adapter and itself, less one that is half the same.
                _ => DMatrix::from_fn(out, r, |row, col| b[(row, col / 2)]),
            };
            check(&format!("{index}: {out} x {width} of {r}"), &Product { b, a });
        }
    }

    #[test]
    fn sums_are_exact() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let products = [2, 5, 1].map(|r| Product { b: random(&mut rng, 6, r), a: random(&mut rng, r, 9) });
        let whole: DMatrix<f64> = products.iter().map(|product| &product.b * &product.a).sum();
        let sum = Product::sum(&products);
        assert!((&sum.b * &sum.a - whole).norm() < 1e-14);
    }
}
