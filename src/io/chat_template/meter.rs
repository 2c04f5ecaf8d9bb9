//! What a template's texts and lists cost, and the filters, tests, functions and methods that ask for it.
//!
//! minijinja's fuel counts instructions, and one instruction can double a text or compare two long ones. Each of them
//! pays here, for the bytes it reads and for those it may write, from what the rendering has; nothing is made that is not
//! paid for. Values nest no deeper than [`MAX_NESTING`], as they are compared, written and dropped by recursion.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Object, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters, functions};

/// Bytes that any rendering may read and write. As many again for each byte of the conversation.
const BUDGET: usize = 24 << 20;
const BUDGET_PER_BYTE: usize = 512;
/// Longest text: the whole of a long conversation.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Lists in lists.
const MAX_NESTING: usize = 32;
/// Bytes of one value, beside what it points to.
const VALUE_BYTES: usize = 32;
/// A byte of a text inside a list is written as up to so many (`\u{1}`).
const ESCAPED_BYTES: usize = 6;
/// Widest indentation, and padding of a number.
const MAX_WIDTH: usize = 999;

/// Where a rendering keeps its [`Budget`]: a variable that no template can name.
pub(super) const BUDGET_NAME: &str = " budget";

// Filters that no template can name.
pub(super) const TOUCH: &str = ">";
pub(super) const READ: &str = ">>";
pub(super) const MADE: &str = "[]";
pub(super) const KEEP: &str = "=";
pub(super) const SLICE: &str = "[:]";
pub(super) const CONCAT: &str = "~";
pub(super) const ADD: &str = "+";
pub(super) const MULTIPLY: &str = "*";

type Result<T, E = Error> = std::result::Result<T, E>;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Object for Budget {}

impl Budget {
    /// For a conversation of `n_bytes`.
    pub(super) fn new(n_bytes: usize) -> Self {
        Self(AtomicUsize::new(n_bytes.saturating_mul(BUDGET_PER_BYTE).saturating_add(BUDGET).min(isize::MAX as usize)))
    }
}

fn failed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn pay(state: &State, n_bytes: usize) -> Result<()> {
    let budget = state.lookup(BUDGET_NAME).ok_or_else(|| failed("there is no budget"))?;
    let Budget(left) = budget.downcast_object_ref().ok_or_else(|| failed("there is no budget"))?;
    match left.load(Ordering::Relaxed).checked_sub(n_bytes) {
        Some(rest) => {
            left.store(rest, Ordering::Relaxed);
            Ok(())
        }
        None => Err(failed("it reads and writes too much text for so short a conversation")),
    }
}

fn pay_text(state: &State, n_bytes: usize) -> Result<()> {
    if n_bytes > MAX_TEXT_BYTES {
        return Err(failed(format!("it makes too much text, more than {MAX_TEXT_BYTES} bytes")));
    }
    pay(state, n_bytes)
}

/// Bytes to go over a value once, not looking into what it holds.
fn shallow(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value.len().unwrap_or(0).saturating_mul(VALUE_BYTES),
    }
    .saturating_add(VALUE_BYTES)
}

/// How a walk through a value ends early.
enum TooMuch {
    Nested,
    Bytes,
}

/// Bytes to read or write all that is in a value, each part as often as it is there.
fn walk(value: &Value, nesting: usize, left: &mut usize, visit: &mut dyn FnMut(&Value) -> bool) -> Result<(), TooMuch> {
    if nesting > MAX_NESTING || !visit(value) {
        return Err(TooMuch::Nested);
    }
    let own = match value.as_str() {
        Some(text) if nesting == 0 => text.len(),
        Some(text) => text.len().saturating_mul(ESCAPED_BYTES),
        None => 0,
    };
    *left = left.checked_sub(own.saturating_add(VALUE_BYTES)).ok_or(TooMuch::Bytes)?;
    let object = value.as_object();
    if let (ValueKind::Map, Some(pairs)) = (value.kind(), object.and_then(|object| object.try_iter_pairs())) {
        for (key, value) in pairs {
            walk(&key, nesting + 1, left, visit)?;
            walk(&value, nesting + 1, left, visit)?;
        }
    } else if let (ValueKind::Seq | ValueKind::Iterable, Some(items)) =
        (value.kind(), object.and_then(|object| object.try_iter()))
    {
        for item in items {
            walk(&item, nesting + 1, left, visit)?;
        }
    }
    Ok(())
}

