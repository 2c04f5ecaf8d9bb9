//! A file of examples, ready to train on, and what to show of it.

use serde::Serialize;

use super::examples::Written;
use super::read::{Read, read};
use super::record::add_error;
use super::windows::windows;
use super::{DataFile, DataMapping, Example, Format, LineError, Pair, Record, Shape, pair, split};
use crate::io::{ChatTemplate, Tokenizer};
use crate::{Error, Result};

/// Examples shown before training.
const PREVIEWS: usize = 5;
/// Bars that a picture of the lengths has at most.
const BINS: usize = 24;

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
    /// Held out, where there are pairs.
    pub eval_pairs: Vec<Pair>,
    /// In the order of the file.
    pub errors: Vec<LineError>,
    /// In the order in which they were given; not those of `eval`.
    pub files: Vec<FileReport>,
    /// The first examples as the model sees them.
    preview: Vec<Preview>,
}

impl Dataset {
    /// Reads a file and tokenizes its records, each cut at `max_length` tokens; texts are not cut but go on in the next
    /// example.
    ///
    /// A line that cannot be used is an entry of `errors`. Errs when no example is left.
    pub fn new(
        file: &str,
        bytes: &[u8],
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        max_length: usize,
    ) -> Result<Self> {
        Self::read(DataFile { name: file, bytes, format: None }, None, tokenizer, template, max_length)
    }

    /// [`Dataset::new`] of a file in a given format, whose columns are what `mapping` says.
    pub fn read(
        file: DataFile,
        mapping: Option<&DataMapping>,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        max_length: usize,
    ) -> Result<Self> {
        let Read { records, mut errors, format, shape } = read(file, mapping, template.is_some())?;
        let file = file.name;
        let (mut examples, mut preview) = (Vec::new(), Vec::new());
        let mut pairs = Vec::new();
        let preference = matches!(records.first(), Some((_, Record::Preference { .. })));
        let shown = |line, written: &Written| {
            let piece = |(text, supervised): (&str, bool)| Piece { text: text.to_owned(), supervised };
            Preview { file: file.to_owned(), line, pieces: written.pieces().map(piece).collect() }
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
            let mut take = |written: Written| {
                let example = written.example();
                let learned = example.supervised_tokens() > 0;
                if learned {
                    examples.push(Example { line, ..example });
                    if preview.len() < PREVIEWS {
                        preview.push(shown(line, &written));
                    }
                }
                (learned, written.truncated)
            };
            let taken = match &record {
                Record::Text(text) => {
                    let mut any = false;
                    windows(text, tokenizer, max_length, &mut |written| any |= take(written).0).map(|()| (any, false))
                }
                record => Written::new(record, tokenizer, template, max_length).map(take),
            };
            match taken {
                Ok((true, _)) => {}
                Ok((false, true)) => {
                    let message = format!("nothing to learn is left of it within {max_length} tokens");
                    add_error(&mut errors, line, message);
                }
                Ok(_) => add_error(&mut errors, line, "there is nothing to learn in it: no answer".to_owned()),
                Err(Error::BadData { message, .. }) => add_error(&mut errors, line, message),
                Err(error) => add_error(&mut errors, line, error.to_string()),
            }
        }
        errors.sort_by_key(|error| error.line);
        errors.iter_mut().for_each(|error| error.file = file.to_owned());
        match errors.first() {
            Some(first) if examples.is_empty() && pairs.is_empty() => Err(Error::BadData {
                file: file.to_owned(),
                line: Some(first.line),
                message: format!("no example can be used: {}", first.message),
            }),
            _ => {
                let n = examples.len() + pairs.len();
                let files = vec![FileReport { file: file.to_owned(), format, shape, examples: n }];
                let (eval, eval_pairs) = (vec![], vec![]);
                Ok(Self { file: file.to_owned(), examples, eval, pairs, eval_pairs, errors, files, preview })
            }
        }
    }

    /// The examples of another file behind these.
    ///
    /// Errs when one has pairs and the other has none.
    pub fn append(&mut self, mut other: Self) -> Result<()> {
        if self.pairs.is_empty() != other.pairs.is_empty() {
            let message = "of these files, some have preference pairs and some have other examples: take one kind";
            return Err(Error::BadData { file: other.file, line: None, message: message.to_owned() });
        }
        self.pairs.append(&mut other.pairs);
        self.examples.append(&mut other.examples);
        self.errors.append(&mut other.errors);
        self.files.append(&mut other.files);
        let room = PREVIEWS.saturating_sub(self.preview.len());
        self.preview.extend(other.preview.into_iter().take(room));
        Ok(())
    }

    /// Holds `share` of the distinct examples (or pairs) out, at least one and never all; copies of one are held out with
    /// it. Which these are depends on `seed` and on what the examples are, not on their order.
    pub fn hold_out(&mut self, share: f64, seed: u64) {
        (self.examples, self.eval) = split::hold_out(std::mem::take(&mut self.examples), share, seed);
        (self.pairs, self.eval_pairs) = split::hold_out(std::mem::take(&mut self.pairs), share, seed);
    }

