//! Tables of keys, and the kinds that are about keys and not their values.

use serde_json::{Map, Value as Json, json};

use super::reader::{Kind, Reader};
use super::yaml::Node;

/// A table of keys, whose settings are a `T`.
pub(super) struct Section<T> {
    keys: Vec<(&'static str, Box<dyn Kind<T>>)>,
    /// The names of those that are read before all others, which so go over them.
    first: Vec<&'static str>,
}

impl<T: 'static> Section<T> {
    pub fn new() -> Self {
        Section { keys: Vec::new(), first: Vec::new() }
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

    /// Adds a key that is read before all others, by a kind that knows where it goes.
    pub fn first(mut self, name: &'static str, kind: impl Kind<T> + 'static) -> Self {
        self.first.push(name);
        self.any(name, kind)
    }

    /// Adds a section of which berth has nothing.
    pub fn absent(self, name: &'static str, section: Section<T>) -> Self {
        self.any(name, Absent(section))
    }

    /// Adds a key that the reader itself follows.
    pub fn checked<V: Default + 'static>(self, name: &'static str, kind: impl Kind<V> + 'static) -> Self {
        self.any(name, Checked(Box::new(kind)))
    }

    /// Adds all keys of another table, whose settings are a part of these.
    pub fn inline<V: 'static>(mut self, field: fn(&mut T) -> &mut V, section: Section<V>) -> Self {
        for (name, kind) in section.keys {
            self = self.any(name, Inlined { field, kind });
        }
        self.first.extend(section.first);
        self
    }

    /// Adds the key that a setting had in older versions of ContainerSSH. Its new key goes over it. `instead` completes
    /// "deprecated: use".
    pub fn deprecated<V: 'static>(
        mut self,
        name: &'static str,
        instead: &'static str,
        field: fn(&mut T) -> &mut V,
        kind: impl Kind<V> + 'static,
    ) -> Self {
        self.first.push(name);
        self.any(name, Deprecated { instead, warns: true, kind: Box::new(Inlined { field, kind: Box::new(kind) }) })
    }

    /// Makes all keys deprecated. It is for the reader of what they set to warn, where it matters.
    pub fn all_deprecated(mut self, instead: &'static str) -> Self {
        let deprecate = |kind| -> Box<dyn Kind<T>> { Box::new(Deprecated { instead, warns: false, kind }) };
        self.keys = self.keys.into_iter().map(|(name, kind)| (name, deprecate(kind))).collect();
        self
    }

    /// Adds keys that ContainerSSH has and berth has not, with the reason. Where they ask for nothing, that is fine.
    pub fn refused(mut self, names: &[&'static str], reason: &'static str) -> Self {
        for name in names {
            self = self.any(name, Refused(reason));
        }
        self
    }

    /// Adds keys that ContainerSSH has and berth has no use for: what they are for happens without them. They are taken
    /// with a warning that says so.
    pub fn needless(mut self, names: &[&'static str], reason: &'static str) -> Self {
        for name in names {
            self = self.any(name, Needless(reason));
        }
        self
    }

    /// Adds keys that belong to what another key would switch on, and berth has not: they have no effect.
    pub fn inert(mut self, names: &[&'static str]) -> Self {
        for name in names {
            self = self.any(name, Inert);
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
        // Not sorted: for each table, that would be ten kilobytes of code.
        // Answers may have keys in any case: ContainerSSH reads them with Go's encoding/json.
        let any_case = reader.is_answer;
        let is = |name: &str, key: &str| name == key || any_case && name.eq_ignore_ascii_case(key);
        let entries = reader.entries(node, |key| if any_case { key.to_ascii_lowercase() } else { key.to_owned() });
        let (first, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| self.first.iter().any(|name| is(name, &entry.0.text)));
        for (key, node) in first.iter().chain(&others) {
            match self.keys.iter().find(|(name, _)| is(name, &key.text)) {
                // ContainerSSH writes an empty text for what is not set.
                Some(_) if node.value.is_blank() => (),
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

    fn schema(&self) -> Json {
        // Not collected: that sorts, too.
        let mut properties = Map::new();
        for (name, kind) in &self.keys {
            properties.insert((*name).to_owned(), or_blank(kind.schema()));
        }
        json!({
            "type": "object",
            "description": "a mapping of keys to values",
            "properties": properties,
            "additionalProperties": false,
        })
    }
}

/// A schema that takes nothing at all, too.
fn or_blank(mut schema: Json) -> Json {
    match schema.get_mut("type") {
        Some(Json::Array(types)) => types.push("null".into()),
        Some(one) => *one = json!([one.take(), "null"]),
        None => {}
    }
    if let Some(Json::Array(values)) = schema.get_mut("enum") {
        values.extend([Json::Null, "".into()]);
    }
    if let Some(Json::Array(kinds)) = schema.get_mut("anyOf") {
        kinds.push(json!({"enum": [null, ""]}));
    }
    schema
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

    fn schema(&self) -> Json {
        self.kind.schema()
    }
}

/// A key whose value is not kept.
struct Checked<V>(Box<dyn Kind<V>>);

impl<T, V: Default> Kind<T> for Checked<V> {
    fn read(&self, node: &Node, _target: &mut T, reader: &mut Reader<'_>) {
        self.0.read(node, &mut V::default(), reader);
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        keys.push(path.to_owned());
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }
}

/// A key of another table.
struct Inlined<T, V> {
    field: fn(&mut T) -> &mut V,
    kind: Box<dyn Kind<V>>,
}

impl<T, V> Kind<T> for Inlined<T, V> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        self.kind.read(node, (self.field)(target), reader);
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        self.kind.keys(path, keys);
    }

    fn schema(&self) -> Json {
        self.kind.schema()
    }
}

/// A key that has another name now. It is no longer told of.
struct Deprecated<T> {
    instead: &'static str,
    warns: bool,
    kind: Box<dyn Kind<T>>,
}

impl<T> Kind<T> for Deprecated<T> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        if self.warns {
            reader.warn(node.line, format!("deprecated: use {}", self.instead));
        }
        self.kind.read(node, target, reader);
    }

    fn schema(&self) -> Json {
        let mut schema = self.kind.schema();
        schema["deprecated"] = true.into();
        schema["$comment"] = format!("deprecated: use {}", self.instead).into();
        schema
    }
}

/// A key that is known, and cannot be given, but for what asks for nothing.
struct Refused(&'static str);

impl<T> Kind<T> for Refused {
    fn read(&self, node: &Node, _target: &mut T, reader: &mut Reader<'_>) {
        if !node.value.is_empty() {
            reader.wrong(node.line, self.0);
        }
    }

    fn schema(&self) -> Json {
        json!({"enum": [false, 0, [], {}], "description": "left out", "$comment": self.0})
    }
}

/// A key that changes nothing, since what it asks for is there.
struct Needless(&'static str);

impl<T> Kind<T> for Needless {
    fn read(&self, node: &Node, _target: &mut T, reader: &mut Reader<'_>) {
        if !node.value.is_empty() {
            reader.warn(node.line, format!("has no effect: {}", self.0));
        }
    }

    fn schema(&self) -> Json {
        json!({"$comment": format!("has no effect: {}", self.0)})
    }
}

/// A section of which berth has nothing.
struct Absent<T>(Section<T>);

impl<T: 'static> Kind<T> for Absent<T> {
    fn read(&self, node: &Node, target: &mut T, reader: &mut Reader<'_>) {
        self.0.read(node, target, reader);
    }

    fn keys(&self, path: &str, keys: &mut Vec<String>) {
        self.0.keys(path, keys);
    }

    fn schema(&self) -> Json {
        let mut schema = self.0.schema();
        schema["$comment"] = "ContainerSSH's, of which berth has nothing".into();
        schema
    }
}

/// A key that changes nothing.
struct Inert;

impl<T> Kind<T> for Inert {
    fn read(&self, _node: &Node, _target: &mut T, _reader: &mut Reader<'_>) {}

    fn schema(&self) -> Json {
        json!({"$comment": "has no effect: what it belongs to is off"})
    }
}
