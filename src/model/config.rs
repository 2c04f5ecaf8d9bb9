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
    /// True when the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
}

/// Defaults of transformers that are not the same for all architectures.
pub(super) struct Defaults {
    /// None for `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) tie_word_embeddings: bool,
    pub(super) max_position_embeddings: usize,
}

/// Rotary frequencies: their base and how they are changed for long contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// None for `rope_type` `default`.
    pub scaling: Option<RopeScaling>,
}

/// A `rope_type` besides `default`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// `linear`: all frequencies are divided by the factor.
    Linear {
        /// Divisor of the frequencies.
        factor: f64,
    },
    /// `llama3`: low frequencies are divided by `factor`, those between the two bounds partly.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are left alone.
        high_freq_factor: f64,
        /// Context the model was first trained with.
        original_max_position_embeddings: f64,
    },
}

/// Reads fields of one JSON object and says which is wrong.
pub(super) struct Fields<'a> {
    /// Named in errors.
    pub(super) file: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl Fields<'_> {
    pub(super) fn bad(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::BadFile { file: self.file.to_owned(), message: format!("{name} {message}") }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A count from 1 to `max`.
    pub(super) fn count(&self, name: &str, default: Option<usize>, max: usize) -> Result<usize> {
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

    /// A count from 1 to `max`, or nothing.
    pub(super) fn count_or_none(&self, name: &str, max: usize) -> Result<Option<usize>> {
        self.get(name).map(|_| self.count(name, None, max)).transpose()
    }

    /// Whether each layer has a sliding window, where `layer_types` says so.
    pub(super) fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get("layer_types") else { return Ok(None) };
        let list = value.as_array().filter(|list| list.len() == n_layers);
        let list = list.ok_or_else(|| self.bad("layer_types", format!("is not a list of {n_layers} names")))?;
        let kind = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let message = format!("it has {value}, supported is 'full_attention' or 'sliding_attention'");
                Err(self.unsupported("layer_types", message))
            }
        };
        Ok(Some(list.iter().map(kind).collect::<Result<_>>()?))
    }

    /// A number above 0, in f32 too.
    pub(super) fn positive(&self, name: &str, default: Option<f64>) -> Result<f64> {
        let value = match (self.get(name), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| self.bad(name, format!("is {value}, not a number")))?,
            (None, Some(default)) => default,
            (None, None) => return Err(self.bad(name, "is missing")),
        };
        if !(value > 0.0 && (value as f32).is_normal()) {
            return Err(self.bad(name, format!("is {value}, allowed is a number above 0 that f32 has")));
        }
        Ok(value)
    }

    /// A number from `least` to `most`.
    fn between(&self, name: &str, default: Option<f64>, least: f64, most: f64) -> Result<f64> {
        match self.positive(name, default)? {
            value if (least..=most).contains(&value) => Ok(value),
            value => Err(self.bad(name, format!("is {value}, allowed is {least} to {most}"))),
        }
    }

    /// A base of rotary frequencies: these and their angles stay finite in f32.
    pub(super) fn rope_theta(&self, name: &str, default: f64) -> Result<f64> {
        self.between(name, Some(default), 1.0, 1e12)
    }

    /// True or false.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.bad(name, format!("is {value}, not true or false"))),
        }
    }

    /// The error that a field has a value that is not implemented.
    pub(super) fn unsupported(&self, name: &str, message: String) -> Error {
        Error::Unsupported { file: self.file.to_owned(), field: name.to_owned(), message }
    }

    /// Fields of the object `name`; none where it is absent.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'_>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { file: self.file, map })),
            Some(_) => Err(self.bad(name, "is not an object")),
        }
    }

    /// A field that must have one of these values, or be absent.
    pub(super) fn only(&self, name: &str, allowed: &[Value]) -> Result<()> {
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

    /// True where transformers keeps the weights of linears as `[in, out]`, which peft wants to be told of an adapter.
    pub fn fan_in_fan_out(&self) -> bool {
        self.model_type == "gpt2"
    }

    /// The sizes, under the names that most architectures have for them.
    ///
    /// Errors: `BadFile` for a missing, mistyped or impossible field, `Unsupported` for one that is not implemented.
    pub(super) fn parse(fields: &Fields, defaults: Defaults) -> Result<Self> {
        fields.only("quantization_config", &[])?;
        let hidden_size = fields.count("hidden_size", None, 1 << 16)?;
        let num_attention_heads = fields.count("num_attention_heads", None, 1 << 10)?;
        let head_dim = match (fields.get("head_dim"), defaults.head_dim) {
            (None, None) => None,
            (_, default) => Some(fields.count("head_dim", default, 256)?),
        };
        let config = Self {
            model_type: Self::model_type(fields.file, fields.map)?.to_owned(),
            vocab_size: fields.count("vocab_size", None, 1 << 20)?,
            hidden_size,
            intermediate_size: fields.count("intermediate_size", None, 1 << 18)?,
            num_hidden_layers: fields.count("num_hidden_layers", None, 512)?,
            num_attention_heads,
            num_key_value_heads: fields.count("num_key_value_heads", Some(num_attention_heads), 1 << 10)?,
            head_dim: head_dim.unwrap_or(hidden_size / num_attention_heads),
            tie_word_embeddings: fields.flag("tie_word_embeddings", defaults.tie_word_embeddings)?,
            max_position_embeddings: fields.count(
                "max_position_embeddings",
                Some(defaults.max_position_embeddings),
                1 << 24,
            )?,
        };
        if head_dim.is_none() {
            config.check_divides(fields, "hidden_size", "num_attention_heads")?;
        }
        config.check_heads(fields)?;
        Ok(config)
    }

    /// Refuses heads that do not divide the width; the names are those of the two fields.
    pub(super) fn check_divides(&self, fields: &Fields, width: &str, heads: &str) -> Result<()> {
        if self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Ok(());
        }
        let (size, n) = (self.hidden_size, self.num_attention_heads);
        Err(fields.bad(width, format!("is {size}, which {heads} {n} does not divide")))
    }

    /// Refuses heads that no kernel can do.
    pub(super) fn check_heads(&self, fields: &Fields) -> Result<()> {
        let (heads, kv_heads, head_dim) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        if heads % kv_heads != 0 {
            let message = format!("is {kv_heads}, which does not divide num_attention_heads {heads}");
            return Err(fields.bad("num_key_value_heads", message));
        }
        if !(1..=256).contains(&head_dim) {
            return Err(fields.bad("head_dim", format!("is {head_dim}, allowed is 1 to 256")));
        }
        if head_dim % 2 != 0 {
            return Err(fields.bad("head_dim", format!("is {head_dim}, rotary positions need an even number")));
        }
        Ok(())
    }
}