    /// Takes the examples of `other` to evaluate on, but for those that are trained on: of these, each is an entry of
    /// `errors`.
    ///
    /// Errs when one has pairs and the other has none.
    pub fn evaluate_on(&mut self, other: Self) -> Result<()> {
        if self.pairs.is_empty() != other.pairs.is_empty() {
            let message = "the examples to train on and those to evaluate on are of two kinds: take preference pairs for both, \
                           or for neither";
            return Err(Error::BadData { file: other.file, line: None, message: message.to_owned() });
        }
        let (trained, trained_pairs) = (split::Distinct::new(&self.examples), split::distinct_pairs(&self.pairs));
        let (seen, eval) = other.examples.into_iter().partition(|example| trained.contains(example));
        let (seen_pairs, eval_pairs): (Vec<Pair>, _) =
            other.pairs.into_iter().partition(|pair| trained_pairs.contains(&split::pair_ids(pair)));
        let seen: Vec<Example> = seen;
        self.errors.extend(other.errors);
        for line in seen.iter().map(|example| example.line).chain(seen_pairs.iter().map(|pair| pair.chosen.line)) {
            let message = "it is also trained on, so that it is left out of the evaluation".to_owned();
            self.errors.push(LineError { file: other.file.clone(), line, message });
        }
        (self.eval, self.eval_pairs) = (eval, eval_pairs);
        Ok(())
    }

    /// Examples, or pairs, to train on.
    pub fn n_examples(&self) -> usize {
        self.examples.len() + self.pairs.len()
    }

    /// Examples, or pairs, to evaluate on.
    pub fn n_eval(&self) -> usize {
        self.eval.len() + self.eval_pairs.len()
    }

    /// All that the model is trained on: the examples, and both answers of each pair.
    pub fn sequences(&self) -> impl Iterator<Item = &Example> {
        self.examples.iter().chain(self.pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]))
    }

    /// The same of what is held out.
    pub fn eval_sequences(&self) -> impl Iterator<Item = &Example> {
        self.eval.iter().chain(self.eval_pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]))
    }

    /// What a person wants to see of it before training.
    pub fn report(&self) -> DatasetReport {
        DatasetReport {
            file: self.file.clone(),
            eval_examples: self.n_eval(),
            examples: self.n_examples(),
            preference_pairs: self.pairs.len(),
            tokens: self.sequences().map(|example| example.ids.len()).sum(),
            supervised_tokens: self.sequences().map(Example::supervised_tokens).sum(),
            truncated: self.examples.iter().filter(|example| example.truncated).count()
                + self.pairs.iter().filter(|pair| pair.truncated()).count(),
            longest: self.sequences().map(|example| example.ids.len()).max().unwrap_or(0),
            eval_tokens: self.eval_sequences().map(|example| example.ids.len()).sum(),
            duplicates: self.n_examples()
                - split::Distinct::new(&self.examples).len()
                - split::distinct_pairs(&self.pairs).len(),
            histogram: histogram(self.sequences()),
            format: self.files[0].format,
            shape: self.files[0].shape,
            files: self.files.clone(),
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
    /// Their tokens.
    pub eval_tokens: usize,
    /// Examples that are the same as an earlier one.
    pub duplicates: usize,
    /// How many examples are how long.
    pub histogram: Vec<Bin>,
    /// Of the first file.
    pub format: Format,
    /// Of the first file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Each file that there are examples of.
    pub files: Vec<FileReport>,
    /// Lines that are not used.
    pub errors: Vec<LineError>,
    /// The first examples as the model sees them; of a pair, the chosen answer and then the rejected one.
    pub preview: Vec<Preview>,
}

/// What a file was read as.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// The file's name.
    pub file: String,
    /// How it holds its rows.
    pub format: Format,
    /// What its first rows are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Usable examples in it.
    pub examples: usize,
}

/// Examples of `from` to `to` tokens, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// Shortest.
    pub from: usize,
    /// Longest.
    pub to: usize,
    /// How many.
    pub count: usize,
}

/// At most `BINS` of equal width, which is 1, 2 or 5 times a power of ten, from 1 token to the longest example.
fn histogram<'a>(examples: impl Iterator<Item = &'a Example>) -> Vec<Bin> {
    let lengths: Vec<usize> = examples.map(|example| example.ids.len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10usize.pow(power)));
    let width = widths.into_iter().find(|width| longest.div_ceil(*width) <= BINS).unwrap_or(usize::MAX);
    let bin = |i: usize| Bin { from: i * width + 1, to: (i + 1) * width, count: 0 };
    let mut bins: Vec<Bin> = (0..longest.div_ceil(width)).map(bin).collect();
    for length in lengths {
        bins[(length - 1) / width].count += 1;
    }
    bins
}

/// One example as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preview {
    /// The file's name.
    pub file: String,
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
