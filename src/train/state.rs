//! A run as bytes: all that a later run needs to end in the same adapter as if there had been no interruption. Order of
//! the examples and random numbers are functions of seed and step, so that the step is all there is to keep of them.
//!
//! The file is a safetensors file: raw memory as U8 tensors, and one JSON text under `state` in its metadata.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// Raises whenever older files cannot be read any more.
const VERSION: u32 = 1;

/// What a state file holds besides `T`, the caller's own.
#[derive(Serialize, Deserialize)]
struct Header<T> {
    format: String,
    version: u32,
    run: T,
}

const FORMAT: &str = "web-lora run";

/// A file of `run` and the memory `parts`, by name.
pub fn write_state(run: &impl Serialize, parts: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let bad = |message: String| Error::Gpu { message: format!("the state of the run cannot be written: {message}") };
    let header = Header { format: FORMAT.to_owned(), version: VERSION, run };
    let header = serde_json::to_string(&header).map_err(|error| bad(error.to_string()))?;
    let mut tensors = vec![];
    for (name, bytes) in parts {
        let tensor = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(|error| bad(error.to_string()))?;
        tensors.push((*name, tensor));
    }
    let metadata = HashMap::from([("state".to_owned(), header)]);
    safetensors::serialize(tensors, Some(metadata)).map_err(|error| bad(error.to_string()))
}

/// The run and the parts of a file that [`write_state`] made.
///
/// Errs with `BadFile` where it is anything else, or damaged.
pub fn read_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, HashMap<String, &[u8]>)> {
    let bad = |message: String| Error::BadFile { file: "state of a run".into(), message };
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| bad(error.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get("state"));
    let header = header.ok_or_else(|| bad("it is not one that web-lora wrote".into()))?;
    let version: Header<serde_json::Value> =
        serde_json::from_str(header).map_err(|error| bad(format!("its header is damaged: {error}")))?;
    if version.format != FORMAT || version.version != VERSION {
        return Err(bad(format!("it is version {}, this program reads {VERSION}", version.version)));
    }
    let run = serde_json::from_value(version.run).map_err(|error| bad(format!("its header is damaged: {error}")))?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| bad(error.to_string()))?;
    let parts = file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data())).collect();
    Ok((run, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = write_state(&vec![1, 2], &[("params", &[7u8; 40][..]), ("best", &[])]).unwrap();
        let (run, parts) = read_state::<Vec<i32>>(&bytes).unwrap();
        assert_eq!(run, [1, 2]);
        assert_eq!(parts["params"], [7u8; 40]);
        assert!(parts["best"].is_empty());
    }

    #[test]
    fn numbers_come_back_to_the_bit() {
        // Found by fuzzing: the quick way to read a number is off by a bit for some.
        let mut numbers = vec![3e50];
        let mut bits = 1u64;
        while numbers.len() < 10_000 {
            bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            numbers.extend(Some(f64::from_bits(bits)).filter(|number| number.is_finite()));
        }
        let bytes = write_state(&numbers, &[]).unwrap();
        assert_eq!(read_state::<Vec<f64>>(&bytes).unwrap().0, numbers);
    }

    #[test]
    fn what_is_damaged_or_someone_elses_is_refused() {
        let bytes = write_state(&3, &[("params", &[7u8; 40][..])]).unwrap();
        let others = safetensors::serialize(Vec::<(String, TensorView)>::new(), None).unwrap();
        let newer = String::from_utf8_lossy(&bytes).replace("version\\\":1", "version\\\":9").into_bytes();
        for bytes in [&bytes[..bytes.len() - 1], &bytes[..7], b"", &others, &newer] {
            assert!(matches!(read_state::<i32>(bytes), Err(Error::BadFile { .. })), "{} bytes", bytes.len());
        }
        assert!(matches!(read_state::<String>(&bytes), Err(Error::BadFile { .. })));
    }
}
