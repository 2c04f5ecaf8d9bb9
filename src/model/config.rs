//! `config.json` in Hugging Face's names, checked once: ranges, and every field that would change the result and is
//! not implemented is refused by name.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Names the architecture.
    pub model_type: String,
    /// Entries of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary frequencies are changed for long contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// True when the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
}

/// `rope_type` `llama3`: low frequencies are divided by `factor`, those between the two bounds partly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeScaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are left alone.
    pub high_freq_factor: f64,
    /// Context the model was first trained with.
    pub original_max_position_embeddings: f64,
}

/// Reads fields of one JSON object and says which is wrong.
struct Fields<'a> {
    file: &'a str,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn bad(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::BadFile { file: self.file.to_owned(), message: format!("{name} {message}") }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A count from 1 to `max`.
    fn count(&self, name: &str, default: Option<usize>, max: usize) -> Result<usize> {
        let value = match (self.get(name), default) {
            (Some(value), _) => {
                value.as_u64().ok_or_else(|| self.bad(name, format!("is {value}, not a whole number")))?
            }
            (None, Some(default)) => default as u64,
            (None, None) => return Err(self.bad(name, "is missing")),
        };
        if value == 0 || value > max as u64 {
            return Err(self.bad(name, format!("is {value}, allowed is 1 to {max}")));
        }
        Ok(value as usize)
    }

    /// A finite number above 0.
    fn positive(&self, name: &str, default: Option<f64>) -> Result<f64> {
        let value = match (self.get(name), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| self.bad(name, format!("is {value}, not a number")))?,
            (None, Some(default)) => default,
            (None, None) => return Err(self.bad(name, "is missing")),
        };
        if !(value.is_finite() && value > 0.0) {
            return Err(self.bad(name, format!("is {value}, allowed is a number above 0")));
        }
        Ok(value)
    }

    /// A field that must have this value, or be absent.
    fn only(&self, name: &str, allowed: &[Value]) -> Result<()> {
        match self.get(name) {
            Some(value) if !allowed.contains(value) => Err(Error::Unsupported {
                file: self.file.to_owned(),
                field: name.to_owned(),
                message: format!(
                    "it is {value}, supported is {}",
                    allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl Config {
    /// The architecture that the fields of `file` name.
    pub fn model_type<'a>(file: &str, map: &'a Map<String, Value>) -> Result<&'a str> {
        let fields = Fields { file, map };
        match map.get("model_type") {
            Some(Value::String(name)) => Ok(name),
            Some(other) => Err(fields.bad("model_type", format!("is {other}, not a name"))),
            None => Err(fields.bad("model_type", "is missing")),
        }
    }

    /// Checks and takes what the engine needs from the fields of `file`.
    ///
    /// Errors: `BadFile` for a missing, mistyped or impossible field, `Unsupported` for one that is not implemented.
    pub fn parse(file: &str, map: &Map<String, Value>) -> Result<Self> {
        let fields = Fields { file, map };
        let model_type = Self::model_type(file, map)?.to_owned();
        fields.only("hidden_act", &["silu".into()])?;
        fields.only("attention_bias", &[false.into()])?;
        fields.only("mlp_bias", &[false.into()])?;
        fields.only("partial_rotary_factor", &[1.into(), 1.0.into()])?;
        fields.only("quantization_config", &[])?;
        fields.only("sliding_window", &[])?;
        fields.only("layer_types", &[])?;

        let hidden_size = fields.count("hidden_size", None, 1 << 16)?;
        let num_attention_heads = fields.count("num_attention_heads", None, 1 << 10)?;
        let num_key_value_heads = fields.count("num_key_value_heads", Some(num_attention_heads), 1 << 10)?;
        if num_attention_heads % num_key_value_heads != 0 {
            let message =
                format!("is {num_key_value_heads}, which does not divide num_attention_heads {num_attention_heads}");
            return Err(fields.bad("num_key_value_heads", message));
        }
        if fields.get("head_dim").is_none() && hidden_size % num_attention_heads != 0 {
            let message = format!("is {hidden_size}, which num_attention_heads {num_attention_heads} does not divide");
            return Err(fields.bad("hidden_size", message));
        }
        let head_dim = fields.count("head_dim", Some(hidden_size / num_attention_heads), 256)?;
        if head_dim % 2 != 0 {
            return Err(fields.bad("head_dim", format!("is {head_dim}, rotary positions need an even number")));
        }
        let (rope_theta, rope_scaling) = rope(&fields)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1 << 20)?,
            hidden_size,
            intermediate_size: fields.count("intermediate_size", None, 1 << 18)?,
            num_hidden_layers: fields.count("num_hidden_layers", None, 512)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: fields.positive("rms_norm_eps", Some(1e-6))? as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            max_position_embeddings: fields.count("max_position_embeddings", Some(2048), 1 << 24)?,
            model_type,
        })
    }

    /// Rotary frequencies, f32 `[head_dim / 2]`, as transformers' `ROPE_INIT_FUNCTIONS` computes them.
    pub fn inv_freq(&self) -> Vec<f32> {
        let inv_freq = |pair: usize| {
            let exponent = (2 * pair) as f32 / self.head_dim as f32;
            1.0 / self.rope_theta.powf(f64::from(exponent)) as f32
        };
        let scaled = |inv_freq: f32, scaling: RopeScaling| {
            let RopeScaling { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = scaling;
            let inv_freq = f64::from(inv_freq);
            let wavelength = std::f64::consts::TAU / inv_freq;
            let smooth = (original_max_position_embeddings / wavelength - low_freq_factor)
                / (high_freq_factor - low_freq_factor);
            let smooth = smooth.clamp(0.0, 1.0);
            ((1.0 - smooth) * inv_freq / factor + smooth * inv_freq) as f32
        };
        (0..self.head_dim / 2)
            .map(|pair| self.rope_scaling.map_or(inv_freq(pair), |scaling| scaled(inv_freq(pair), scaling)))
            .collect()
    }
}

/// Base and scaling: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.
fn rope(fields: &Fields) -> Result<(f64, Option<RopeScaling>)> {
    let empty = Map::new();
    let nested = fields.get("rope_parameters").or_else(|| fields.get("rope_scaling"));
    let nested = match nested {
        None => &empty,
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.bad("rope_parameters", "is not an object")),
    };
    let nested = Fields { file: fields.file, map: nested };
    let theta = match nested.get("rope_theta") {
        Some(_) => nested.positive("rope_theta", None)?,
        None => fields.positive("rope_theta", Some(10_000.0))?,
    };
    nested.only("partial_rotary_factor", &[1.into(), 1.0.into()])?;
    let kind = nested.get("rope_type").or_else(|| nested.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => Ok((theta, None)),
        "llama3" => {
            let scaling = RopeScaling {
                factor: nested.positive("factor", None)?,
                low_freq_factor: nested.positive("low_freq_factor", None)?,
                high_freq_factor: nested.positive("high_freq_factor", None)?,
                original_max_position_embeddings: nested.positive("original_max_position_embeddings", None)?,
            };
            if scaling.high_freq_factor <= scaling.low_freq_factor {
                return Err(nested.bad("high_freq_factor", "must be above low_freq_factor"));
            }
            Ok((theta, Some(scaling)))
        }
        other => Err(Error::Unsupported {
            file: fields.file.to_owned(),
            field: "rope_type".into(),
            message: format!("it is '{other}', supported is 'default' or 'llama3'"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: Value) -> Result<Config> {
        let mut map = serde_json::json!({
            "model_type": "llama", "vocab_size": 311, "hidden_size": 72, "intermediate_size": 200,
            "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
        });
        map.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Config::parse("config.json", map.as_object().unwrap())
    }

    #[test]
    fn defaults_are_transformers_own() {
        let config = parse(serde_json::json!({})).unwrap();
        assert_eq!((config.head_dim, config.rms_norm_eps, config.rope_theta), (12, 1e-6, 10_000.0));
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (field, value) in [
            ("hidden_act", serde_json::json!("gelu")),
            ("attention_bias", true.into()),
            ("mlp_bias", true.into()),
            ("sliding_window", 4096.into()),
            ("quantization_config", serde_json::json!({"bits": 4})),
            ("partial_rotary_factor", 0.5.into()),
        ] {
            match parse(serde_json::json!({ field: value })) {
                Err(Error::Unsupported { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        let scaled = serde_json::json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}});
        assert!(matches!(parse(scaled), Err(Error::Unsupported { field, .. }) if field == "rope_type"));
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        for (field, value) in [
            ("hidden_size", serde_json::json!(0)),
            ("hidden_size", serde_json::json!(71)),
            ("num_attention_heads", serde_json::json!("six")),
            ("num_key_value_heads", serde_json::json!(4)),
            ("num_hidden_layers", serde_json::json!(1_000_000_000)),
            ("vocab_size", serde_json::json!(-1)),
            ("head_dim", serde_json::json!(7)),
            ("rms_norm_eps", serde_json::json!(0.0)),
            ("rope_theta", serde_json::json!(-1.0)),
            ("model_type", serde_json::json!(3)),
        ] {
            match parse(serde_json::json!({ field: value })) {
                Err(Error::BadFile { message, .. }) => assert!(message.starts_with(field), "{field}: {message}"),
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}