impl Rotary {
    /// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.
    pub(super) fn parse(fields: &Fields) -> Result<Self> {
        let nested = match fields.object("rope_parameters")? {
            None => fields.object("rope_scaling")?,
            some => some,
        };
        let theta = || fields.rope_theta("rope_theta", 10_000.0);
        match nested {
            None => Ok(Self { rope_theta: theta()?, scaling: None }),
            Some(nested) if nested.get("rope_theta").is_some() => Self::parse_nested(&nested, 10_000.0),
            Some(nested) => Self::parse_nested(&nested, theta()?),
        }
    }

    /// The fields of one `rope_parameters` or `rope_scaling`.
    pub(super) fn parse_nested(nested: &Fields, default_theta: f64) -> Result<Self> {
        let rope_theta = nested.rope_theta("rope_theta", default_theta)?;
        let factor = || nested.between("factor", None, 1e-3, 1e6);
        nested.only("partial_rotary_factor", &[1.into(), 1.0.into()])?;
        let kind = nested.get("rope_type").or_else(|| nested.get("type")).and_then(Value::as_str).unwrap_or("default");
        let scaling = match kind {
            "default" => None,
            "linear" => Some(RopeScaling::Linear { factor: factor()? }),
            "llama3" => {
                let low_freq_factor = nested.positive("low_freq_factor", None)?;
                let high_freq_factor = nested.positive("high_freq_factor", None)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(nested.bad("high_freq_factor", "must be above low_freq_factor"));
                }
                Some(RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: nested.positive("original_max_position_embeddings", None)?,
                })
            }
            other => {
                let message = format!("it is '{other}', supported is 'default', 'linear' or 'llama3'");
                return Err(nested.unsupported("rope_type", message));
            }
        };
        Ok(Self { rope_theta, scaling })
    }

    /// Frequencies, f32 `[head_dim / 2]`, as transformers' `ROPE_INIT_FUNCTIONS` computes them.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let inv_freq = |pair: usize| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            1.0 / self.rope_theta.powf(f64::from(exponent)) as f32
        };
        let scaled = |inv_freq: f32| match self.scaling {
            None => inv_freq,
            Some(RopeScaling::Linear { factor }) => inv_freq / factor as f32,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => {
                let inv_freq = f64::from(inv_freq);
                let wavelength = std::f64::consts::TAU / inv_freq;
                let smooth = (original_max_position_embeddings / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                ((1.0 - smooth) * inv_freq / factor + smooth * inv_freq) as f32
            }
        };
        (0..head_dim / 2).map(|pair| scaled(inv_freq(pair))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Recipe, recipe};

    fn parse(change: Value) -> Result<Recipe> {
        let mut map = serde_json::json!({
            "model_type": "llama", "vocab_size": 311, "hidden_size": 72, "intermediate_size": 200,
            "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
        });
        map.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        recipe("config.json", map.as_object().unwrap())
    }

    #[test]
    fn defaults_are_transformers_own() {
        let llama = parse(serde_json::json!({})).unwrap();
        assert_eq!((llama.config.head_dim, llama.norm_eps, llama.rotary[0].rope_theta), (12, 1e-6, 10_000.0));
        assert!(!llama.config.tie_word_embeddings);
        let qwen3 = parse(serde_json::json!({"model_type": "qwen3"})).unwrap();
        assert_eq!(qwen3.config.head_dim, 128);
        let windows = |change: Value| -> Vec<Option<usize>> {
            parse(change).unwrap().layers.iter().map(|layer| layer.sliding_window).collect()
        };
        assert_eq!(windows(serde_json::json!({"model_type": "mistral"})), [Some(4096); 3]);
        assert_eq!(windows(serde_json::json!({"model_type": "mistral", "sliding_window": null})), [None; 3]);
        let gemma = serde_json::json!({"model_type": "gemma3_text", "sliding_window_pattern": 2, "sliding_window": 8});
        assert_eq!(windows(gemma), [Some(8), None, Some(8)]);
        let qwen2 = serde_json::json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8,
            "max_window_layers": 1});
        assert_eq!(windows(qwen2), [None, Some(8), Some(8)]);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (field, value) in [
            ("hidden_act", serde_json::json!("gelu")),
            ("layer_types", serde_json::json!(["full_attention", "linear_attention", "full_attention"])),
            ("model_type", "mamba".into()),
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
            ("rms_norm_eps", serde_json::json!(1e-300)),
            ("rms_norm_eps", serde_json::json!(1e300)),
            ("rms_norm_eps", serde_json::json!("NaN")),
            ("rope_theta", serde_json::json!(1e-30)),
            ("rope_theta", serde_json::json!(1e30)),
            ("num_attention_heads", serde_json::json!(0)),
            ("num_attention_heads", serde_json::json!(1e9)),
            ("num_hidden_layers", serde_json::json!(2.5)),
            ("intermediate_size", serde_json::json!(9_223_372_036_854_775_807i64)),
            ("vocab_size", serde_json::json!(18_446_744_073_709_551_615u64)),
            ("max_position_embeddings", serde_json::json!(0)),
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
