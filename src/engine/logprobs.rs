//! Token probabilities as a person reads them.

use super::{TokenLogprob, TokenLogprobs};
use crate::Result;
use crate::generate::Logprobs;
use crate::io::Tokenizer;

/// The tokens of an answer as they come.
pub(super) struct Told<'a> {
    tokenizer: &'a Tokenizer,
    /// The token before the next one: some decoders drop the space before the first token they see.
    last: Option<u32>,
    pub(super) tokens: Vec<TokenLogprobs>,
}

impl<'a> Told<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        Self { tokenizer, last: prompt.last().copied(), tokens: vec![] }
    }

    pub(super) fn push(&mut self, id: u32, logprobs: &Logprobs) -> Result<()> {
        let token = |(id, logprob): (u32, f64)| Ok(TokenLogprob { text: self.text(id)?, logprob });
        let top = logprobs.top.iter().copied().map(token).collect::<Result<_>>()?;
        self.tokens.push(TokenLogprobs { token: token((id, logprobs.logprob))?, top });
        self.last = Some(id);
        Ok(())
    }

    /// What `id` adds to the text.
    fn text(&self, id: u32) -> Result<String> {
        let before: Vec<u32> = self.last.into_iter().collect();
        let text = self.tokenizer.decode(&[before.as_slice(), &[id]].concat(), false)?;
        match text.strip_prefix(&self.tokenizer.decode(&before, false)?) {
            Some(rest) => Ok(rest.to_owned()),
            // Both are parts of one character.
            None => self.tokenizer.decode(&[id], false),
        }
    }
}
