//! What `www/bench/` calls; not in what ships.

use js_sys::Function;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use super::{JsResult, from_js, sources, to_js, to_js_error};
use crate::Error;
use crate::bench::{matmul_seconds, measure};
use crate::gpu::{DeviceOptions, Gpu};
use crate::io::DType;

/// `bench::measure` on two models, each an array of files as `Engine.loadModel` takes them.
#[wasm_bindgen(js_name = benchmark)]
pub async fn benchmark(
    first: Vec<JsValue>,
    second: Vec<JsValue>,
    tokens: usize,
    on_line: Function,
) -> JsResult<JsValue> {
    let models = [sources(&first)?, sources(&second)?];
    let mut say = |line: String| drop(on_line.call1(&JsValue::NULL, &line.into()));
    to_js(&measure(&models, tokens, &mut say).await.map_err(to_js_error)?)
}

/// A product `[tokens, k] x [n, k]`, or its way back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    n: usize,
    k: usize,
    transposed: bool,
}

/// Seconds that each of `products` takes with weights of type `dtype`, as `bench::matmul_seconds` measures it, on a GPU
/// opened for this call.
#[wasm_bindgen(js_name = benchmarkMatmul)]
pub async fn benchmark_matmul(dtype: String, tokens: usize, products: JsValue, repeats: usize) -> JsResult<Vec<f64>> {
    let products: Vec<Product> = from_js("products", products)?;
    let known = DType::ALL.into_iter().find(|known| known.to_string() == dtype);
    let allowed = "a type as GGUF spells it".to_owned();
    let dtype = known.ok_or_else(|| to_js_error(Error::BadSetting { name: "dtype".into(), value: dtype, allowed }))?;
    let gpu = Gpu::request(DeviceOptions::default()).await.map_err(to_js_error)?;
    let mut seconds = vec![];
    for Product { n, k, transposed } in products {
        seconds.push(matmul_seconds(&gpu, dtype, tokens, n, k, transposed, repeats).await.map_err(to_js_error)?);
    }
    Ok(seconds)
}
