//! Chat templates: Jinja as transformers renders it, within limits.

mod meter;
mod metered;

use std::collections::BTreeMap;
use std::{io, ops::Range};

use minijinja::machinery::{CodeGenerator, Instructions, Vm, WhitespaceConfig, make_string_output};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value, context};
use self_cell::self_cell;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::{Error, Result};
use meter::{BUDGET_NAME, Budget, Paid};

/// Longest template read; the longest in use have 30 kB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Instructions per rendering, a tenth of a second's. A message costs some hundred, so this is thousands of them.
const FUEL: u64 = 500_000;
/// Depth of macro calls; a tab's stack is small.
const MAX_DEPTH: usize = 64;

/// Around what a generation block writes, where the blocks are asked for: characters that no text has.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What else the template may ask for: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub more: Map<String, serde_json::Value>,
}

impl Message {
    /// A turn with nothing but a role and what is said.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned(), more: Map::new() }
    }
}

/// What a template compiles to, as minijinja has it: the body, and the named blocks.
type Code<'a> = (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>);

self_cell!(
    /// A template's source and what it compiles to.
    struct Compiled {
        owner: String,

        #[covariant]
        dependent: Code,
    }
);

/// What the template is called, in it and in minijinja's errors.
const NAME: &str = "chat_template";

/// As `transformers.utils.chat_template_utils` sets Jinja up.
const WHITE_SPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

fn compile(source: String) -> Result<Compiled, minijinja::Error> {
    Compiled::try_new(source, |source| {
        let mut code = CodeGenerator::new(NAME, source);
        code.compile_stmt(&metered::metered(NAME, source, WHITE_SPACE)?);
        Ok(code.finish())
    })
}

/// A model's way of writing a conversation as one text.
pub struct ChatTemplate {
    /// Where it comes from, for errors.
    file: String,
    environment: Environment<'static>,
    code: Compiled,
    bos_token: String,
    eos_token: String,
    marks_answers: bool,
}

impl ChatTemplate {
    /// Compiles `source`, which came from `file`.
    pub fn new(file: &str, source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let bad = |message: String| bad(file, message);
        if source.len() > MAX_SOURCE_BYTES {
            return Err(bad(format!("has {} bytes, at most {MAX_SOURCE_BYTES} are read", source.len())));
        }
        let (source, marks_answers) = with_generation_filters(source);
        Ok(Self {
            file: file.to_owned(),
            environment: environment(),
            code: compile(source).map_err(|error| bad(format!("cannot be read: {}", explain(&error))))?,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
            marks_answers,
        })
    }

    /// The conversation as text; with `add_generation_prompt`, up to where the model's answer begins.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with_tools(messages, &[], add_generation_prompt)
    }

    /// As [`Self::render`], with the JSON descriptions of the functions that the model may call.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.write(messages, tools, add_generation_prompt, false)
    }

    /// Where in `text`, the conversation as rendered, the template's own generation blocks wrote; none without such
    /// blocks. Errs where the template treats what they write as more than text to write.
    pub fn answers(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        text: &str,
    ) -> Result<Option<Vec<Range<usize>>>> {
        if !self.marks_answers {
            return Ok(None);
        }
        let marked = self.write(messages, tools, false, true)?;
        let (mut plain, mut answers, mut open) = (String::with_capacity(text.len()), Vec::new(), None);
        for char in marked.chars() {
            match (char, open) {
                (OPEN, None) => open = Some(plain.len()),
                (CLOSE, Some(from)) => {
                    answers.push(from..plain.len());
                    open = None;
                }
                _ => plain.push(char),
            }
        }
        if plain != text || open.is_some() {
            return Err(self.bad("does not write the same text when its generation blocks are marked".to_owned()));
        }
        Ok(Some(answers))
    }

    fn write(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
        mark_answers: bool,
    ) -> Result<String> {
        let failed = |error: minijinja::Error| self.bad(format!("fails: {}", explain(&error)));
        let values = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            tools => (!tools.is_empty()).then_some(tools),
            documents => Value::from(()),
            mark_answers => mark_answers,
        };
        let budget = Value::from_object(Budget::new(size_bytes(messages) + size_bytes(tools)));
        let values = context! { ..Value::from_iter([(BUDGET_NAME, budget)]), ..values };
        let mut text = String::new();
        let (instructions, blocks) = self.code.borrow_dependent();
        let vm = Vm::new(&self.environment);
        vm.eval(instructions, values, blocks, &mut make_string_output(&mut text), AutoEscape::None).map_err(failed)?;
        Ok(text)
    }

    fn bad(&self, message: String) -> Error {
        bad(&self.file, message)
    }
}

