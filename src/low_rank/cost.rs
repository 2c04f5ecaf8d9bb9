//! What is trained by LoRA and what by full fine-tuning.

use serde::Serialize;

/// Bytes that training takes for each number trained: it, its gradient and AdamW's two moments, all f32.
const BYTES_PER_TRAINED: u64 = 16;

/// An adapter beside full fine-tuning, in numbers and bytes. Activations, which both need alike, are not in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterCost {
    /// By module, in the order of the model.
    pub modules: Vec<ModuleCost>,
    /// Numbers that LoRA trains, with those of biases and norms that are trained as they are.
    pub parameters: u64,
    /// Numbers of the weights it adapts, and of these.
    pub base_parameters: u64,
    /// Numbers of the whole model.
    pub model_parameters: u64,
    /// What LoRA holds: the frozen model as it is loaded, and 16 bytes for each number trained.
    pub bytes: u64,
    /// What full fine-tuning would: 16 bytes for each number of the model (its f32 weight, gradient and two moments).
    pub full_bytes: u64,
}

/// A linear `[out, in]` and its pair: `r (out + in)` numbers for `out · in`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleCost {
    /// Its path.
    pub name: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Rank of its pair.
    pub r: usize,
    /// Numbers of A and B.
    pub parameters: u64,
    /// Numbers of W.
    pub base_parameters: u64,
}

impl ModuleCost {
    /// Of a pair of rank `r` for a weight of this shape.
    pub fn new(name: &str, shape: [usize; 2], r: usize) -> Self {
        let [out, width] = shape.map(|size| size as u64);
        let (parameters, base_parameters) = (r as u64 * (out + width), out * width);
        Self { name: name.to_owned(), shape, r, parameters, base_parameters }
    }
}

impl AdapterCost {
    /// Of these modules and so many numbers of biases and norms that are trained as they are, in a model of so many numbers
    /// that takes `weight_bytes` as it is loaded.
    pub fn new(modules: Vec<ModuleCost>, vectors: u64, model_parameters: u64, weight_bytes: u64) -> Self {
        let parameters = vectors + modules.iter().map(|module| module.parameters).sum::<u64>();
        let base_parameters = vectors + modules.iter().map(|module| module.base_parameters).sum::<u64>();
        let bytes = weight_bytes + BYTES_PER_TRAINED * parameters;
        let full_bytes = BYTES_PER_TRAINED * model_parameters;
        Self { modules, parameters, base_parameters, model_parameters, bytes, full_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_512_by_64_at_rank_8() {
        let module = ModuleCost::new("q_proj", [512, 64], 8);
        assert_eq!((module.parameters, module.base_parameters), (4_608, 32_768));
        let fewer = 1.0 - module.parameters as f64 / module.base_parameters as f64;
        assert_eq!((100.0 * fewer).round(), 86.0);
        assert_eq!(ModuleCost::new("q_proj", [64, 512], 8).parameters, 4_608);
    }

    #[test]
    fn bytes_are_those_of_what_is_held() {
        let modules = vec![ModuleCost::new("q_proj", [512, 64], 8), ModuleCost::new("k_proj", [10, 64], 2)];
        let cost = AdapterCost::new(modules, 9, 50_000, 100_000);
        assert_eq!((cost.parameters, cost.base_parameters), (4_608 + 148 + 9, 32_768 + 640 + 9));
        assert_eq!((cost.bytes, cost.full_bytes), (100_000 + 16 * 4_765, 800_000));
    }
}
