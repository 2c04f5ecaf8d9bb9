//! All tests of what the crate offers, as one program: linked once, and in a browser one page for all. A file is a topic:
//! `cargo test --release tests:: golden::`.

#[macro_use]
mod tiny;
#[path = "gguf_files/writer.rs"]
mod writer;

mod adapter_files;
mod adapter_options;
mod adapter_tools;
mod answers;
mod architectures;
mod chat_templates;
mod damaged_files;
mod data_files;
mod dequantize;
mod examples;
mod exports;
mod fuzz;
mod gguf_files;
mod golden;
mod memory;
mod merged;
mod model_folders;
mod model_forms;
mod model_parts;
mod not_finite;
mod pairs;
mod preference;
mod real_models;
mod refusals;
mod runs;
mod several_adapters;
mod smollm2_text;
mod tokenizers;
mod train_options;
mod trained_vectors;
mod training;
mod training_script;

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);
