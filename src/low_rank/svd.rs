//! Singular values of a product of thin factors: QR of both, then those of the small matrix between.
//!
//! With `B = Q_B R_B` and `Aᵀ = Q_A R_A`, `B A = Q_B (R_B R_Aᵀ) Q_Aᵀ`, and the singular values of the `[r, r]` matrix in
//! the middle are those of the product (Golub & Van Loan, Matrix Computations, 4th ed., 5.4.5).

use nalgebra::{DMatrix, SVD};

use crate::{Error, Result};

/// Sweeps of the small matrix's iteration for each of its rows; two or three are usual.
const MAX_ITERATIONS: usize = 200;

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
        let max_iterations = MAX_ITERATIONS * middle.nrows().max(middle.ncols());
        let svd = SVD::try_new(middle, true, true, f64::EPSILON, max_iterations);
        let Some(SVD { u: Some(u), v_t: Some(v_t), singular_values }) = svd else {
            let message = "the singular values of its factors are not found".to_owned();
            return Err(Error::BadFile { file: "adapter_model.safetensors".to_owned(), message });
        };
        Ok(Svd { u: q_b * u, singular_values: singular_values.as_slice().to_vec(), v_t: v_t * q_a.transpose() })
    }
}

/// `U diag(σ) Vᵀ`.
pub(super) struct Svd {
    /// `[out, k]`, its columns of length 1 and at right angles.
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

    /// Shapes that are thinner and wider than the rank, ranks that are not full, values that are equal, tiny and zero.
    #[test]
    fn factors_of_every_kind_come_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut products = vec![];
        for (out, width, r) in [(1, 1, 1), (7, 5, 1), (9, 40, 8), (40, 9, 8), (3, 30, 8), (30, 3, 8), (64, 64, 33)] {
            let (b, a) = (random(&mut rng, out, r), random(&mut rng, r, width));
            products.push(Product { b: b.clone(), a: a.clone() });
            products.push(Product { b: &b * 1e-30, a: &a * 1e-8 });
            products.push(Product { b: DMatrix::zeros(out, r), a: a.clone() });
            // One column over and over.
            let column = b.column(0).into_owned();
            products.push(Product { b: DMatrix::from_fn(out, r, |row, _| column[row]), a });
        }
        products.push(Product { b: DMatrix::identity(20, 12), a: DMatrix::identity(12, 16) });
        for (index, product) in products.iter().enumerate() {
            let whole = &product.b * &product.a;
            let svd = product.svd().unwrap();
            let k = svd.singular_values.len();
            assert!(svd.singular_values.is_sorted_by(|one, next| one >= next), "{index}: {:?}", svd.singular_values);
            let back = svd.truncated(k);
            let close = |one: &DMatrix<f64>, other: &DMatrix<f64>, what: &str| {
                let error = (one - other).norm();
                assert!(error <= 1e-13 * other.norm(), "{index}, {what}: {error:e} of {:e}", other.norm());
            };
            close(&(&back.b * &back.a), &whole, "product");
            close(&(svd.u.transpose() * &svd.u), &DMatrix::identity(k, k), "U");
            close(&(&svd.v_t * svd.v_t.transpose()), &DMatrix::identity(k, k), "V");
            let norms = [product.norm(), svd.norm()].map(|norm| (norm - whole.norm()).abs());
            assert!(norms.iter().all(|error| *error <= 1e-13 * whole.norm()), "{index}: {norms:?}");
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
