//! What keys may hold: the small kinds that the tables are made of.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::pem::Pem;
use super::reader::{Kind, Reader, similar};
use super::yaml::{Node, Value};

/// A single value, read from its text.
pub(super) struct Scalar<T> {
    /// Completes "must be".
    allowed: String,
    /// Refuses with the whole message, or with none for "must be" and what is allowed.
    parse: Parse<T>,
    /// Quotes make it wrong: it is no text.
    plain: bool,
    /// The JSON Schema of the value, without its description.
    schema: Json,
}

/// The types of a text in JSON's terms: what stands without quotes is as good.
fn text_schema() -> Json {
    json!({"type": ["string", "number", "boolean"]})
}

type Parse<T> = Box<dyn Fn(&str, &Reader<'_>) -> Result<T, Option<String>>>;

impl<T: 'static> Scalar<T> {
    fn new(allowed: impl Into<String>, parse: impl Fn(&str) -> Option<T> + 'static) -> Self {
        Scalar::with(allowed, move |text, _| parse(text).ok_or(None))
    }

    fn with(
        allowed: impl Into<String>,
        parse: impl Fn(&str, &Reader<'_>) -> Result<T, Option<String>> + 'static,
    ) -> Self {
        Scalar { allowed: allowed.into(), parse: Box::new(parse), plain: false, schema: text_schema() }
    }

    /// As a setting that need not be there.
    pub fn optional(self) -> Scalar<Option<T>> {
        let parse: Parse<Option<T>> = Box::new(move |text, reader| (self.parse)(text, reader).map(Some));
        Scalar { allowed: self.allowed, parse, plain: self.plain, schema: self.schema }
    }

    /// Takes only texts in which `check` finds nothing wrong.
    pub fn which(self, check: fn(&str) -> Result<(), String>) -> Self {
        let parse: Parse<T> = Box::new(move |text, reader| match check(text) {
            Ok(()) => (self.parse)(text, reader),
            Err(message) => Err(Some(message)),
        });
        Scalar { parse, ..self }
    }

    fn value(&self, node: &Node, reader: &mut Reader<'_>) -> Option<T> {
        let allowed = &self.allowed;
        let node = &*reader.fetch(node)?;
        let text = match &node.value {
            Value::Scalar { plain: false, .. } if self.plain => {
                reader.wrong(node.line, format!("must be {allowed}, without quotes"));
                return None;
            }
            Value::Scalar { text, .. } => text,
            value => {
                reader.wrong(node.line, format!("must be {allowed}, not {value}"));
                return None;
            }
        };
        match (self.parse)(text, reader) {
            Ok(value) => Some(value),
            Err(message) => {
                reader.wrong(node.line, message.unwrap_or_else(|| format!("must be {allowed}")));
                None
            }
        }
    }
}

impl<T: 'static> Kind<T> for Scalar<T> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        if let Some(value) = self.value(node, reader) {
            *target = value;
        }
    }

    fn schema(&self) -> Json {
        let elsewhere = json!({"$ref": "#/$defs/elsewhere"});
        json!({"anyOf": [self.schema, elsewhere], "description": self.allowed})
    }
}

/// Text that `good` finds good; `allowed` says what that is.
pub(super) fn text(allowed: &str, good: fn(&str) -> bool) -> Scalar<String> {
    Scalar::new(allowed, move |text| good(text).then(|| text.to_owned()))
}

/// A text with a parser of its own, whose error says what is allowed, and shows nothing of the text if that is secret.
pub(super) fn parsed<T: 'static, E: Display + 'static>(allowed: &str, parse: fn(&str) -> Result<T, E>) -> Scalar<T> {
    Scalar::with(allowed, move |text, _| parse(text).map_err(|error| Some(error.to_string())))
}

/// A whole number.
pub(super) fn integer<T: TryFrom<i64> + 'static>(range: RangeInclusive<i64>) -> Scalar<T> {
    let allowed = format!("a number from {} to {}", range.start(), range.end());
    let schema = json!({"type": "integer", "minimum": range.start(), "maximum": range.end()});
    let parse = move |text: &str| parse_integer(text).filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
    Scalar { plain: true, schema, ..Scalar::new(allowed, parse) }
}

/// `true` or `false`.
pub(super) fn switch() -> Scalar<bool> {
    Scalar { plain: true, schema: switch_schema(), ..Scalar::new("true or false", parse_switch) }
}

/// A boolean in JSON's terms: YAML 1.2 has the other words for texts.
pub(super) fn switch_schema() -> Json {
    json!({"enum": [true, false, "yes", "no", "on", "off"]})
}

/// A boolean where one is wanted: YAML 1.1's words, too, as kubectl and Go's decoders take them.
pub(super) fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// An integer of YAML 1.2's core schema, but for leading zeros: half of the world takes 0755 for octal.
pub(super) fn parse_integer(text: &str) -> Option<i64> {
    let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return digits(rest, radix).then(|| i64::from_str_radix(rest, radix).ok()).flatten();
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let zeros = unsigned.len() > 1 && unsigned.starts_with('0');
    (digits(unsigned, 10) && !zeros).then(|| text.parse().ok()).flatten()
}

