//! From nodes to settings: the machinery of the sections' tables.
//!
//! A [`Kind`] says what a key may hold, reads it, and describes it for the JSON Schema. A `Section` is a table of keys,
//! each with its kind and the place of its value in the section's settings, and is a kind itself. So the tables are the
//! one place that knows what a configuration looks like. What is read goes *over* settings that are there, so defaults
//! are simply what a table's settings begin with.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Value as Json, json};

use super::dangers::Danger;
use super::yaml::{Key, Node, Value};
use crate::private_file;

/// The most errors that are kept: enough for a human, and a bound for a hostile text.
const MOST_ERRORS: usize = 200;

/// The largest value that a file may hold, in bytes.
const LARGEST_FETCHED: u64 = 64 * 1024;

/// The longest name that is shown, or for which a similar one is sought.
const LONGEST_NAME: usize = 64;

/// What a key may hold.
pub(super) trait Kind<T> {
    /// Reads a node over `target`. Where the node is wrong it is reported, and `target` is of no use any more.
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>);

    /// Adds the paths of all the keys below this one, in the tables' order.
    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        let _ = (path, keys);
    }

    /// The JSON Schema of what the key may hold. Its `description` completes "must be".
    fn schema(&self) -> Json {
        json!({})
    }
}

/// Where reading stands, and what it has found wrong so far.
pub(super) struct Reader<'a> {
    /// What relative paths are relative to.
    pub directory: &'a Path,
    /// Names of keys that berth does not know, and passes on to the API that does.
    pub additional_keys: Vec<String>,
    /// Whether it is an answer of a server's that is read, and no file. Such a one has times in nanoseconds, and cannot
    /// refer to berth's environment and files.
    pub is_answer: bool,
    path: String,
    findings: Vec<Finding>,
    /// How many findings were not kept.
    more: usize,
}

/// Something wrong, or worth a warning.
#[derive(PartialEq, Eq)]
pub(super) struct Finding {
    pub line: Option<usize>,
    pub path: String,
    pub message: String,
    pub warning: bool,
}

impl<'a> Reader<'a> {
    pub fn new(directory: &'a Path) -> Self {
        Reader {
            directory,
            additional_keys: Vec::new(),
            is_answer: false,
            path: String::new(),
            findings: Vec::new(),
            more: 0,
        }
    }

    /// All that was wrong or worth a warning, in the order of lines.
    pub fn findings(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
        if self.more > 0 {
            let message = format!("{} more errors", self.more);
            self.findings.push(Finding { line: None, path: String::new(), message, warning: false });
        }
        self.findings
    }

    /// Reports that the current node is wrong.
    pub fn wrong(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.find(line.into(), message.into(), false);
    }

    /// Reports that the current node is good, but not what it may seem.
    pub fn warn(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.find(line.into(), message.into(), true);
    }

    /// Warns where a file holds a secret that others can read. Whether there is one at all, whoever reads it tells.
    pub fn warn_if_open(&mut self, line: usize, path: &Path) {
        let metadata = fs::metadata(path).ok();
        if let Some(Err(error)) = metadata.map(|metadata| private_file::check(path, &metadata)) {
            self.warn(line, error.to_string());
        }
    }

    fn find(&mut self, line: Option<usize>, message: String, warning: bool) {
        if self.findings.len() == MOST_ERRORS {
            self.more += 1;
            return;
        }
        let finding = Finding { line, path: self.path.clone(), message, warning };
        // What is used twice is told of once.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Reports that what is, or should be, at this path is wrong. For use when all nodes are read.
    pub fn wrong_at(&mut self, root: &Node, path: &[&str], message: impl Into<String>) {
        self.path = path.join(".");
        self.wrong(root.line_of(path), message);
        self.path.clear();
    }

    /// As [`Self::wrong_at`], for what is worth a warning.
    pub fn warn_at(&mut self, root: &Node, path: &[&str], message: impl Into<String>) {
        self.path = path.join(".");
        self.warn(root.line_of(path), message);
        self.path.clear();
    }

    /// Whether nothing was wrong so far.
    pub fn is_right(&self) -> bool {
        self.more == 0 && self.findings.iter().all(|finding| finding.warning)
    }

    /// Warns of dangers, which have their own paths.
    pub fn warn_of(&mut self, root: &Node, dangers: impl IntoIterator<Item = Danger>) {
        for (path, message) in dangers {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.warn_at(root, &path, message);
        }
    }

    /// Whether something was wrong at this path or below it.
    pub fn is_wrong_in(&self, path: &str) -> bool {
        let below = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.findings.iter().any(|finding| !finding.warning && below(&finding.path))
    }

    /// Goes into a key for as long as `read` takes.
    pub fn within<R>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(&shown(key));
        let result = read(self);
        self.path.truncate(length);
        result
    }