fn bad(file: &str, message: String) -> Error {
    Error::BadFile { file: file.to_owned(), message: format!("its chat template {message}") }
}

/// Bytes of something as JSON.
fn size_bytes<T: Serialize>(values: &[T]) -> usize {
    struct Counted(usize);

    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // Keys are texts and nothing fails to be written.
    let _ = serde_json::to_writer(&mut counted, values);
    counted.0
}

fn explain(error: &minijinja::Error) -> String {
    let at = error.line().map(|line| format!(" (its line {line})")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps{at}"),
        _ => match error.detail() {
            Some(detail) => format!("{detail}{at}"),
            None => format!("{}{at}", error.kind()),
        },
    }
}

/// Jinja set up as `transformers.utils.chat_template_utils` does.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(python_method);
    meter::set_up(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_filter("generation", generation);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Python's methods of texts, lists and dicts. Places in texts are counted in characters, as slices count them.
fn python_method(state: &State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, minijinja::Error> {
    meter::pay_method(state, value, method, arguments)?;
    if let (Some(text), "count", [part]) = (value.as_str(), method, arguments)
        && part.as_str() == Some("")
    {
        return Ok((text.chars().count() + 1).into());
    }
    if let (Some(text), "find" | "rfind", [part]) = (value.as_str(), method, arguments)
        && let Some(part) = part.as_str()
    {
        let at = if method == "find" { text.find(part) } else { text.rfind(part) };
        return Ok(at.map_or(-1, |at| text[..at].chars().count() as i64).into());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// A fixed day, the one that llama 3's own template falls back to: with today's date the same examples would train
/// another adapter tomorrow.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        // `%-d` is `%d` without a leading zero, which that day has not.
        chars.next_if_eq(&'-');
        text.push_str(match chars.next() {
            Some('d' | 'e') => "26",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('H' | 'M' | 'S') => "00",
            Some('%') => "%",
            other => {
                let message = format!("strftime_now does not know '%{}'", other.unwrap_or_default());
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(text)
}

/// `json.dumps` as transformers calls it: a space after commas and colons, nothing escaped for HTML.
fn to_json(state: &State, value: &Value, options: minijinja::value::Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let failed = |error| minijinja::Error::new(ErrorKind::InvalidOperation, "tojson fails").with_source(error);
    meter::pay_deep(state, value)?;
    let mut json = Paid { state, text: Vec::new() };
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonJson)).map_err(failed)?,
    }
    Ok(String::from_utf8_lossy(&json.text).into_owned().into())
}

/// Python's separators.
struct PythonJson;

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// What a generation block writes, between marks where they are asked for.
fn generation(state: &State, text: String) -> String {
    match state.lookup("mark_answers").is_some_and(|mark| mark.is_true()) {
        true => format!("{OPEN}{text}{CLOSE}"),
        false => text,
    }
}

/// transformers marks answers by `{% generation %}` … `{% endgeneration %}`, a tag that writes nothing itself: a filter
/// does the same, white space included. Returns whether there were such tags, too.
fn with_generation_filters(source: &str) -> (String, bool) {
    let (mut text, mut found) = (String::with_capacity(source.len()), false);
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        text.push_str(before);
        let word = tag.trim_start_matches(['-', '+']).trim_start();
        let gap = tag.len() - word.len();
        let name: String = word.chars().take_while(char::is_ascii_alphabetic).collect();
        let replacement = match name.as_str() {
            "generation" => "filter generation",
            "endgeneration" => "endfilter",
            _ => "",
        };
        if replacement.is_empty() {
            rest = tag;
        } else {
            found = true;
            text.push_str(&tag[..gap]);
            text.push_str(replacement);
            rest = &word[name.len()..];
        }
    }
    (text + rest, found)
}