/// One of some words, each with what it stands for. Words that are known and not available yet come in `not_yet`.
pub(super) fn choice<T: Clone + 'static>(
    words: &'static [(&'static str, T)],
    not_yet: &'static [&'static str],
) -> Scalar<T> {
    let names = words.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let allowed = alternatives(&names);
    // Without quotes, some words are numbers for others.
    let numbers = names.iter().filter_map(|name| name.parse::<serde_json::Number>().ok()).map(Json::from);
    let values: Vec<Json> = names.iter().map(|name| json!(name)).chain(numbers).collect();
    let (message, schema) = (allowed.clone(), json!({"enum": values}));
    let parse = move |text: &str, _: &Reader<'_>| {
        let found = words.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| value.clone()).ok_or_else(|| {
            if let Some(name) = not_yet.iter().find(|name| **name == text) {
                return Some(format!("{name} is not available yet; use {message}"));
            }
            let name = similar(text, names.iter().copied()).filter(|_| names.len() > 1)?;
            Some(format!("must be {message}; did you mean {name}?"))
        })
    };
    Scalar { schema, ..Scalar::with(allowed, parse) }
}

impl<T: Clone + 'static> Scalar<T> {
    /// Takes these words, too, without a word about them.
    pub fn also(self, words: &'static [(&'static str, T)]) -> Self {
        let parse: Parse<T> = Box::new(move |text, reader| match words.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(value.clone()),
            None => (self.parse)(text, reader),
        });
        Scalar { parse, ..self }
    }
}

/// "a, b or c"
fn alternatives(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// A name out of `offered`.
pub(super) fn name(offered: &'static [&'static str]) -> Scalar<String> {
    let parse = |text: &str, _: &Reader<'_>| {
        if offered.contains(&text) {
            return Ok(text.to_owned());
        }
        let meant = similar(text, offered.iter().copied()).map(|name| format!(" (did you mean {name}?)"));
        Err(Some(format!("not offered{}; offered are {}", meant.unwrap_or_default(), offered.join(", "))))
    };
    Scalar { schema: json!({"enum": offered}), ..Scalar::with("the name of an algorithm", parse) }
}

/// Whether a text has something in it, and stays in its line.
pub(super) fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

/// A file's name, made relative to the configuration's directory.
pub(super) fn path() -> Scalar<PathBuf> {
    let parse = |text: &str, reader: &Reader<'_>| is_line(text).then(|| reader.directory.join(text)).ok_or(None);
    Scalar::with("the path of a file or directory", parse)
}

/// A certificate or key in PEM, or the name of a file of such, made relative to the configuration's directory.
pub(super) fn pem() -> Scalar<Pem> {
    let parse = |text: &str, reader: &Reader<'_>| {
        if text.trim_start().starts_with("-----BEGIN ") {
            return Ok(Pem::Text(text.to_owned()));
        }
        is_line(text).then(|| Pem::File(reader.directory.join(text))).ok_or(None)
    };
    Scalar::with("PEM (-----BEGIN ...), or the path of a file of it", parse)
}

/// A private key as [`pem`], or the path of a file with a secret: one that others can read is worth a warning.
pub(super) struct Private<K>(pub K);

/// What may be in a file.
pub(super) trait InFile {
    fn file(&self) -> Option<&Path>;
}

impl InFile for Option<Pem> {
    fn file(&self) -> Option<&Path> {
        match self {
            Some(Pem::File(path)) => Some(path),
            Some(Pem::Text(_)) | None => None,
        }
    }
}

impl InFile for Option<PathBuf> {
    fn file(&self) -> Option<&Path> {
        self.as_deref()
    }
}

impl<T: InFile, K: Kind<T>> Kind<T> for Private<K> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        self.0.read(node, target, reader);
        if let Some(path) = target.file() {
            reader.warn_if_open(node.line, path);
        }
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }
}

/// The name of a file of a certificate or key, made relative to the configuration's directory.
pub(super) fn pem_file() -> Scalar<Pem> {
    let Scalar { allowed, parse, .. } = path();
    Scalar::with(allowed, move |text, reader| parse(text, reader).map(Pem::File))
}

/// An address to listen on, in Go's forms: without a host it is all addresses.
pub(super) fn address() -> Scalar<SocketAddr> {
    Scalar::new("an address and port, such as 127.0.0.1:2222, [::1]:2222, or :2222 for all addresses", |text| {
        let all = |port: &str| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
        text.parse().ok().or_else(|| all(text.strip_prefix(':')?))
    })
}

/// A span of time in Go's form ("1m30s"), or a plain number of seconds.
pub(super) fn duration(range: RangeInclusive<Duration>) -> Scalar<Duration> {
    let allowed = format!("a time from {} to {}, such as 90s or 1m30s", spoken(range.start()), spoken(range.end()));
    let parse = move |text: &str, reader: &Reader<'_>| {
        let time = match text.parse::<u64>() {
            Ok(number) if reader.is_answer => Some(Duration::from_nanos(number)),
            // ContainerSSH takes such numbers for nanoseconds.
            Ok(number) if number > LONGEST_BARE => {
                return Err(Some("a number this large needs a unit, as in 90s or 1m30s".into()));
            }
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => parse_duration(text),
        };
        time.filter(|time| range.contains(time)).ok_or(None)
    };
    Scalar::with(allowed, parse)
}

