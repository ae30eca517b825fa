//! What the tables and the reference, `config.yaml`, say about keys: for people, and as a JSON Schema for editors.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::pod_api;
use super::reader::{Kind, similar, written_like};
use super::section;

/// The reference.
const REFERENCE: &str = include_str!("../../config.yaml");

/// What the reference says about one key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    /// The comment, in one line for each paragraph.
    comment: String,
    /// The key with its default, or an example of it, as written.
    lines: Vec<String>,
}

/// A JSON Schema (2020-12) of configurations.
pub fn schema() -> Json {
    let mut schema = section().schema();
    annotate(&mut schema, &mut Vec::new(), &reference());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "berth's configuration".into();
    let mut definitions = pod_api::definitions();
    definitions.insert("elsewhere".into(), elsewhere());
    schema["$defs"] = definitions.into();
    schema
}

/// What may stand in place of a single value.
fn elsewhere() -> Json {
    json!({
        "type": "object",
        "description": "{env: NAME} for a variable of berth's environment, {file: PATH} for what is in a file",
        "properties": {"env": {"type": "string"}, "file": {"type": "string"}},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
    })
}

/// Puts the reference's comments into a schema.
fn annotate(schema: &mut Json, path: &mut Vec<String>, reference: &BTreeMap<Vec<String>, Entry>) {
    if let Some(entry) = reference.get(&generic(path)) {
        let allowed = schema.get("description").and_then(Json::as_str).map(|allowed| format!("Must be {allowed}."));
        let comment = Some(entry.comment.clone()).filter(|comment| !comment.is_empty());
        let texts: Vec<String> = comment.into_iter().chain(allowed).collect();
        schema["description"] = texts.join("\n").into();
    }
    for schema in schema.get_mut("anyOf").and_then(Json::as_array_mut).into_iter().flatten() {
        // The description is that of the whole.
        for (key, schema) in schema.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
            below(key, schema, path, reference);
        }
    }
    for (key, schema) in schema.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
        below(key, schema, path, reference);
    }
    if let Some(schema) = schema.get_mut("additionalProperties").filter(|schema| schema.is_object()) {
        below("*", schema, path, reference);
    }
}

fn below(key: &str, schema: &mut Json, path: &mut Vec<String>, reference: &BTreeMap<Vec<String>, Entry>) {
    path.push(key.to_owned());
    annotate(schema, path, reference);
    path.pop();
}

/// Says what a key is for and what it may hold; its path has dots, and any name where names are free. On failure, says
/// which key is unknown.
pub fn explain(path: &str) -> Result<String, String> {
    let keys: Vec<&str> = path.split('.').collect();
    let (schema, definitions) = (section().schema(), pod_api::definitions().into());
    let mut place = &schema;
    let mut known = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let Some((name, next)) = step(place, key, &definitions) else {
            let names = properties(place, &definitions);
            let meant = similar(key, names.iter().map(String::as_str)).map(|name| format!("; did you mean {name}?"));
            let unknown = keys.get(..=index).unwrap_or_default().join(".");
            return Err(format!("unknown key {unknown}{}", meant.unwrap_or_default()));
        };
        known.push(name);
        place = next;
    }
    let mut text = format!("{path}\n");
    let entry = reference().remove(&generic(&known)).unwrap_or_default();
    let allowed = allowed(place).map(|allowed| format!("Must be {allowed}."));
    let note = place.get("$comment").and_then(Json::as_str).map(str::to_owned);
    for line in [Some(entry.comment).filter(|comment| !comment.is_empty()), note, allowed].into_iter().flatten() {
        text += &format!("    {line}\n");
    }
    let names = properties(place, &definitions);
    if !names.is_empty() {
        text += &format!("    Keys: {}\n", names.join(", "));
    }
    if !entry.lines.is_empty() {
        text += "\n";
    }
    for line in &entry.lines {
        text += &format!("    {line}\n");
    }
    Ok(text)
}

/// What a schema refers to, or else itself; of a list, that of its items.
fn follow<'s>(schema: &'s Json, definitions: &'s Json) -> &'s Json {
    let schema = schema.get("items").unwrap_or(schema);
    let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(|name| definitions.get(name)).unwrap_or(schema)
}

