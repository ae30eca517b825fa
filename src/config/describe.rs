//! What the tables and the reference, `config.yaml`, say about keys: for people, and as a JSON Schema for editors.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value as Json, json};

use super::pod_api;
use super::reader::{Kind, similar, written_like};
use super::section;

/// The reference.
const REFERENCE: &str = include_str!("../../config.yaml");

/// The schema of all keys, that of what pods are made of, and what the reference says: each is some work to make.
static SCHEMA: LazyLock<Json> = LazyLock::new(|| section().schema());
static DEFINITIONS: LazyLock<Json> = LazyLock::new(|| pod_api::definitions().into());
static ENTRIES: LazyLock<BTreeMap<Vec<String>, Entry>> = LazyLock::new(read_reference);

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
    let mut schema = SCHEMA.clone();
    annotate(&mut schema, &mut Vec::new());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "berth's configuration".into();
    schema["$defs"] = DEFINITIONS.clone();
    schema["$defs"]["elsewhere"] = elsewhere();
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
fn annotate(schema: &mut Json, path: &mut Vec<String>) {
    if let Some(entry) = ENTRIES.get(&generic(path)) {
        let allowed = schema.get("description").and_then(Json::as_str).map(|allowed| format!("Must be {allowed}."));
        let comment = Some(entry.comment.clone()).filter(|comment| !comment.is_empty());
        let texts: Vec<String> = comment.into_iter().chain(allowed).collect();
        schema["description"] = texts.join("\n").into();
    }
    for schema in schema.get_mut("anyOf").and_then(Json::as_array_mut).into_iter().flatten() {
        // The description is that of the whole.
        for (key, schema) in schema.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
            below(key, schema, path);
        }
    }
    for (key, schema) in schema.get_mut("properties").and_then(Json::as_object_mut).into_iter().flatten() {
        below(key, schema, path);
    }
    if let Some(schema) = schema.get_mut("additionalProperties").filter(|schema| schema.is_object()) {
        below("*", schema, path);
    }
}

fn below(key: &str, schema: &mut Json, path: &mut Vec<String>) {
    path.push(key.to_owned());
    annotate(schema, path);
    path.pop();
}

/// Says what a key is for and what it may hold; its path has dots, and any name where names are free. Of a word that is no
/// key, says in the names of which keys it is, or else in the words about which. On failure, says which key is unknown.
pub fn explain(path: &str) -> Result<String, String> {
    match explain_key(path) {
        Err(unknown) if !path.contains('.') => search(path).ok_or(unknown),
        result => result,
    }
}

fn explain_key(path: &str) -> Result<String, String> {
    let keys: Vec<&str> = path.split('.').collect();
    let mut place = &*SCHEMA;
    let mut known = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let Some((name, next)) = step(place, key) else {
            let names = properties(place);
            let meant = similar(key, names.iter().map(String::as_str)).map(|name| format!("; did you mean {name}?"));
            let unknown = keys.get(..=index).unwrap_or_default().join(".");
            return Err(format!("unknown key {unknown}{}", meant.unwrap_or_default()));
        };
        known.push(name);
        place = next;
    }
    let mut text = format!("{path}\n");
    let allowed = allowed(place).map(|allowed| format!("Must be {allowed}."));
    for line in [said(&known), note(place), allowed].into_iter().flatten() {
        text += &format!("    {line}\n");
    }
    let names = properties(place);
    if !names.is_empty() {
        text += &format!("    Keys: {}\n", names.join(", "));
    }
    let lines = ENTRIES.get(&generic(&known)).map(|entry| entry.lines.as_slice()).unwrap_or_default();
    if !lines.is_empty() {
        text += "\n";
    }
    for line in lines {
        text += &format!("    {line}\n");
    }
    Ok(text)
}

/// What is said about a key, or else about what it is a part of.
fn said(path: &[String]) -> Option<String> {
    let path = generic(path);
    let comment = |path: &[String]| ENTRIES.get(path).map(|entry| &entry.comment).filter(|text| !text.is_empty());
    let own = comment(&path).cloned().or_else(|| of_dockers(&path));
    // A mode, a list or a part of it is no section.
    let of_whole =
        || path.split_last().filter(|(_, whole)| whole.len() > 1).and_then(|(_, whole)| comment(whole).cloned());
    own.or_else(of_whole)
}

/// What is said of a key that is Docker's own.
fn of_dockers(path: &[String]) -> Option<String> {
    let [docker, execution, object, keys @ ..] = path else { return None };
    let object = match (docker.as_str(), execution.as_str(), object.as_str()) {
        ("docker", "execution", "container") => "Config",
        ("docker", "execution", "host") => "HostConfig",
        ("docker", "execution", "network") => "NetworkingConfig",
        ("docker", "execution", "auth") => "AuthConfig",
        _ => return None,
    };
    let capital = |key: &String| key.chars().next().map_or('*', |first| first.to_ascii_uppercase()).to_string();
    let names: Vec<String> = keys.iter().map(|key| capital(key) + key.get(1..).unwrap_or_default()).collect();
    Some(format!("The Docker API's {object}.{}, passed on as it is.", names.join(".")))
}

/// What a schema says of its key, by itself.
fn note(schema: &Json) -> Option<String> {
    schema.get("$comment").and_then(Json::as_str).map(str::to_owned)
}