/// Pays for all that is in a value.
pub(super) fn pay_deep(state: &State, value: &Value) -> Result<()> {
    pay(state, deep(value)?)
}

fn deep(value: &Value) -> Result<usize> {
    let mut left = MAX_TEXT_BYTES * ESCAPED_BYTES;
    match walk(value, 0, &mut left, &mut |_| true) {
        Ok(()) => Ok(MAX_TEXT_BYTES * ESCAPED_BYTES - left),
        Err(TooMuch::Nested) => Err(failed(format!("it puts lists in lists more than {MAX_NESTING} deep"))),
        Err(TooMuch::Bytes) => Err(failed("it makes too large a list")),
    }
}

/// As [`pay_deep`], of arguments, the named ones among them.
fn pay_all(state: &State, values: &[Value]) -> Result<()> {
    values.iter().try_for_each(|value| pay_deep(state, value))
}

/// Refuses what could be made to hold itself, or to nest without end: namespaces and macros.
fn keep(state: &State, value: &Value) -> Result<()> {
    let mut left = MAX_TEXT_BYTES * ESCAPED_BYTES;
    // Namespaces, macros, loops.
    let is_alive = |name: &str| name.contains("::vm::") || name.ends_with("::Namespace");
    let mut is_data = |value: &Value| {
        value.kind() != ValueKind::Plain && !value.as_object().is_some_and(|object| is_alive(object.type_name()))
    };
    match walk(value, 0, &mut left, &mut is_data) {
        Ok(()) => pay(state, VALUE_BYTES),
        Err(_) => Err(failed("only texts, numbers and lists of them can be kept in a namespace")),
    }
}

