//! A file of examples, ready to train on, and what to show of it.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::examples::Written;
use super::record::add_error;
use super::{Example, LineError, Pair, Record, pair, parse_jsonl};
use crate::io::{ChatTemplate, Tokenizer};
use crate::{Error, Result};

/// Examples shown before training.
const PREVIEWS: usize = 5;

/// The usable examples of a file, and the errors of the others.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The file's name.
    pub file: String,
    /// In the order of the file.
    pub examples: Vec<Example>,
    /// Held out: not trained on, but evaluated.
    pub eval: Vec<Example>,
    /// In the order of the file, which has either pairs or examples.
    pub pairs: Vec<Pair>,
    /// In the order of the file.
    pub errors: Vec<LineError>,
    /// The first examples as the model sees them.
    preview: Vec<Preview>,
}

impl Dataset {
    /// Reads a JSONL file and tokenizes its records, each cut at `max_length` tokens.
    ///
    /// A line that cannot be used is an entry of `errors`. Errs when no example is left.
    pub fn new(
        file: &str,
        bytes: &[u8],
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        max_length: usize,
    ) -> Result<Self> {
        let (records, mut errors) = parse_jsonl(file, bytes)?;
        let (mut examples, mut preview) = (Vec::new(), Vec::new());
        let mut pairs = Vec::new();
        let preference = matches!(records.first(), Some((_, Record::Preference { .. })));
        let shown = |line, written: &Written| {
            let piece = |(text, supervised): (&str, bool)| Piece { text: text.to_owned(), supervised };
            Preview { line, pieces: written.pieces().map(piece).collect() }
        };
        for (line, record) in records {
            if matches!(record, Record::Preference { .. }) != preference {
                add_error(&mut errors, line, pair::MIXED[usize::from(preference)].to_owned());
                continue;
            }
            if let Record::Preference { chosen, rejected } = &record {
                match pair::write(chosen, rejected, tokenizer, template, max_length) {
                    Ok(written) => {
                        let [chosen, rejected] = [0, 1].map(|i| Example { line, ..written[i].example() });
                        if pairs.len() < PREVIEWS {
                            preview.extend(written.iter().map(|written| shown(line, written)));
                        }
                        pairs.push(Pair { chosen, rejected });
                    }
                    Err(Error::BadData { message, .. }) => add_error(&mut errors, line, message),
                    Err(error) => add_error(&mut errors, line, error.to_string()),
                }
                continue;
            }
            let written = Written::new(&record, tokenizer, template, max_length);
            match written.map(|written| (written.example(), written)) {
                Ok((example, written)) if example.supervised_tokens() > 0 => {
                    examples.push(Example { line, ..example });
                    if preview.len() < PREVIEWS {
                        preview.push(shown(line, &written));
                    }
                }
                Ok((example, _)) if example.truncated => {
                    let message = format!("nothing to learn is left of it within {max_length} tokens");
                    add_error(&mut errors, line, message);
                }
                Ok(_) => add_error(&mut errors, line, "there is nothing to learn in it: no answer".to_owned()),
                Err(Error::BadData { message, .. }) => add_error(&mut errors, line, message),
                Err(error) => add_error(&mut errors, line, error.to_string()),
            }
        }
        errors.sort_by_key(|error| error.line);
        match errors.first() {
            Some(first) if examples.is_empty() && pairs.is_empty() => Err(Error::BadData {
                file: file.to_owned(),
                line: Some(first.line),
                message: format!("no example can be used: {}", first.message),
            }),
            _ => Ok(Self { file: file.to_owned(), examples, pairs, eval: vec![], errors, preview }),
        }
    }

    /// Holds `share` of the examples out, those that a shuffle by `seed` puts first: at least one, and never all.
    pub fn hold_out(&mut self, share: f64, seed: u64) {
        let n = self.examples.len();
        let n_eval = ((n as f64 * share).round() as usize).max(1).min(n.saturating_sub(1));
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let held_out: BTreeSet<usize> = order.into_iter().take(n_eval).collect();
        let examples = std::mem::take(&mut self.examples).into_iter().enumerate();
        let (eval, train): (Vec<_>, Vec<_>) = examples.partition(|(at, _)| held_out.contains(at));
        let list = |pairs: Vec<(usize, Example)>| pairs.into_iter().map(|(_, example)| example).collect();
        (self.examples, self.eval) = (list(train), list(eval));
    }

    /// Examples, or pairs, to train on.
    pub fn n_examples(&self) -> usize {
        self.examples.len() + self.pairs.len()
    }

    /// All that the model reads: the examples, and both answers of each pair.
    pub fn sequences(&self) -> impl Iterator<Item = &Example> {
        self.examples.iter().chain(self.pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]))
    }

    /// What a person wants to see of it before training.
    pub fn report(&self) -> DatasetReport {
        DatasetReport {
            file: self.file.clone(),
            eval_examples: self.eval.len(),
            examples: self.n_examples(),
            preference_pairs: self.pairs.len(),
            tokens: self.sequences().map(|example| example.ids.len()).sum(),
            supervised_tokens: self.sequences().map(Example::supervised_tokens).sum(),
            truncated: self.examples.iter().filter(|example| example.truncated).count()
                + self.pairs.iter().filter(|pair| pair.truncated()).count(),
            longest: self.sequences().map(|example| example.ids.len()).max().unwrap_or(0),
            errors: self.errors.clone(),
            preview: self.preview.clone(),
        }
    }
}

/// Counts, errors and the first examples.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetReport {
    /// The file's name.
    pub file: String,
    /// Usable examples; a preference pair is one.
    pub examples: usize,
    /// Those that are preference pairs: all or none.
    pub preference_pairs: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Their tokens that are learned.
    pub supervised_tokens: usize,
    /// Examples that were cut.
    pub truncated: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Examples held out, which are in no other number here.
    pub eval_examples: usize,
    /// Lines that are not used.
    pub errors: Vec<LineError>,
    /// The first examples as the model sees them; of a pair, the chosen answer and then the rejected one.
    pub preview: Vec<Preview>,
}

/// One example as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preview {
    /// 1-based line of the file.
    pub line: usize,
    /// Its text in order, cut where learning begins and ends.
    pub pieces: Vec<Piece>,
}

/// A stretch of text that is learned, or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Piece {
    /// The text, special tokens included.
    pub text: String,
    /// Whether it is learned.
    pub supervised: bool,
}
