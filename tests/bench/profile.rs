//! Where the time of a training step on the default model goes: `make profile`. Prints a table and draws a flame graph,
//! `target/profile.svg`. `SMOLLM2_GGUF` is the model, `T` the tokens of the step (default 128).

use std::path::Path;
use std::rc::Rc;

use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{ByteSource, Checkpoint, FileSource, LoraConfig};
use web_lora::kernels::probe;
use web_lora::lora::Adapter;
use web_lora::model;
use web_lora::train::{Pass, Recorded, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::var("SMOLLM2_GGUF").map_err(|_| "SMOLLM2_GGUF is the path of a GGUF file")?;
    let n_tokens: usize = std::env::var("T").unwrap_or_else(|_| "128".into()).parse()?;

    let gpu = Rc::new(Gpu::request(DeviceOptions::default()).await?);
    probe::choose(&gpu, None).await?;
    let checkpoint = Checkpoint::open(&[Rc::new(FileSource::open(&file)?) as Rc<dyn ByteSource>]).await?;
    let model = model::load(&gpu, &checkpoint, n_tokens.max(16), &mut |_, _| true).await?;
    let groups = model.modules();
    let target_modules =
        groups.iter().flat_map(|group| &group.modules).map(|module| module.kind().to_owned()).collect();
    let adapter = Adapter::new(&gpu, LoraConfig::new(8, 16.0, target_modules), &groups, 0)?;
    let trainer = Trainer::new(gpu.clone(), &model, &adapter, n_tokens, 0, Recorded::default(), &mut |_, _| ()).await?;

    // One example, all of it supervised; which tokens they are makes no difference to the time.
    let ids: Vec<u32> = (0..n_tokens as u32).map(|at| 100 + at * 37 % 1000).collect();
    let mut pass = Pass::default();
    pass.push(&ids, &vec![true; n_tokens]);
    // The first replay also pays for what drivers put off until then.
    trainer.profile(std::slice::from_ref(&pass)).await?;
    let profile = trainer.profile(&[pass]).await?;
    print!("{profile}");

    let mut options = inferno::flamegraph::Options::default();
    options.title = format!("{}, {n_tokens} tokens on {}", checkpoint.name(), gpu.info().name);
    options.count_name = "µs".into();
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/profile.svg");
    std::fs::create_dir_all(out.with_file_name(""))?;
    let folded = profile.folded();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), std::fs::File::create(&out)?)?;
    println!("\nflame graph: {}", out.display());
    Ok(())
}