/// The items of something, in a list.
fn items(state: &State, value: &Value) -> Result<Vec<Value>> {
    let n = value.len().ok_or_else(|| failed(format!("{} has no length", value.kind())))?;
    pay(state, n.saturating_mul(VALUE_BYTES))?;
    Ok(value.try_iter()?.take(n).collect())
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn concat(state: &State, left: &Value, right: &Value) -> Result<Value> {
    pay_text(state, deep(left)?.saturating_add(deep(right)?))?;
    Ok(format!("{left}{right}").into())
}

fn add(state: &State, left: &Value, right: &Value) -> Result<Value> {
    if is_list(left) && is_list(right) {
        let mut all = items(state, left)?;
        all.extend(items(state, right)?);
        return Ok(all.into());
    }
    match (left.as_str(), right.as_str()) {
        (Some(one), Some(other)) => {
            pay_text(state, one.len().saturating_add(other.len()))?;
            Ok([one, other].concat().into())
        }
        _ => number(left, right, "+", i128::checked_add, |a, b| a + b),
    }
}

fn multiply(state: &State, left: &Value, right: &Value) -> Result<Value> {
    for (value, times) in [(left, right), (right, left)] {
        let times =
            || times.as_usize().ok_or_else(|| failed("texts and lists can only be multiplied with whole numbers"));
        if let Some(text) = value.as_str() {
            pay_text(state, text.len().saturating_mul(times()?))?;
            return Ok(text.repeat(times()?).into());
        }
        if is_list(value) {
            let (items, times) = (items(state, value)?, times()?);
            pay(state, items.len().saturating_mul(times).saturating_mul(VALUE_BYTES))?;
            return Ok(std::iter::repeat_n(items, times).flatten().collect::<Vec<_>>().into());
        }
    }
    number(left, right, "*", i128::checked_mul, |a, b| a * b)
}

/// Of two numbers, whole where both are.
fn number(
    left: &Value,
    right: &Value,
    name: &str,
    whole: fn(i128, i128) -> Option<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Value> {
    let of_kinds = |what: &str| failed(format!("{what} of {} {name} {}", left.kind(), right.kind()));
    let int = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(value.is_true().into()),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    let real = |value: &Value| match int(value) {
        Some(int) => Some(int as f64),
        None => f64::try_from(value.clone()).ok().filter(|_| value.is_number()),
    };
    match (int(left), int(right), real(left), real(right)) {
        (Some(left), Some(right), ..) => {
            let result = whole(left, right).ok_or_else(|| of_kinds("the result is too large"))?;
            Ok(i64::try_from(result).map_or_else(|_| result.into(), Value::from))
        }
        (_, _, Some(left), Some(right)) => Ok(float(left, right).into()),
        _ => Err(of_kinds("there is no result")),
    }
}

/// `value[start:stop:step]`, as Python has it.
fn slice(state: &State, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value> {
    let bound = |value: &Value| if value.is_none() { Ok(None) } else { i64::try_from(value.clone()).map(Some) };
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(failed("a slice cannot have the step 0"));
    }
    if value.is_undefined() || value.is_none() {
        return Ok(Vec::<Value>::new().into());
    }
    let text: Option<Vec<char>> = match value.as_str() {
        Some(text) => pay(state, text.len().saturating_mul(5)).map(|()| Some(text.chars().collect()))?,
        None if is_list(value) => None,
        None => return Err(failed(format!("{} cannot be sliced", value.kind()))),
    };
    let list = if text.is_none() { items(state, value)? } else { vec![] };
    let n = text.as_ref().map_or(list.len(), Vec::len) as i64;
    let (least, most) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |at: Option<i64>, default: i64| match at {
        None => default,
        Some(at) => if at < 0 { at.saturating_add(n) } else { at }.clamp(least, most),
    };
    let (from, to) = if step > 0 { (least, most) } else { (most, least) };
    let (mut at, stop) = (place(bound(start)?, from), place(bound(stop)?, to));
    let mut places = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        places.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(match text {
        Some(text) => places.into_iter().map(|at| text[at]).collect::<String>().into(),
        None => places.into_iter().map(|at| list[at].clone()).collect::<Vec<_>>().into(),
    })
}

/// Pays for `text.replace(from, to)`.
fn pay_replaced(state: &State, text: &str, from: &str, to: &str) -> Result<()> {
    pay(state, text.len())?;
    let added = text.matches(from).count().saturating_mul(to.len());
    pay_text(state, text.len().saturating_add(added))
}

/// Refuses what pads a number with no end: widths of four digits, and widths that are arguments.
fn check_format(state: &State, format: &str, args: &[Value]) -> Result<()> {
    let digits = format.as_bytes().windows(4).any(|window| window.iter().all(u8::is_ascii_digit));
    let nested = format.split('}').any(|part| part.trim_start_matches("{{").matches('{').count() > 1);
    if digits || nested || format.contains('*') {
        return Err(failed(format!("it formats to more than {MAX_WIDTH} places, or to as many as an argument says")));
    }
    let places = format.matches(['{', '%']).count().saturating_mul(2 * MAX_WIDTH);
    let largest = args.iter().map(deep).try_fold(0, |most, size| Ok::<_, Error>(most.max(size?)))?;
    let written = format.matches(['{', '%']).count().saturating_mul(largest);
    pay_text(state, format.len().saturating_add(places).saturating_add(written))
}

/// What a filter or function asks for before it runs.
type Price = fn(&State, &[Value]) -> Result<()>;

fn free(_: &State, _: &[Value]) -> Result<()> {
    Ok(())
}

fn each(state: &State, args: &[Value]) -> Result<()> {
    pay_all(state, args)?;
    // A text is iterated in values of one character.
    let n = args.first().and_then(Value::as_str).map_or(0, str::len);
    pay(state, n.saturating_mul(VALUE_BYTES))
}

/// The arguments are read again for every item.
fn each_with_all(state: &State, args: &[Value]) -> Result<()> {
    each(state, args)?;
    let n = args.first().and_then(Value::len).unwrap_or(0);
    let others: usize = args.iter().skip(1).map(shallow).fold(0, usize::saturating_add);
    pay(state, n.saturating_mul(others))
}

fn all(state: &State, args: &[Value]) -> Result<()> {
    pay_all(state, args)
}

fn three_times(state: &State, args: &[Value]) -> Result<()> {
    pay_text(state, args.first().map_or(0, shallow).saturating_mul(3))
}

fn join(state: &State, args: &[Value]) -> Result<()> {
    each(state, args)?;
    let n = args.first().and_then(Value::len).unwrap_or(0);
    pay_text(state, n.saturating_mul(args.get(1).map_or(0, shallow)))
}

fn replace(state: &State, args: &[Value]) -> Result<()> {
    let text = |at: usize| args.get(at).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    all(state, args)?;
    pay_replaced(state, &text(0).unwrap_or_default(), &text(1).unwrap_or_default(), &text(2).unwrap_or_default())
}

fn indent(state: &State, args: &[Value]) -> Result<()> {
    let lines = args.first().and_then(Value::as_str).map_or(0, |text| text.matches('\n').count() + 1);
    let named = args.iter().filter(|arg| arg.is_kwargs()).filter_map(|named| named.get_attr("width").ok());
    let width = args.iter().skip(1).cloned().chain(named).filter_map(|value| value.as_usize()).max().unwrap_or(4);
    if width > MAX_WIDTH {
        return Err(failed(format!("it indents by more than {MAX_WIDTH}")));
    }
    pay_text(state, shallow(&args[0]).saturating_add(lines.saturating_mul(width)))
}

fn format(state: &State, args: &[Value]) -> Result<()> {
    match args.first().and_then(Value::as_str) {
        Some(format) => check_format(state, format, &args[1..]),
        None => Err(failed("there is no text to format")),
    }
}

fn keep_all(state: &State, args: &[Value]) -> Result<()> {
    args.iter().try_for_each(|arg| keep(state, arg))
}

/// Puts the meter on all that a template can call. What is not named here is no filter of a template.
pub(super) fn set_up(environment: &mut Environment) {
    let known: [(&str, Value, Price); 40] = [
        ("abs", Value::from_function(filters::abs), free),
        ("attr", Value::from_function(filters::attr), free),
        ("bool", Value::from_function(filters::bool), free),
        ("capitalize", Value::from_function(filters::capitalize), three_times),
        ("count", Value::from_function(filters::length), free),
        ("d", Value::from_function(filters::default), free),
        ("default", Value::from_function(filters::default), free),
        ("dictsort", Value::from_function(filters::dictsort), each),
        ("first", Value::from_function(filters::first), free),
        ("float", Value::from_function(filters::float), free),
        ("format", Value::from_function(filters::format), format),
        ("groupby", Value::from_function(filters::groupby), each),
        ("indent", Value::from_function(filters::indent), indent),
        ("int", Value::from_function(filters::int), free),
        ("items", Value::from_function(filters::items), free),
        ("join", Value::from_function(filters::join), join),
        ("last", Value::from_function(filters::last), each),
        ("length", Value::from_function(filters::length), free),
        ("lines", Value::from_function(filters::lines), each),
        ("list", Value::from_function(filters::list), each),
        ("lower", Value::from_function(filters::lower), three_times),
        ("map", Value::from_function(filters::map), each_with_all),
        ("max", Value::from_function(filters::max), each),
        ("min", Value::from_function(filters::min), each),
        ("reject", Value::from_function(filters::reject), each_with_all),
        ("rejectattr", Value::from_function(filters::rejectattr), each_with_all),
        ("replace", Value::from_function(filters::replace), replace),
        ("reverse", Value::from_function(filters::reverse), each),
        ("round", Value::from_function(filters::round), free),
        ("safe", Value::from_function(filters::safe), all),
        ("select", Value::from_function(filters::select), each_with_all),
        ("selectattr", Value::from_function(filters::selectattr), each_with_all),
        ("sort", Value::from_function(filters::sort), each),
        ("split", Value::from_function(filters::split), each),
        ("string", Value::from_function(filters::string), all),
        ("sum", Value::from_function(filters::sum), each),
        ("title", Value::from_function(filters::title), three_times),
        ("trim", Value::from_function(filters::trim), three_times),
        ("unique", Value::from_function(filters::unique), each),
        ("upper", Value::from_function(filters::upper), three_times),
    ];
    for (name, filter, price) in known {
        environment.add_filter(name, move |state: &State, args: Rest<Value>| -> Result<Value> {
            price(state, &args)?;
            let made = filter.call(state, &args)?;
            // Lists that are made as they are read hold on to the one they come from.
            match made.kind() {
                ValueKind::Iterable if name != "items" => Ok(made.try_iter()?.collect::<Vec<_>>().into()),
                _ => Ok(made),
            }
        });
    }
    for name in ["batch", "chain", "e", "escape", "pprint", "slice", "zip"] {
        environment.remove_filter(name);
    }
    for (name, function) in
        [("dict", Value::from_function(functions::dict)), ("namespace", Value::from_function(functions::namespace))]
    {
        environment.add_function(name, move |state: &State, args: Rest<Value>| -> Result<Value> {
            pay_all(state, &args)?;
            keep_all(state, &args)?;
            function.call(state, &args)
        });
    }
    environment.remove_global("debug");

    environment.add_filter(TOUCH, |state: &State, value: Value| pay(state, shallow(&value)).map(|()| value));
    environment.add_filter(READ, |state: &State, value: Value| pay_deep(state, &value).map(|()| value));
    environment.add_filter(MADE, |state: &State, value: Value| pay_deep(state, &value).map(|()| value));
    environment.add_filter(KEEP, |state: &State, value: Value| keep(state, &value).map(|()| value));
    environment.add_filter(SLICE, |state: &State, value: &Value, start: &Value, stop: &Value, step: &Value| {
        slice(state, value, start, stop, step)
    });
    environment.add_filter(CONCAT, |state: &State, left: &Value, right: &Value| concat(state, left, right));
    environment.add_filter(ADD, |state: &State, left: &Value, right: &Value| add(state, left, right));
    environment.add_filter(MULTIPLY, |state: &State, left: &Value, right: &Value| multiply(state, left, right));
    environment.set_formatter(|out: &mut Output, state: &State, value: &Value| {
        pay_deep(state, value)?;
        escape_formatter(out, state, value)
    });
}

/// Pays for a method of Python's texts, lists and dicts.
pub(super) fn pay_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<()> {
    pay(state, shallow(value))?;
    let text = value.as_str().unwrap_or_default();
    match (method, args) {
        ("replace", [from, to, ..]) => {
            pay_replaced(state, text, from.as_str().unwrap_or_default(), to.as_str().unwrap_or_default())
        }
        ("join", [list, ..]) => join(state, &[list.clone(), value.clone()]),
        ("format", args) => check_format(state, text, args),
        ("split" | "splitlines", args) => {
            pay_all(state, args)?;
            pay(state, text.len().saturating_mul(VALUE_BYTES))
        }
        ("upper" | "lower" | "title" | "capitalize", _) => pay_text(state, text.len().saturating_mul(3)),
        ("count", args) => pay_all(state, args).and_then(|()| pay_deep(state, value)),
        (_, args) => pay_all(state, args),
    }
}

/// Collects what is written while it is paid for.
pub(super) struct Paid<'a, 'template, 'env> {
    pub(super) state: &'a State<'template, 'env>,
    pub(super) text: Vec<u8>,
}

impl io::Write for Paid<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        pay(self.state, bytes.len()).map_err(io::Error::other)?;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
