//! The bodies that `make fuzz` gives to libFuzzer, here with what it found, and with seeded damages of sound files: no
//! panic, and memory and time by what there is and not by what it claims. Natively and, as wasm, in a browser.

#[allow(unreachable_pub, reason = "a package of its own has them for its targets")]
mod bodies;
pub(crate) mod damage;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod memory;
mod seeds;
mod sizes;

/// Of each target: damages of all that is sound. A browser has fewer, as it has the same code.
const DAMAGES: usize = if cfg!(target_arch = "wasm32") { 150 } else { 2000 };

fn replay(target: &str) {
    let body = bodies::ALL.into_iter().find(|(name, _)| *name == target).expect("it is a target").1;
    let inputs: Vec<_> = seeds::of(target).into_iter().chain(findings(target)).collect();
    assert!(!inputs.is_empty(), "{target}: nothing to begin with");
    let each = DAMAGES / inputs.len();
    for (name, bytes) in &inputs {
        bounded(&format!("{target}, {name}"), body, bytes);
        damage::damage(bytes, each, |damaged| bounded(&format!("{target}, damaged {name}"), body, &damaged));
    }
}

#[cfg(target_arch = "wasm32")]
fn bounded(_: &str, body: fn(&[u8]), bytes: &[u8]) {
    body(bytes);
}

/// Ten times what the machine alone would take is allowed, as other tests run beside.
#[cfg(not(target_arch = "wasm32"))]
fn bounded(what: &str, body: fn(&[u8]), bytes: &[u8]) {
    let start = std::time::Instant::now();
    memory::within(what, bytes.len(), || body(bytes));
    assert!(start.elapsed().as_secs() < 10, "{what}: {:?}", start.elapsed());
}

/// What libFuzzer found, and the inputs that it keeps as no others go the same ways.
fn findings(target: &str) -> Vec<(String, Vec<u8>)> {
    // A browser has no folders.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let Ok(files) = std::fs::read_dir(folder) else { return vec![] };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())).collect()
}

/// Where `make fuzz` begins: a file for each seed.
#[cfg(not(target_arch = "wasm32"))]
#[test]
#[ignore = "writes files for make fuzz"]
fn seeds_are_written() {
    let folder = std::path::PathBuf::from(std::env::var("FUZZ_SEEDS").expect("FUZZ_SEEDS names a folder"));
    for (target, _) in bodies::ALL {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        for (name, bytes) in seeds::of(target) {
            std::fs::write(folder.join(target).join(name), bytes).unwrap();
        }
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[cfg_attr(not(target_arch = "wasm32"), test)]
            #[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn every_target_is_replayed() {
            assert_eq!(bodies::ALL.map(|(name, _)| name).to_vec(), [$(stringify!($target)),*]);
        }
    };
}

replays! { adapter chat_template checkpoint config data gguf safetensors shards tokenizer_json }

#[cfg_attr(not(target_arch = "wasm32"), test)]
#[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
fn sizes_that_overflow_are_refused() {
    sizes::check();
}
