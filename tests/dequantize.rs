//! Every block format against llama.cpp's own Python package, both ways: the same bits.
#![cfg(not(target_arch = "wasm32"))]

use safetensors::SafeTensors;
use web_lora::io::{DType, Quantization, dequantize, quantize};

#[test]
fn values_are_those_of_ggml() {
    let file = SafeTensors::deserialize(include_bytes!("fixtures/quants/quants.safetensors")).unwrap();
    for dtype in DType::ALL {
        let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap();
        let values = file.tensor(&format!("{dtype}.values")).unwrap();
        assert_eq!(blocks.shape()[1], dtype.block_bytes(), "{dtype}");
        let got: Vec<u32> = dequantize(dtype, blocks.data()).iter().map(|value| value.to_bits()).collect();
        let expected: Vec<u32> = values.data().as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        assert_eq!(got.len(), 64 * dtype.block_len(), "{dtype}");
        // -0.0 and 0.0 differ in bits and mean the same.
        let differ = got.iter().zip(&expected).position(|(a, b)| a != b && (a | b) << 1 != 0);
        assert_eq!(differ, None, "{dtype}");
    }
}

#[test]
fn blocks_are_those_of_ggml() {
    let file = SafeTensors::deserialize(include_bytes!("fixtures/quants/quants.safetensors")).unwrap();
    let values = file.tensor("quantize.values").unwrap();
    let values: Vec<f32> = values.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    for to in [Quantization::Q8_0, Quantization::Q4_0] {
        let expected = file.tensor(&format!("quantize.{}", to.dtype())).unwrap();
        assert_eq!(quantize(to, &values), expected.data(), "{to:?}");
    }
}
