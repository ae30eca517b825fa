//! The types of a pod's metadata and spec: `pod_types.txt`, which `scripts/pod-types` makes of what Kubernetes publishes.
//!
//! What stands without quotes is read as the type that its field has: 8080 is a text as the value of a variable, and a
//! number as a port; `no` is false where a boolean is wanted. A field that the table has not may be newer than it, so it
//! is passed on, with a warning.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};

use super::docker_api::take_map;
use super::kind::{parse_switch, switch_schema};
use super::naming::{literal, seems_expanded};
use super::reader::{Kind, Reader, described, similar};
use super::yaml::{Node, Value, untyped};

/// Each type, and its fields with their types.
const TYPES: &str = include_str!("pod_types.txt");

/// The types of an object's fields, by their names.
type Fields = BTreeMap<&'static str, &'static str>;

fn objects() -> &'static BTreeMap<&'static str, Fields> {
    static OBJECTS: LazyLock<BTreeMap<&'static str, Fields>> = LazyLock::new(|| {
        let object = |line: &'static str| {
            let (name, fields) = line.split_once(' ')?;
            Some((name, fields.split(' ').filter_map(|field| field.split_once('=')).collect()))
        };
        TYPES.lines().filter(|line| !line.starts_with('#')).filter_map(object).collect()
    });
    &OBJECTS
}

/// A type of the API's.
enum Type {
    Text,
    Boolean,
    Integer,
    IntOrString,
    Quantity,
    List(&'static str),
    /// A mapping with free keys.
    Free(&'static str),
    Object(&'static str, &'static Fields),
    /// Which has no type, or none that matters.
    Any,
}

impl Type {
    fn of(name: &'static str) -> Type {
        match name {
            "string" | "Time" => Type::Text,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "IntOrString" => Type::IntOrString,
            "Quantity" => Type::Quantity,
            _ => {
                let list = name.strip_prefix("[]").map(Type::List);
                let free = || name.strip_prefix("map:").map(Type::Free);
                let object = || objects().get(name).map(|fields| Type::Object(name, fields));
                list.or_else(free).or_else(object).unwrap_or(Type::Any)
            }
        }
    }

    /// Completes "must be".
    fn allowed(&self) -> &'static str {
        match self {
            Type::Text => "a text",
            Type::Boolean => "true or false, without quotes",
            Type::Integer => "a number, without quotes",
            Type::IntOrString => "a number or a text",
            Type::Quantity => "a quantity, such as 512Mi or 0.5",
            Type::List(_) => "a list",
            Type::Free(_) | Type::Object(..) => "a mapping of keys to values",
            Type::Any => "a value",
        }
    }

    fn schema(&self) -> Json {
        let schema = match self {
            Type::Text => json!({"anyOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"$ref": "#/$defs/elsewhere"},
            ]}),
            Type::Boolean => json!({"anyOf": [switch_schema(), {"type": "null"}]}),
            Type::Integer => json!({"type": ["integer", "null"]}),
            Type::IntOrString | Type::Quantity => json!({"type": ["string", "number", "null"]}),
            Type::List(item) => json!({"type": ["array", "null"], "items": Type::of(item).schema()}),
            Type::Free(value) => {
                json!({"type": ["object", "null"], "additionalProperties": Type::of(value).schema()})
            }
            Type::Object(name, _) => json!({"$ref": format!("#/$defs/{name}")}),
            Type::Any => return json!({}),
        };
        described(schema, self.allowed())
    }
}

/// The JSON Schemas of all types, by their names.
pub(super) fn definitions() -> Map<String, Json> {
    let definition = |(name, fields): (&&str, &Fields)| {
        let properties = fields.iter().map(|(field, kind)| ((*field).to_owned(), Type::of(kind).schema()));
        let properties: Map<String, Json> = properties.collect();
        ((*name).to_owned(), json!({"type": ["object", "null"], "properties": properties}))
    };
    objects().iter().map(definition).collect()
}

