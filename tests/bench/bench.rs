//! The native half of `make bench`: measures the default model on this machine's Vulkan device. Prints each line as it is
//! measured, and the whole report as JSON at the end, on standard output. `SMOLLM2_GGUF` is the model.

#[cfg(not(target_arch = "wasm32"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(native::run())
}

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::error::Error;
    use std::fs::{self, File};
    use std::io::{BufWriter, Write};
    use std::path::{Path, PathBuf};
    use std::rc::Rc;

    use half::f16;
    use serde_json::{Map, Value, json};
    use web_lora::bench::measure;
    use web_lora::io::{ByteSource, Checkpoint, FileSource, dequantize};

    /// Rows of the products: those of a usual training pass.
    const TOKENS: usize = 512;
    const FILES: [&str; 2] = ["config.json", "model.safetensors"];

    type Files = Vec<Rc<dyn ByteSource>>;

    pub(super) async fn run() -> Result<(), Box<dyn Error>> {
        let file = std::env::var("SMOLLM2_GGUF").map_err(|_| "SMOLLM2_GGUF is the path of a GGUF file")?;
        let gguf: Files = vec![Rc::new(FileSource::open(&file)?)];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/f16");
        if !folder.exists() {
            write_f16(&gguf, &folder).await?;
        }
        let f16: Files = FILES
            .iter()
            .map(|name| Ok(Rc::new(FileSource::open(folder.join(name))?) as Rc<dyn ByteSource>))
            .collect::<web_lora::Result<_>>()?;
        let report = measure(&[gguf, f16], TOKENS, &mut |line| eprintln!("{line}")).await?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    /// The same model with all its weights in f16, as a Hugging Face folder without a tokenizer.
    async fn write_f16(files: &Files, folder: &Path) -> Result<(), Box<dyn Error>> {
        let checkpoint = Checkpoint::open(files).await?;
        // Whole or not at all: it takes its name when it is done.
        let unfinished = PathBuf::from(folder).with_extension("unfinished");
        fs::create_dir_all(&unfinished)?;
        let mut config = checkpoint.config().clone();
        let base = checkpoint.name().trim_end_matches(".Q4_1");
        config.insert("_name_or_path".into(), format!("{base}.F16").into());
        fs::write(unfinished.join(FILES[0]), serde_json::to_vec(&config)?)?;

        let (mut header, mut end) = (Map::new(), 0);
        for tensor in checkpoint.tensors() {
            let start = end;
            end += 2 * tensor.rows() * tensor.cols();
            let entry = json!({ "dtype": "F16", "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(tensor.name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let mut out = BufWriter::new(File::create(unfinished.join(FILES[1]))?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for tensor in checkpoint.tensors() {
            let values = dequantize(tensor.dtype, &checkpoint.read_rows(tensor, 0..tensor.rows()).await?);
            let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            out.write_all(bytemuck::cast_slice(&halves))?;
        }
        out.into_inner()?.sync_all()?;
        fs::rename(unfinished, folder)?;
        Ok(())
    }
}