/// Goes below a key of a schema's. Gives the name by which the reference knows it.
fn step<'s>(schema: &'s Json, key: &str, definitions: &'s Json) -> Option<(String, &'s Json)> {
    let schema = follow(schema, definitions);
    let alternatives = schema.get("anyOf").and_then(Json::as_array).into_iter().flatten();
    if let Some(found) = alternatives.filter_map(|schema| step(schema, key, definitions)).next() {
        return Some(found);
    }
    let patterns = schema.get("patternProperties").and_then(Json::as_object).into_iter().flatten();
    let titled =
        |schema: &Json| schema.get("title").and_then(Json::as_str).is_some_and(|t| t.eq_ignore_ascii_case(key));
    if let Some((_, found)) = patterns.into_iter().find(|(_, schema)| titled(schema)) {
        return Some((key.to_owned(), found));
    }
    if let Some(found) = schema.get("properties").and_then(|properties| properties.get(key)) {
        return Some((key.to_owned(), found));
    }
    let free = schema.get("additionalProperties").filter(|free| free.is_object())?;
    Some(("*".to_owned(), free))
}

/// What completes "must be", for a schema or the first of its alternatives.
fn allowed(schema: &Json) -> Option<&str> {
    let first = || schema.get("anyOf").and_then(|kinds| kinds.get(0)).and_then(allowed);
    schema.get("description").and_then(Json::as_str).or_else(first)
}

/// The names of the keys that a schema has.
fn properties(schema: &Json, definitions: &Json) -> Vec<String> {
    let schema = follow(schema, definitions);
    let names = |key| schema.get(key).and_then(Json::as_object).into_iter().flatten();
    let titles = names("patternProperties").filter_map(|(_, schema)| Some(schema.get("title")?.as_str()?.to_owned()));
    let alternatives = schema.get("anyOf").and_then(Json::as_array).into_iter().flatten();
    let own: Vec<String> = match schema.get("patternProperties") {
        Some(_) => titles.map(|title| written_like(&title, "a")).collect(),
        None => names("properties").map(|(name, _)| name.clone()).collect(),
    };
    alternatives.flat_map(|schema| properties(schema, definitions)).chain(own).collect()
}

/// What the reference says, by the keys of a path.
fn reference() -> BTreeMap<Vec<String>, Entry> {
    let mut entries = BTreeMap::new();
    // The keys that the current line is below, each with its indentation.
    let mut open: Vec<(usize, String)> = Vec::new();
    let (mut comment, mut is_comment_done) = (String::new(), false);
    let mut current: Option<Vec<String>> = None;
    for line in REFERENCE.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        let text = bare.strip_prefix("# ").filter(|text| !text.starts_with('-'));
        let key = |line: &str| {
            let (key, rest) = line.split_once(':')?;
            let good = key.starts_with(|c: char| c.is_ascii_alphabetic()) && !key.contains(' ');
            (good && (rest.is_empty() || rest.starts_with(' '))).then(|| key.to_owned())
        };
        if bare.is_empty() {
            (comment, is_comment_done, current) = (String::new(), false, None);
        } else if let Some(text) = text {
            if std::mem::take(&mut is_comment_done) {
                comment.clear();
            }
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment += text;
            current = None;
        } else if let Some(name) = key(bare.strip_prefix('#').unwrap_or(bare)) {
            open.retain(|(other, _)| *other < indent);
            open.push((indent, name));
            let path: Vec<String> = open.iter().map(|(_, name)| name.clone()).collect();
            let path = generic(&path);
            let entry: &mut Entry = entries.entry(path.clone()).or_default();
            if entry.comment.is_empty() {
                entry.comment.clone_from(&comment);
            }
            entry.lines.push(bare.to_owned());
            (is_comment_done, current) = (true, Some(path));
        } else if let Some(entry) = current.as_ref().and_then(|path| entries.get_mut(path)) {
            // An example goes on.
            entry.lines.push(line.strip_prefix(&" ".repeat(indent)).unwrap_or(line).to_owned());
        }
    }
    entries
}

/// The path at which the reference explains a key: one user stands for all, and one webhook.
fn generic(path: &[String]) -> Vec<String> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["auth", "users", _, rest @ ..] => [&["auth", "users", "*"], rest].concat(),
        ["auth", "publicKey" | "authz", rest @ ..] if !rest.is_empty() => [&["auth", "password"], rest].concat(),
        words => words.to_vec(),
    };
    words.into_iter().map(str::to_owned).collect()
}