/// As [`duration`], with 0 for none.
pub(super) fn duration_or_off(range: RangeInclusive<Duration>) -> Scalar<Duration> {
    let Scalar { allowed, parse, .. } = duration(range);
    Scalar::with(format!("0 (off), or {allowed}"), move |text, reader| match parse_duration(text) {
        Some(Duration::ZERO) => Ok(Duration::ZERO),
        _ if text == "0" => Ok(Duration::ZERO),
        _ => parse(text, reader),
    })
}

/// The longest time that can be given as a bare number of seconds: an hour.
const LONGEST_BARE: u64 = 3600;

fn spoken(time: &Duration) -> String {
    match time.as_secs() {
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{time:?}"),
    }
}

/// Go's `time.ParseDuration`, but for signs.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000), // U+00B5
        ("μs", 1_000), // U+03BC
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut total) = (text, 0u64);
    loop {
        let (number, behind) = rest.split_at(rest.find(|c| !numeric(c))?);
        let (unit, behind) = behind.split_at(behind.find(numeric).unwrap_or(behind.len()));
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        // Less than one unit, of which a float keeps what a nanosecond needs.
        let fraction = format!("0.{fraction}").parse::<f64>().ok()? * unit as f64;
        total = total.checked_add(whole.checked_mul(unit)?)?.checked_add(fraction as u64)?;
        if behind.is_empty() {
            return Some(Duration::from_nanos(total));
        }
        rest = behind;
    }
}

/// A number of bytes as `docker run --memory` takes it: "512m" is 512 MiB.
pub(super) fn parse_size(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    parse_integer(digits)?.checked_mul(1 << shift)
}

/// A list of single values, or one alone.
pub(super) struct Several<T> {
    item: Scalar<T>,
    least: usize,
    /// What stands between the items of a list that is given as one value.
    separator: Option<char>,
}

/// A list of any length, or one value.
pub(super) fn any_number_of<T: 'static>(item: Scalar<T>) -> Several<T> {
    Several { item, least: 0, separator: None }
}

/// A list that is not empty, or one value.
pub(super) fn one_or_more<T: 'static>(item: Scalar<T>) -> Several<T> {
    Several { item, least: 1, separator: None }
}

/// A list that is not empty, or one value with colons between the items.
pub(super) fn colon_list<T: 'static>(item: Scalar<T>) -> Several<T> {
    Several { item, least: 1, separator: Some(':') }
}

/// A list of any length, or one value with spaces between the items.
pub(super) fn spaced_list<T: 'static>(item: Scalar<T>) -> Several<T> {
    Several { item, least: 0, separator: Some(' ') }
}

impl<T: 'static> Kind<Vec<T>> for Several<T> {
    fn read(&self, node: &Node, target: &mut Vec<T>, reader: &mut Reader<'_>) {
        let Value::List(items) = &node.value else {
            target.clear();
            match (&node.value, self.separator) {
                (Value::Scalar { text, plain }, Some(separator)) => {
                    for text in text.split(separator) {
                        let value = Value::Scalar { text: text.to_owned(), plain: *plain };
                        target.extend(self.item.value(&Node { value, line: node.line }, reader));
                    }
                }
                _ => target.extend(self.item.value(node, reader)),
            }
            return;
        };
        if items.len() < self.least {
            reader.wrong(node.line, "must have one entry at least");
        }
        target.clear();
        for (index, node) in items.iter().enumerate() {
            reader.within_item(index, |reader| target.extend(self.item.value(node, reader)));
        }
    }

    fn schema(&self) -> Json {
        let one = match self.separator {
            Some(_) => text_schema(),
            None => self.item.schema(),
        };
        let many = json!({"type": "array", "items": self.item.schema(), "minItems": self.least});
        json!({"anyOf": [one, many], "description": format!("{}, or a list of such", self.item.allowed)})
    }
}

/// A mapping whose keys are free, as long as they are `allowed`.
pub(super) struct Named<K> {
    pub allowed: &'static str,
    pub good: fn(&str) -> bool,
    pub value: K,
}

impl<T: Default, K: Kind<T>> Kind<BTreeMap<String, T>> for Named<K> {
    fn read(&self, node: &Node, target: &mut BTreeMap<String, T>, reader: &mut Reader<'_>) {
        for (key, node) in reader.entries(node, str::to_owned) {
            reader.within(&key.text, |reader| {
                if !(self.good)(&key.text) {
                    reader.wrong(key.line, format!("its name must be {}", self.allowed));
                }
                let value = target.entry(key.text.clone()).or_default();
                if node.value != Value::Null {
                    self.value.read(node, value, reader);
                }
            });
        }
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        self.value.keys(&format!("{path}.*"), keys);
    }

    fn schema(&self) -> Json {
        let value = json!({"anyOf": [{"type": "null"}, self.value.schema()]});
        json!({"type": "object", "description": "a mapping of names to values", "additionalProperties": value})
    }
}
