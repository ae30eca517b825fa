//! A configuration as typed: YAML text to a tree of nodes that know their lines.
//!
//! A scalar stays the text that it is written as, and its key decides what it is: `10` is a number for one key and a
//! text for another, as Go's decoders have it. JSON is YAML. The text may be hostile, so the tree's size and depth are
//! bounded, what aliases repeat included.

use std::collections::BTreeSet;
use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value as Json};

use super::kind::{parse_integer, parse_switch};

/// The largest tree, in bytes of text plus [`NODE_WEIGHT`] for each node. Aliases count as copies.
const HEAVIEST: usize = 4 * 1024 * 1024;

/// What a node weighs beside its text.
const NODE_WEIGHT: usize = 16;

/// The deepest nesting. Thirteen levels lead to the deepest place that the Docker API has.
const DEEPEST: usize = 32;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub value: Value,
    /// Counted from 1.
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing at all, `~` or `null`.
    Null,
    Scalar {
        text: String,
        /// Without quotes: may be a number or a boolean.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the text. A key may come twice: its reader knows the path to complain with.
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// Whether it is nothing at all, or an empty text.
    pub fn is_blank(&self) -> bool {
        matches!(self, Value::Null) || matches!(self, Value::Scalar { text, .. } if text.is_empty())
    }

    /// Whether it asks for nothing: what Go writes for a value that was never set, and whatever consists of such values.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Scalar { text, plain } => {
                text.is_empty() || *plain && (text == "0" || parse_switch(text) == Some(false))
            }
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.iter().all(|(_, node)| node.value.is_empty()),
        }
    }
}

/// A mapping's key, as it is written: `1` and `true` are texts here, as they are in JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

/// What makes a text no YAML, or none that berth takes. Ends the reading, so there is one at most.
#[derive(Debug, PartialEq)]
pub(crate) struct SyntaxError {
    pub line: usize,
    /// Counted from 1.
    pub column: usize,
    pub message: String,
}

impl SyntaxError {
    fn new(at: Marker, message: impl Into<String>) -> Self {
        SyntaxError { line: at.line(), column: at.col() + 1, message: message.into() }
    }
}

/// Reads a text of one document. An empty one is a null.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| SyntaxError::new(*error.marker(), error.info()))?;
        builder.take(event, span.start)?;
    }
    Ok(builder.root.unwrap_or(Node { value: Value::Null, line: 1 }))
}

impl Node {
    /// JSON as a tree. All of it stands in line 1.
    pub fn from_json(json: &Json) -> Node {
        let value = match json {
            Json::Null => Value::Null,
            Json::String(text) => Value::Scalar { text: text.clone(), plain: false },
            Json::Bool(_) | Json::Number(_) => Value::Scalar { text: json.to_string(), plain: true },
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(entries) => {
                let entry =
                    |(name, value): (&String, &Json)| (Key { text: name.clone(), line: 1 }, Node::from_json(value));
                Value::Map(entries.iter().map(entry).collect())
            }
        };
        Node { value, line: 1 }
    }

    /// This without what asks for nothing, in mappings of any depth.
    pub fn without_empty(self) -> Node {
        let value = match self.value {
            Value::Map(entries) => {
                let full = entries.into_iter().filter(|(_, node)| !node.value.is_empty());
                Value::Map(full.map(|(key, node)| (key, node.without_empty())).collect())
            }
            value => value,
        };
        Node { value, line: self.line }
    }

    /// The line of the innermost key on this path.
    pub fn line_of(&self, path: &[&str]) -> Option<usize> {
        let (mut node, mut line) = (self, None);
        for name in path {
            let Value::Map(entries) = &node.value else { break };
            let Some((key, value)) = find(entries, name) else { break };
            (node, line) = (value, Some(key.line));
        }
        line
    }