    /// Goes into an item of a list for as long as `read` takes.
    pub fn within_item<R>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let result = read(self);
        self.path.truncate(length);
        result
    }

    /// A mapping's entries but for those whose key comes again, which are reported. `name` gives a key the spelling by
    /// which it is compared.
    pub fn entries<'n>(&mut self, node: &'n Node, name: impl Fn(&str) -> String) -> Vec<&'n (Key, Node)> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node.line, format!("must be a mapping of keys to values, not {}", node.value));
            return Vec::new();
        };
        let mut lines = BTreeMap::new();
        let mut once = Vec::new();
        for entry in entries {
            let key = &entry.0;
            match lines.entry(name(&key.text)) {
                Entry::Vacant(place) => {
                    place.insert(key.line);
                    once.push(entry);
                }
                Entry::Occupied(first) => {
                    let message = format!("given twice; the first is in line {}", first.get());
                    self.within(&key.text, |reader| reader.wrong(key.line, message));
                }
            }
        }
        once
    }

    /// What a single value is where it stands elsewhere: `{env: NAME}` is a variable of berth's environment, and
    /// `{file: PATH}` is a file without the line end at its end. Any other node is itself.
    pub fn fetch<'n>(&mut self, node: &'n Node) -> Option<Cow<'n, Node>> {
        let (key, text) = match &node.value {
            Value::Map(entries) => match entries.as_slice() {
                [(key, Node { value: Value::Scalar { text, .. }, .. })] => (key, text),
                _ => return Some(Cow::Borrowed(node)),
            },
            _ => return Some(Cow::Borrowed(node)),
        };
        if self.is_answer {
            return Some(Cow::Borrowed(node));
        }
        let found = match key.text.as_str() {
            "env" => {
                std::env::var(text).map_err(|_| format!("there is no variable {} in the environment", shown(text)))
            }
            "file" => {
                let path = self.directory.join(text);
                self.warn_if_open(node.line, &path);
                read_value(&path).map_err(|error| format!("{text:?} cannot be read: {error}"))
            }
            _ => return Some(Cow::Borrowed(node)),
        };
        match found {
            Ok(text) => Some(Cow::Owned(Node { value: Value::Scalar { text, plain: true }, line: node.line })),
            Err(message) => {
                self.wrong(node.line, message);
                None
            }
        }
    }

    /// Reports the key `key` as unknown; `known` are those that could stand in its place.
    pub fn unknown<'n>(&mut self, key: &Key, known: impl Iterator<Item = &'n str>) {
        // Those that are not kept need no search.
        let meant = if self.findings.len() < MOST_ERRORS { similar(&key.text, known) } else { None };
        let message = match meant {
            Some(name) => format!("unknown key; did you mean {}?", written_like(name, &key.text)),
            None => "unknown key".to_owned(),
        };
        self.within(&key.text, |reader| reader.wrong(key.line, message));
    }
}

fn read_value(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST_FETCHED + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FETCHED {
        return Err(io::Error::other("larger than 64 kB"));
    }
    let end = text.strip_suffix('\n').map_or(text.len(), |text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(end);
    Ok(text)
}

/// A key as messages show it: in quotes where it could be taken for something else, and not too long.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(LONGEST_NAME).collect();
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "_-/@".contains(c);
    let dots = if short.len() < key.len() { "..." } else { "" };
    if !short.is_empty() && short.chars().all(ordinary) { format!("{short}{dots}") } else { format!("{short:?}{dots}") }
}

/// A name as someone writes it who writes `key`: the API's names are taken in any case, and `Image` is rarely written so.
pub(super) fn written_like(name: &str, key: &str) -> String {
    let word = name.starts_with(|c: char| c.is_ascii_uppercase()) && name[1..].starts_with(char::is_lowercase);
    if word && key.starts_with(char::is_lowercase) {
        return name[..1].to_lowercase() + &name[1..];
    }
    name.to_owned()
}

/// The name that `word` was probably meant to be.
pub(super) fn similar<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if word.len() > LONGEST_NAME {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |name: &str| strsim::osa_distance(&word, &name.to_lowercase());
    let near = names.map(|name| (distance(name), name)).filter(|(distance, name)| *distance <= 1 + name.len() / 5);
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// A schema with a description, which completes "must be".
pub(super) fn described(mut schema: Json, description: &str) -> Json {
    schema["description"] = description.into();
    schema
}
