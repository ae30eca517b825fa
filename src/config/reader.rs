//! From nodes to settings: the machinery of the tables in `ssh.rs`, `auth.rs` and `docker.rs`.
//!
//! A [`Kind`] says what a key may hold and reads it. A [`Section`] is a table of keys, each with its kind and the place
//! of its value in the section's settings, and is a kind itself. So the tables are the one place that knows what a
//! configuration looks like. What is read goes *over* settings that are there, so defaults are simply what a table's
//! settings begin with.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use super::yaml::{Key, Node, Value};

/// The most errors that are kept: enough for a human, and a bound for a hostile text.
const MOST_ERRORS: usize = 200;

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
}

/// Where reading stands, and what it has found wrong so far.
pub(super) struct Reader<'a> {
    /// What relative paths are relative to.
    pub directory: &'a Path,
    path: String,
    findings: Vec<Finding>,
    /// How many findings were not kept.
    more: usize,
}

/// Something wrong.
pub(super) struct Finding {
    pub line: Option<usize>,
    pub path: String,
    pub message: String,
}

impl<'a> Reader<'a> {
    pub fn new(directory: &'a Path) -> Self {
        Reader { directory, path: String::new(), findings: Vec::new(), more: 0 }
    }

    /// All that was wrong, in the order of lines.
    pub fn findings(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
        if self.more > 0 {
            let message = format!("{} more errors", self.more);
            self.findings.push(Finding { line: None, path: String::new(), message });
        }
        self.findings
    }

    /// Reports that the current node is wrong.
    pub fn wrong(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        if self.findings.len() == MOST_ERRORS {
            self.more += 1;
            return;
        }
        let (line, path, message) = (line.into(), self.path.clone(), message.into());
        self.findings.push(Finding { line, path, message });
    }

    /// Reports that what is, or should be, at this path is wrong. For use when all nodes are read.
    pub fn wrong_at(&mut self, root: &Node, path: &[&str], message: impl Into<String>) {
        self.path = path.join(".");
        self.wrong(root.line_of(path), message);
        self.path.clear();
    }

    /// Goes to what is at this path for as long as `read` takes. For use when all nodes are read.
    pub fn at<R>(&mut self, path: &[&str], read: impl FnOnce(&mut Self) -> R) -> R {
        match path.split_first() {
            Some((key, rest)) => self.within(key, |reader| reader.at(rest, read)),
            None => read(self),
        }
    }

    /// Whether something was wrong in this section of the root.
    pub fn is_wrong_in(&self, section: &str) -> bool {
        self.findings.iter().any(|finding| finding.path.split('.').next() == Some(section))
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

/// A key as messages show it: in quotes where it could be taken for something else, and not too long.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(LONGEST_NAME).collect();
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "_-/@".contains(c);
    let dots = if short.len() < key.len() { "..." } else { "" };
    if !short.is_empty() && short.chars().all(ordinary) { format!("{short}{dots}") } else { format!("{short:?}{dots}") }
}

/// A name as someone writes it who writes `key`: the API's names are taken in any case, and `Image` is rarely written so.
fn written_like(name: &str, key: &str) -> String {
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

/// A table of keys, whose settings are a `T`.
pub(super) struct Section<T> {
    keys: Vec<(&'static str, Box<dyn Kind<T>>)>,
}

impl<T: 'static> Section<T> {
    pub fn new() -> Self {
        Section { keys: Vec::new() }
    }

    /// Adds a key that holds a `kind` and sets `field`. Without a value it is as if it were not there.
    pub fn key<V: 'static>(
        self,
        name: &'static str,
        field: fn(&mut T) -> &mut V,
        kind: impl Kind<V> + 'static,
    ) -> Self {
        self.any(name, Field { field, kind })
    }

    /// Adds a key that has only this one value as yet.
    pub fn only(self, name: &'static str, value: &'static str, not_yet: &'static [&'static str]) -> Self {
        self.any(name, Only { value, not_yet })
    }

    /// Adds a key that is read when all others are: what it holds goes over what they do.
    pub fn later(self, name: &'static str) -> Self {
        self.any(name, Later)
    }

    /// Adds keys that ContainerSSH has and berth has not, with the reason.
    pub fn refused(mut self, names: &[&'static str], reason: &'static str) -> Self {
        for name in names {
            self = self.any(name, Refused(reason));
        }
        self
    }

    fn any(mut self, name: &'static str, kind: impl Kind<T> + 'static) -> Self {
        self.keys.push((name, Box::new(kind)));
        self
    }
}

impl<T: 'static> Kind<T> for Section<T> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        for (key, node) in reader.entries(node, str::to_owned) {
            match self.keys.iter().find(|(name, _)| *name == key.text) {
                Some(_) if node.value == Value::Null => (),
                Some((_, kind)) => reader.within(&key.text, |reader| kind.read(node, target, reader)),
                None => reader.unknown(key, self.keys.iter().map(|(name, _)| *name)),
            }
        }
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        for (name, kind) in &self.keys {
            let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
            kind.keys(&path, keys);
        }
    }
}

/// A key of a section.
struct Field<T, V, K> {
    field: fn(&mut T) -> &mut V,
    kind: K,
}

impl<T, V, K: Kind<V>> Kind<T> for Field<T, V, K> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        self.kind.read(node, (self.field)(target), reader);
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        keys.push(path.to_owned());
        self.kind.keys(path, keys);
    }
}

/// A key with one value.
struct Only {
    value: &'static str,
    not_yet: &'static [&'static str],
}

impl<T> Kind<T> for Only {
    fn read(&self, node: &Node, _target: &mut T, reader: &mut Reader<'_>) {
        let Only { value, not_yet } = self;
        let Value::Scalar { text, .. } = &node.value else {
            return reader.wrong(node.line, format!("must be {value}, not {}", node.value));
        };
        if let Some(name) = not_yet.iter().find(|name| *name == text) {
            reader.wrong(node.line, format!("{name} is not available yet; use {value}"));
        } else if text != value {
            reader.wrong(node.line, format!("must be {value}"));
        }
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        keys.push(path.to_owned());
    }
}

/// A key that is read later.
struct Later;

impl<T> Kind<T> for Later {
    fn read(&self, _node: &Node, _target: &mut T, _reader: &mut Reader<'_>) {}

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        keys.push(path.to_owned());
    }
}

/// A key that is known, and cannot be given.
struct Refused(&'static str);

impl<T> Kind<T> for Refused {
    fn read(&self, node: &Node, _target: &mut T, reader: &mut Reader<'_>) {
        reader.wrong(node.line, self.0);
    }
}