/// The keys that have a word in their names, or, where there is none, those in whose explanations it is.
fn search(word: &str) -> Option<String> {
    let word = word.to_lowercase();
    let (mut named, mut told) = (Vec::new(), Vec::new());
    walk(&SCHEMA, &mut Vec::new(), &mut |path, _| {
        // Where keys are good in several places, one of them will do.
        let Some(name) = path.last().filter(|_| generic(path) == path) else { return };
        let line = path.join(".").replace(".*", ".NAME");
        if name.to_lowercase().contains(&word) {
            named.push(line);
        } else if said(path).is_some_and(|text| text.to_lowercase().contains(&word)) {
            told.push(line);
        }
    });
    let found = if named.is_empty() { told } else { named };
    let lines = found.iter().map(|line| format!("    {line}\n"));
    (!found.is_empty()).then(|| format!("{word}: see\n{}", lines.collect::<String>()))
}

/// Visits all keys of a schema, by their paths.
fn walk(schema: &Json, path: &mut Vec<String>, visit: &mut dyn FnMut(&[String], &Json)) {
    for schema in schema.get("anyOf").and_then(Json::as_array).into_iter().flatten() {
        walk(schema, path, visit);
    }
    for name in properties_of(schema) {
        let Some((name, below)) = step(schema, &name) else { continue };
        path.push(name);
        visit(path, below);
        walk(below, path, visit);
        path.pop();
    }
    if let Some(free) = schema.get("additionalProperties").filter(|free| free.is_object()) {
        path.push("*".to_owned());
        walk(free, path, visit);
        path.pop();
    }
}

/// What a schema refers to, or else itself; of a list, that of its items.
fn follow(schema: &Json) -> &Json {
    let schema = schema.get("items").unwrap_or(schema);
    let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(|name| DEFINITIONS.get(name)).unwrap_or(schema)
}

/// Goes below a key of a schema's. Gives the name by which the reference knows it.
fn step<'s>(schema: &'s Json, key: &str) -> Option<(String, &'s Json)> {
    let schema = follow(schema);
    let alternatives = schema.get("anyOf").and_then(Json::as_array).into_iter().flatten();
    if let Some(found) = alternatives.filter_map(|schema| step(schema, key)).next() {
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

/// The names of the keys that a schema has, and its alternatives.
fn properties(schema: &Json) -> Vec<String> {
    let schema = follow(schema);
    let alternatives = schema.get("anyOf").and_then(Json::as_array).into_iter().flatten();
    alternatives.flat_map(properties).chain(properties_of(schema)).collect()
}

/// The names of the keys that a schema itself has.
fn properties_of(schema: &Json) -> Vec<String> {
    let names = |key| schema.get(key).and_then(Json::as_object).into_iter().flatten();
    let titles = names("patternProperties").filter_map(|(_, schema)| Some(schema.get("title")?.as_str()?.to_owned()));
    match schema.get("patternProperties") {
        Some(_) => titles.map(|title| written_like(&title, "a")).collect(),
        None => names("properties").map(|(name, _)| name.clone()).collect(),
    }
}

/// What the reference says, by the keys of a path.
fn read_reference() -> BTreeMap<Vec<String>, Entry> {
    let mut entries = BTreeMap::new();
    // The keys that the current line is below, each with its indentation.
    let mut open: Vec<(usize, String)> = Vec::new();
    let (mut comment, mut is_comment_done) = (String::new(), false);
    let mut current: Option<Vec<String>> = None;
    for line in REFERENCE.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        // An example's further lines are further in.
        let text = bare.strip_prefix("# ").filter(|text| !text.starts_with(['-', ' ']));
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

/// The path at which the reference explains a key: one user stands for all, and for groups, and one webhook; what users
/// have of everyone's settings is explained where everyone's are.
fn generic(path: &[String]) -> Vec<String> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["auth", "users" | "groups", _, section @ ("docker" | "kubernetes"), rest @ ..] if !rest.is_empty() => {
            [&[*section], rest].concat()
        }
        ["auth", "users" | "groups", _, "forwarding", rest @ ..] if !rest.is_empty() => {
            [&["security", "forwarding"], rest].concat()
        }
        ["auth", "users" | "groups", _, "security", rest @ ..] if !rest.is_empty() => [&["security"], rest].concat(),
        ["auth", "users" | "groups", _, rest @ ..] => [&["auth", "users", "*"], rest].concat(),
        ["auth", "publicKey" | "authz", rest @ ..] if !rest.is_empty() => [&["auth", "password"], rest].concat(),
        words => words.to_vec(),
    };
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{SCHEMA, note, said, walk};

    #[test]
    fn every_key_has_a_text() {
        let mut bare = Vec::new();
        let mut noted: Vec<String> = Vec::new();
        walk(&SCHEMA, &mut Vec::new(), &mut |path, schema| {
            let name = path.join(".");
            if note(schema).is_some() {
                noted.push(format!("{name}."));
            }
            // What is said of a section that is no more, is said of all that is in it.
            let has_note = noted.iter().any(|above| format!("{name}.").starts_with(above));
            if !has_note && said(path).is_none() {
                bare.push(name);
            }
        });
        bare.sort();
        bare.dedup();
        assert!(bare.is_empty(), "{} without a text: {bare:#?}", bare.len());
    }
}
