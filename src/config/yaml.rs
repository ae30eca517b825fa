//! A configuration as typed: YAML text to a tree of nodes that know their lines.
//!
//! A scalar stays the text that it is written as, and its key decides what it is: `10` is a number for one key and a
//! text for another, as Go's decoders have it. JSON is YAML. The text may be hostile, so the tree's size and depth are
//! bounded, what aliases repeat included.

use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value as Json};

use super::kind::parse_integer;

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
            Value::Scalar { text, plain } => text.is_empty() || *plain && matches!(text.as_str(), "false" | "0"),
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
            let Some((key, value)) = entries.iter().find(|(key, _)| key.text == *name) else { break };
            (node, line) = (value, Some(key.line));
        }
        line
    }

    /// What stands at the end of this path.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| {
            let Value::Map(entries) = &node.value else { return None };
            entries.iter().find(|(key, _)| key.text == *name).map(|(_, value)| value)
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

fn untyped(text: &str) -> Json {
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
}

impl Open {
    fn wants_key(&self) -> bool {
        matches!(self.node.value, Value::Map(_)) && self.key.is_none()
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
                Some(open) => self.add(open.node, open.anchor, at),
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
        self.open.push(Open { node: Node { value, line: at.line() }, anchor, key: None });
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
mod tests {
    use super::*;

    fn plain(text: &str, line: usize) -> Node {
        Node { value: Value::Scalar { text: text.into(), plain: true }, line }
    }

    fn error(text: &str) -> (usize, usize, String) {
        let error = parse(text).unwrap_err();
        (error.line, error.column, error.message)
    }

    #[test]
    fn nodes_know_their_lines() {
        let root = parse("# comment\na:\n  b: 1\n  c: [x,\n    y]\n").unwrap();
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!(entries[0].0, Key { text: "a".into(), line: 2 });
        let Value::Map(entries) = &entries[0].1.value else { panic!("{root:?}") };
        assert_eq!(entries[0], (Key { text: "b".into(), line: 3 }, plain("1", 3)));
        assert_eq!(entries[1].1.value, Value::List(vec![plain("x", 4), plain("y", 5)]));
        assert_eq!(root.line_of(&["a", "c"]), Some(4));
        assert_eq!(root.line_of(&["a", "missing", "c"]), Some(2));
        assert_eq!(root.line_of(&["missing"]), None);
    }

    #[test]
    fn json_is_yaml() {
        let json = "{\n\t\"a\": {\"b\\u00e9\": [1, true, null, \"x\\/y\"]}\n}";
        let yaml = "a: {bé: [1, true, null, \"x/y\"]}";
        let strip = |text| {
            let Value::Map(mut entries) = parse(text).unwrap().value else { panic!("no map") };
            let Value::Map(mut inner) = entries.remove(0).1.value else { panic!("no map") };
            let (key, list) = inner.remove(0);
            let Value::List(items) = list.value else { panic!("no list") };
            (key.text, items.into_iter().map(|node| node.value).collect::<Vec<_>>())
        };
        assert_eq!(strip(json), strip(yaml));
    }

    #[test]
    fn untyped_values_are_those_of_the_core_schema() {
        let text = "[1, -2, 0x10, 0o17, 0644, 1.5, 1e3, true, False, ~, '1', yes, 1.2.3, 08, 0.5, 1e400, 99999999999999999999, 2026-11-25]";
        let expected = serde_json::json!([
            1,
            -2,
            16,
            15,
            420,
            1.5,
            1000.0,
            true,
            false,
            null,
            "1",
            "yes",
            "1.2.3",
            "08",
            0.5,
            "1e400",
            1e20,
            "2026-11-25"
        ]);
        assert_eq!(parse(text).unwrap().to_json(), expected);
        assert_eq!(parse("{a: {1: [b]}}").unwrap().to_json(), serde_json::json!({"a": {"1": ["b"]}}));
    }

    #[test]
    fn quotes_tell_a_text_from_a_null() {
        let root = parse("[~, null, , 'null', \"\"]").or_else(|_| parse("[~, null, 'null', \"\"]")).unwrap();
        let Value::List(items) = root.value else { panic!("no list") };
        let nulls = items.iter().filter(|node| node.value == Value::Null).count();
        assert_eq!((items.len(), nulls), (4, 2));
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(parse("\u{feff}# only a comment\n").unwrap().value, Value::Null);
    }

    #[test]
    fn anchors_are_copied_with_the_line_of_their_alias() {
        let root = parse("a: &x [1]\nb: *x\n").unwrap();
        let Value::Map(entries) = root.value else { panic!("no map") };
        assert_eq!(entries[1].1, Node { value: Value::List(vec![plain("1", 1)]), line: 2 });
    }

    #[test]
    fn syntax_errors_have_a_line_and_a_column() {
        assert_eq!(error("a: b\nc: [1, 2\n").0, 3);
        assert_eq!(error("a: b\n---\nc: d\n"), (2, 1, "a second document; a configuration is one".into()));
        assert_eq!(error("a: !!str b").0, 1);
        assert_eq!(error("a: b\n? [c]\n: d").0, 2);
        assert_eq!(error("a: *b").0, 1);
        assert_eq!(error("a: &b [*b]").0, 1);
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert!(parse(&"[".repeat(1000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
        assert!(parse(&"{a: ".repeat(1000)).is_err());
        let mut laughs = String::from("a0: &a0 [lol, lol]\n");
        for n in 1..30 {
            laughs += &format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1);
        }
        assert!(error(&laughs).2.starts_with("too large"));
        let mut tower = String::from("a0: &a0 []\n");
        for n in 1..100 {
            tower += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        assert_eq!(error(&tower).2, "nested deeper than 32 levels");
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a, ".repeat(1000));
        assert!(error(&long).2.starts_with("too large"));
    }
}