    /// What stands at the end of this path.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| {
            let Value::Map(entries) = &node.value else { return None };
            find(entries, name).map(|(_, value)| value)
        })
    }

    /// The texts that stand at the end of this path: one, or a list of them.
    pub fn texts_at(&self, path: &[&str]) -> Vec<String> {
        let text = |node: &Node| match &node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => None,
        };
        match self.at(path) {
            Some(Node { value: Value::List(items), .. }) => items.iter().filter_map(text).collect(),
            node => node.and_then(text).into_iter().collect(),
        }
    }

    /// As JSON, for objects whose meaning berth does not know: what is written without quotes may be a boolean or a number
    /// as in YAML 1.2's core schema, or an octal number with a zero before it, as kubectl takes it (`defaultMode: 0644`).
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Scalar { text, plain: true } => untyped(text),
            Value::Scalar { text, plain: false } => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.text.clone(), node.to_json()));
                Json::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// What this counts against [`HEAVIEST`], and how many levels of lists and mappings it has.
    fn measure(&self) -> (usize, usize) {
        let inside = |(weight, levels): (usize, usize), node: &Node| {
            let (more, below) = node.measure();
            (weight + more, levels.max(below))
        };
        match &self.value {
            Value::Null => (NODE_WEIGHT, 0),
            Value::Scalar { text, .. } => (NODE_WEIGHT + text.len(), 0),
            Value::List(items) => {
                let (weight, levels) = items.iter().fold((NODE_WEIGHT, 0), inside);
                (weight, levels + 1)
            }
            Value::Map(entries) => {
                let keys = entries.iter().map(|(key, _)| NODE_WEIGHT + key.text.len()).sum::<usize>();
                let (weight, levels) = entries.iter().map(|(_, node)| node).fold((NODE_WEIGHT + keys, 0), inside);
                (weight, levels + 1)
            }
        }
    }
}

/// The entry of this key: where it is in no such spelling, that of another case, as the Docker API and answers may have.
fn find<'n>(entries: &'n [(Key, Node)], name: &str) -> Option<&'n (Key, Node)> {
    let exact = entries.iter().find(|(key, _)| key.text == name);
    exact.or_else(|| entries.iter().find(|(key, _)| key.text.eq_ignore_ascii_case(name)))
}

/// What is written without quotes, where nothing says of which type it is.
pub(super) fn untyped(text: &str) -> Json {
    match text {
        "true" | "True" | "TRUE" => return Json::Bool(true),
        "false" | "False" | "FALSE" => return Json::Bool(false),
        _ => {}
    }
    let octal =
        text.strip_prefix('0').filter(|rest| !rest.is_empty() && rest.bytes().all(|b| (b'0'..=b'7').contains(&b)));
    if let Some(number) = octal.and_then(|digits| i64::from_str_radix(digits, 8).ok()).or_else(|| parse_integer(text)) {
        return Json::Number(number.into());
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "-+.".contains(c))
        && text.contains(|c: char| c.is_ascii_digit())
        && !text.contains(|c: char| !c.is_ascii_digit() && !"-+.eE".contains(c));
    // A number with zeros before it is a text for half of the world, and here.
    let zeros = text
        .trim_start_matches(['-', '+'])
        .strip_prefix('0')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let number = text.parse::<f64>().ok().filter(|_| numeric && !zeros).and_then(Number::from_f64);
    number.map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

/// What messages call it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        })
    }
}

/// Puts the parser's events together. It keeps its own stack, so that depth costs no calls.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    /// What anchors stand for, by their number. None while their end has not come.
    anchors: Vec<Option<Node>>,
    weight: usize,
    root: Option<Node>,
}

/// A list or mapping whose end has not come.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<Key>,
    /// Whether that is a merge key, whose value's entries become the mapping's own (yaml.org/type/merge).
    is_merge: bool,
    /// The entries that come by merge keys, and the keys of these.
    merged: Vec<(Key, Node)>,
    merged_keys: BTreeSet<String>,
}

impl Open {
    fn wants_key(&self) -> bool {
        matches!(self.node.value, Value::Map(_)) && self.key.is_none()
    }

    /// The node with what is merged into it: what it has itself holds over that.
    fn into_node(self) -> Node {
        let mut node = self.node;
        if let Value::Map(entries) = &mut node.value {
            let own: BTreeSet<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
            entries.extend(self.merged.into_iter().filter(|(key, _)| !own.contains(&key.text)));
        }
        node
    }