/// An object of the API's, of the type of this name. A file's stands as a whole; what an answer has of it goes over what is
/// there.
pub(super) struct Object(pub &'static str);

impl Kind<Map<String, Json>> for Object {
    fn read(&self, node: &Node, target: &mut Map<String, Json>, reader: &mut Reader<'_>) {
        let mut value = match reader.is_answer {
            true => Json::Object(std::mem::take(target)),
            false => Json::Null,
        };
        read(self.0, Percent::Literal, node, &mut value, reader);
        if let Json::Object(map) = value {
            *target = map;
        }
    }

    fn schema(&self) -> Json {
        json!({"anyOf": [Type::of(self.0).schema()], "description": "a mapping of keys to values"})
    }
}

/// What a percent sign in a text is, of a file's. Answers are made for their user: nothing of them could be expanded.
#[derive(Clone, Copy)]
enum Percent {
    /// Nothing that such a text has.
    Literal,
    /// Perhaps meant as it is.
    Free,
    /// The program's.
    Programs,
    /// Somebody else looks at it.
    Elsewhere,
}

impl Percent {
    fn in_field(object: &str, field: &str) -> Percent {
        match (object, field) {
            ("ObjectMeta", "name" | "labels") => Percent::Elsewhere,
            (_, "command" | "args") | ("HTTPGetAction", "path") => Percent::Programs,
            ("EnvVar" | "HTTPHeader" | "Sysctl", "value") | ("ObjectMeta", "annotations") => Percent::Free,
            _ => Percent::Literal,
        }
    }
}

/// Reads a value of the type of this name.
fn read(name: &'static str, percent: Percent, node: &Node, target: &mut Json, reader: &mut Reader<'_>) {
    let kind = Type::of(name);
    match (&kind, &node.value) {
        (_, Value::Null) => *target = Json::Null,
        (Type::Any, _) => {
            check_keys(node, reader);
            *target = node.to_json();
        }
        (Type::List(item), Value::List(nodes)) => {
            let mut values = vec![Json::Null; nodes.len()];
            for (index, (node, place)) in nodes.iter().zip(&mut values).enumerate() {
                reader.within_item(index, |reader| read(item, percent, node, place, reader));
            }
            *target = Json::Array(values);
        }
        (Type::Free(value), Value::Map(_)) => {
            let mut map = take_map(target);
            for (key, node) in reader.entries(node, str::to_owned) {
                let place = map.entry(key.text.clone()).or_insert(Json::Null);
                reader.within(&key.text, |reader| read(value, percent, node, place, reader));
            }
            *target = Json::Object(map);
        }
        (Type::Object(name, fields), Value::Map(_)) => {
            *target = read_object(name, fields, node, take_map(target), reader)
        }
        (Type::Text, _) => {
            let Some(fetched) = reader.fetch(node) else { return };
            match &fetched.value {
                Value::Scalar { text, .. } => *target = Json::String(text_of(text, percent, node, reader)),
                value => reader.wrong(node.line, format!("must be {}, not {value}", kind.allowed())),
            }
        }
        (_, Value::Scalar { text, plain }) => match scalar(&kind, text, *plain) {
            Some(value) => *target = value,
            None => reader.wrong(node.line, format!("must be {}", kind.allowed())),
        },
        (_, value) => reader.wrong(node.line, format!("must be {}, not {value}", kind.allowed())),
    }
}

fn read_object(
    name: &str,
    fields: &'static Fields,
    node: &Node,
    mut map: Map<String, Json>,
    reader: &mut Reader<'_>,
) -> Json {
    for (key, node) in reader.entries(node, str::to_lowercase) {
        let exact = fields.get_key_value(key.text.as_str());
        // ContainerSSH takes them in any case, and writes the API's own.
        let any_case = || fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(&key.text));
        match exact.or_else(any_case) {
            Some((field, kind)) => reader.within(&key.text, |reader| {
                let place = map.entry(*field).or_insert(Json::Null);
                read(kind, Percent::in_field(name, field), node, place, reader);
            }),
            None => {
                let meant = similar(&key.text, fields.keys().copied());
                let meant = meant.map(|field| format!("; did you mean {field}?")).unwrap_or_default();
                let message = format!("unknown field{meant}; a cluster that does not know it either leaves it out");
                reader.within(&key.text, |reader| {
                    reader.warn(key.line, message);
                    check_keys(node, reader);
                });
                map.insert(key.text.clone(), node.to_json());
            }
        }
    }
    Json::Object(map)
}

/// A text of a file's or an answer's, in which percent signs may have to be looked at.
fn text_of(text: &str, percent: Percent, node: &Node, reader: &mut Reader<'_>) -> String {
    match percent {
        _ if reader.is_answer => {}
        Percent::Literal => match literal(text) {
            Ok(text) => return text,
            Err(message) => reader.wrong(node.line, message),
        },
        Percent::Free => {
            if let Some(message) = seems_expanded(text) {
                reader.warn(node.line, message);
            }
        }
        Percent::Programs | Percent::Elsewhere => {}
    }
    text.to_owned()
}

fn scalar(kind: &Type, text: &str, plain: bool) -> Option<Json> {
    let integer = || Some(untyped(text)).filter(|value| plain && (value.is_i64() || value.is_u64()));
    match kind {
        Type::Boolean if plain => parse_switch(text).map(Json::from),
        Type::Integer => integer(),
        Type::IntOrString => Some(integer().unwrap_or_else(|| text.into())),
        // The API's own form is a text; 0x10 is no quantity.
        Type::Quantity => Some(integer().map_or_else(|| text.into(), |number| number.to_string().into())),
        _ => None,
    }
}

/// Reports keys that are given twice, of which JSON would lose one.
fn check_keys(node: &Node, reader: &mut Reader<'_>) {
    match &node.value {
        Value::Map(_) => {
            for (key, node) in reader.entries(node, str::to_owned) {
                reader.within(&key.text, |reader| check_keys(node, reader));
            }
        }
        Value::List(items) => {
            for (index, node) in items.iter().enumerate() {
                reader.within_item(index, |reader| check_keys(node, reader));
            }
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}

#[cfg(test)]
#[path = "pod_api_tests.rs"]
mod tests;
