//! A text of any length as consecutive examples, as continued pretraining wants it: nothing of it is left out.

use super::examples::{Token, Written};
use crate::Result;
use crate::io::Tokenizer;

/// Bytes that are tokenized at once.
const SECTION_BYTES: usize = 64 << 10;

/// Calls `take` for each example of `text`: as many tokens as fit in `max_length`, one example after the other. Each
/// begins with the beginning-of-text token where the tokenizer wants one, and the last ends with the end-of-text token.
///
/// Long texts are tokenized in sections of at most 64 KiB, each to the end of a paragraph, line or word.
pub(super) fn windows(
    text: &str,
    tokenizer: &Tokenizer,
    max_length: usize,
    take: &mut dyn FnMut(Written),
) -> Result<()> {
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos);
    let named = |id| (id, tokenizer.token(id).unwrap_or_default());
    let mut written = Written::empty();
    let mut push = |written: &mut Written, (id, text): (u32, &str)| {
        if written.tokens.len() >= max_length {
            take(std::mem::replace(written, Written::empty()));
        }
        if let Some(bos) = bos.filter(|_| written.tokens.is_empty() && max_length > 1) {
            let (id, text) = named(bos);
            written.push(id, &text, false);
        }
        let learned = !written.tokens.is_empty();
        written.push(id, text, learned);
    };
    let mut rest = text;
    let mut last = None;
    while !rest.is_empty() {
        let (section, after) = rest.split_at(section_end(rest));
        let mut covered = 0;
        for (id, bytes) in tokenizer.encode_with_offsets(section)? {
            // Tokens that share a character each have all of its bytes.
            let end = bytes.end.max(covered);
            push(&mut written, (id, &section[covered..end]));
            (covered, last) = (end, Some(id));
        }
        rest = after;
    }
    if let Some(eos) = tokenizer.eos().filter(|&eos| last != Some(eos)) {
        let (id, text) = named(eos);
        push(&mut written, (id, &text));
    }
    take(written);
    Ok(())
}

/// At most `SECTION_BYTES`, up to where the text may best be cut.
fn section_end(text: &str) -> usize {
    if text.len() <= SECTION_BYTES {
        return text.len();
    }
    let head = &text[..text.floor_char_boundary(SECTION_BYTES)];
    // Before the white space, as tokens begin with it.
    let ends = [head.rfind("\n\n"), head.rfind('\n'), head.rfind(' ')];
    ends.into_iter().flatten().find(|&end| end > 0).unwrap_or(head.len())
}

impl Written {
    fn empty() -> Self {
        Self { text: String::new(), tokens: vec![], truncated: false }
    }

    fn push(&mut self, id: u32, text: &str, supervised: bool) {
        let from = self.text.len();
        self.text.push_str(text);
        self.tokens.push(Token { id, bytes: from..self.text.len(), supervised });
    }
}