    /// Takes the value of a merge key: a mapping, or a list of mappings, of which the first that has a key holds.
    fn merge(&mut self, value: Value, at: Marker) -> Result<(), SyntaxError> {
        let sources = match value {
            Value::List(items) => items.into_iter().map(|node| node.value).collect(),
            value => vec![value],
        };
        for source in sources {
            let Value::Map(entries) = source else {
                return Err(SyntaxError::new(at, "<< takes a mapping, or a list of mappings, such as *defaults"));
            };
            let (known, keys) = (&self.merged_keys, entries.iter().map(|(key, _)| key.text.clone()));
            let keys: Vec<String> = keys.collect();
            self.merged.extend(entries.into_iter().filter(|(key, _)| !known.contains(&key.text)));
            self.merged_keys.extend(keys);
        }
        Ok(())
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Marker) -> Result<(), SyntaxError> {
        let line = at.line();
        match event {
            Event::Scalar(.., Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Err(SyntaxError::new(at, "tags are not supported; quotes make a text of anything"))
            }
            Event::Scalar(text, style, anchor, None) => {
                weigh(&mut self.weight, NODE_WEIGHT + text.len(), at)?;
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                if let Some(open) = self.open.last_mut().filter(|open| open.wants_key()) {
                    open.is_merge = plain && text == "<<";
                    open.key = Some(Key { text, line });
                    return Ok(());
                }
                let null = plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar { text, plain } };
                self.add(Node { value, line }, anchor, at)
            }
            Event::SequenceStart(anchor, None) => self.open(Value::List(Vec::new()), anchor, at),
            Event::MappingStart(anchor, None) => self.open(Value::Map(Vec::new()), anchor, at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let anchor = open.anchor;
                    self.add(open.into_node(), anchor, at)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(SyntaxError::new(at, "a second document; a configuration is one"))
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                Ok(())
            }
        }
    }

    fn open(&mut self, value: Value, anchor: usize, at: Marker) -> Result<(), SyntaxError> {
        weigh(&mut self.weight, NODE_WEIGHT, at)?;
        if self.open.last().is_some_and(Open::wants_key) {
            return Err(not_a_key(at));
        }
        if self.open.len() == DEEPEST {
            return Err(too_deep(at));
        }
        let node = Node { value, line: at.line() };
        let (merged, merged_keys) = (Vec::new(), BTreeSet::new());
        self.open.push(Open { node, anchor, key: None, is_merge: false, merged, merged_keys });
        Ok(())
    }

    /// Puts a complete node in its place.
    fn add(&mut self, node: Node, anchor: usize, at: Marker) -> Result<(), SyntaxError> {
        if anchor > 0 {
            weigh(&mut self.weight, node.measure().0, at)?;
            // The parser counts anchors up, so a text of few anchors makes few places.
            self.anchors.resize(self.anchors.len().max(anchor + 1), None);
            self.anchors[anchor] = Some(node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(open) if open.is_merge => {
                (open.key, open.is_merge) = (None, false);
                return open.merge(node.value, at);
            }
            Some(Open { node: Node { value: Value::Map(entries), .. }, key, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => return Err(not_a_key(at)),
            },
            Some(Open { node: Node { value: Value::List(items), .. }, .. }) => items.push(node),
            // Only lists and mappings are ever open.
            Some(_) => (),
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Marker) -> Result<(), SyntaxError> {
        let Some(Some(node)) = self.anchors.get(anchor) else {
            return Err(SyntaxError::new(at, "an alias that stands inside its own anchor, or for a key"));
        };
        let (weight, levels) = node.measure();
        if self.open.len() + levels > DEEPEST {
            return Err(too_deep(at));
        }
        // Weighed before it is copied: a text could double its size with every line.
        weigh(&mut self.weight, weight, at)?;
        let node = Node { value: node.value.clone(), line: at.line() };
        self.add(node, 0, at)
    }
}

/// Adds to the weight of a tree.
fn weigh(total: &mut usize, weight: usize, at: Marker) -> Result<(), SyntaxError> {
    *total += weight;
    if *total > HEAVIEST {
        return Err(SyntaxError::new(at, "too large, with each alias counted as a copy of what it stands for"));
    }
    Ok(())
}

fn too_deep(at: Marker) -> SyntaxError {
    SyntaxError::new(at, format!("nested deeper than {DEEPEST} levels"))
}

fn not_a_key(at: Marker) -> SyntaxError {
    SyntaxError::new(at, "a key must be a single word or text")
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
