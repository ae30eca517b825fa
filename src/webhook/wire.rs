//! The JSON of questions and answers: ContainerSSH 0.5 and 0.6, "Webhook authentication".
//!
//! An answer's wrong types are errors; what is missing, or `null`, is as if it were empty, as for Go's decoder. Keys that
//! an answer has beside these are of no interest, and keys are taken in any case, as by that.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::auth::{Attempt, PublicKey};
use crate::metadata::{Fact, Metadata};

/// What is wrong with an answer. Shows nothing of its values.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is not JSON.
    Json,
    /// What is at this path is not of this type.
    Type(String, &'static str),
    /// This key is there more than once, and in no place as it should be written.
    Ambiguous(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Json => f.write_str("the answer is not JSON"),
            Error::Type(path, kind) => write!(f, "the answer's {path} is not {kind}"),
            Error::Ambiguous(path) => write!(f, "the answer has {path} in several spellings"),
        }
    }
}

/// What every question has.
fn common(attempt: &Attempt<'_>) -> Value {
    json!({
        "username": attempt.user,
        "remoteAddress": attempt.client.to_string(),
        "connectionId": attempt.connection,
        "clientVersion": attempt.version,
    })
}

/// Asks whether a password is the user's.
pub fn password(attempt: &Attempt<'_>, password: &[u8]) -> Value {
    let mut question = common(attempt);
    question["passwordBase64"] = STANDARD.encode(password).into();
    question
}

/// Asks whether a public key is the user's.
pub fn public_key(attempt: &Attempt<'_>, key: &PublicKey) -> Value {
    let mut question = common(attempt);
    question["publicKey"] = key.to_string().into();
    question
}

/// Asks whether an authenticated user may in.
pub fn authorization(attempt: &Attempt<'_>, metadata: &Metadata) -> Value {
    let mut question = common(attempt);
    put_metadata(&mut question, metadata, false);
    question
}

/// Asks what a connection is served with.
pub fn configuration(attempt: &Attempt<'_>, metadata: &Metadata, with_sensitive: bool) -> Value {
    let mut question = common(attempt);
    put_metadata(&mut question, metadata, with_sensitive);
    question
}

/// A question as it is asked again for another connection of the same client's.
pub fn repeated(attempt: &Attempt<'_>, mut question: Value) -> Value {
    question["connectionId"] = Value::Null;
    question["remoteAddress"] = attempt.client.ip().to_string().into();
    question
}

/// Adds what is known of a connection, with what is sensitive or without.
fn put_metadata(question: &mut Value, metadata: &Metadata, with_sensitive: bool) {
    if let Some(user) = &metadata.authenticated_user {
        question["authenticatedUsername"] = user.as_str().into();
    }
    let facts = [
        ("metadata", encode(&metadata.facts, with_sensitive, |text| text.clone())),
        ("environment", encode(&metadata.environment, with_sensitive, |text| text.clone())),
        ("files", encode(&metadata.files, with_sensitive, |bytes| STANDARD.encode(bytes))),
    ];
    for (key, facts) in facts {
        if !facts.is_empty() {
            question[key] = facts.into();
        }
    }
}

fn encode<T>(facts: &BTreeMap<String, Fact<T>>, with_sensitive: bool, text: fn(&T) -> String) -> Map<String, Value> {
    let told = facts.iter().filter(|(_, fact)| with_sensitive || !fact.sensitive);
    told.map(|(name, fact)| (name.clone(), json!({"value": text(&fact.value), "sensitive": fact.sensitive}))).collect()
}

/// Whether an answer says yes, if it says anything of that, and what it says about the connection.
pub fn decode(answer: &[u8]) -> Result<(Option<bool>, Metadata), Error> {
    let answer: Value = serde_json::from_slice(answer).map_err(|_| Error::Json)?;
    if !answer.is_object() {
        return Err(Error::Type("whole".into(), "an object"));
    }
    let success = match field(&answer, "success")? {
        Value::Null => None,
        value => Some(value.as_bool().ok_or_else(|| Error::Type("success".into(), "true or false"))?),
    };
    Ok((success, decode_metadata(&answer)?))
}

/// What an answer wants put over the configuration, and what it says about the connection.
pub fn decode_configuration(answer: &[u8]) -> Result<(Value, Metadata), Error> {
    let answer: Value = serde_json::from_slice(answer).map_err(|_| Error::Json)?;
    if !answer.is_object() {
        return Err(Error::Type("whole".into(), "an object"));
    }
    let settings = field(&answer, "config")?.clone();
    if !settings.is_object() && !settings.is_null() {
        return Err(Error::Type("config".into(), "an object"));
    }
    Ok((settings, decode_metadata(&answer)?))
}

/// What an answer says about the connection.
fn decode_metadata(answer: &Value) -> Result<Metadata, Error> {
    let text = |text: &str| Some(text.to_owned());
    Ok(Metadata {
        authenticated_user: Some(string(answer, "authenticatedUsername", "")?).filter(|user| !user.is_empty()),
        facts: facts(answer, "metadata", text, "a text")?,
        environment: facts(answer, "environment", text, "a text")?,
        files: facts(answer, "files", |text| STANDARD.decode(text).ok(), "base64")?,
    })
}

/// What an object has at this key, or at one that differs from it by case alone.
fn field<'v>(value: &'v Value, key: &str) -> Result<&'v Value, Error> {
    let Some(entries) = value.as_object() else { return Ok(&Value::Null) };
    if let Some(exact) = entries.get(key) {
        return Ok(exact);
    }
    let mut alike = entries.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
    match (alike.next(), alike.next()) {
        // Which of them counts, their order would say, which is not known here.
        (Some(_), Some(_)) => Err(Error::Ambiguous(key.to_owned())),
        (found, _) => Ok(found.unwrap_or(&Value::Null)),
    }
}

fn string(value: &Value, key: &str, path: &str) -> Result<String, Error> {
    match field(value, key)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        _ => Err(Error::Type(format!("{path}{key}"), "a text")),
    }
}

fn facts<T>(
    answer: &Value,
    key: &str,
    parse: impl Fn(&str) -> Option<T>,
    kind: &'static str,
) -> Result<BTreeMap<String, Fact<T>>, Error> {
    let entries = match field(answer, key)? {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(entries) => entries,
        _ => return Err(Error::Type(key.into(), "an object")),
    };
    let fact = |(name, fact): (&String, &Value)| {
        let path = format!("{key}.{name:?}.");
        if !fact.is_object() {
            return Err(Error::Type(path, "an object"));
        }
        let sensitive = match field(fact, "sensitive")? {
            Value::Null => false,
            value => value.as_bool().ok_or_else(|| Error::Type(format!("{path}sensitive"), "true or false"))?,
        };
        let value = parse(&string(fact, "value", &path)?);
        let value = value.ok_or_else(|| Error::Type(format!("{path}value"), kind))?;
        Ok((name.clone(), Fact { value, sensitive }))
    };
    entries.iter().map(fact).collect()
}

/// A server's answer. What it says about the connection is the same when it is told to the next one.
pub(crate) fn fuzz(answer: &[u8]) {
    let (yes_or_no, configuration) = (decode(answer), decode_configuration(answer));
    for metadata in [yes_or_no.map(|(_, said)| said), configuration.map(|(_, said)| said)].into_iter().flatten() {
        let mut told = Value::Object(Map::new());
        put_metadata(&mut told, &metadata, true);
        assert_eq!(decode_metadata(&told), Ok(metadata));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attempt() -> Attempt<'static> {
        Attempt {
            user: "al\"ice\n",
            client: "[2001:db8::1]:22".parse().unwrap(),
            source: "2001:db8::".parse().unwrap(),
            connection: "0123",
            version: "SSH-2.0-Test",
            presence: Box::leak(Box::default()),
        }
    }

    #[test]
    fn a_password_is_asked_for_in_base64() {
        assert_eq!(
            password(&attempt(), b"s\xff"),
            json!({
                "username": "al\"ice\n", "remoteAddress": "[2001:db8::1]:22", "connectionId": "0123",
                "clientVersion": "SSH-2.0-Test", "passwordBase64": "c/8=",
            })
        );
    }

    #[test]
    fn a_public_key_is_asked_for_as_an_authorized_key() {
        let blob = [&b"\0\0\0\x0bssh-ed25519\0\0\0 "[..], &[0; 32]].concat();
        let question = public_key(&attempt(), &PublicKey::parse(&blob).unwrap());
        let zeros = "A".repeat(43);
        assert_eq!(question["publicKey"], format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{zeros}"));
    }

    #[test]
    fn an_answer_has_success_and_metadata() {
        let answer = br#"{"success": true, "authenticatedUsername": "bob", "remoteAddress": "x", "username": null,
            "metadata": {"team": {"value": "a"}, "secret": {"value": "s", "sensitive": true}},
            "environment": {"A": {"value": "b", "sensitive": null}}, "files": {"/f": {"value": "AAE="}}}"#;
        let (success, metadata) = decode(answer).unwrap();
        assert_eq!(success, Some(true));
        assert_eq!(metadata.authenticated_user.as_deref(), Some("bob"));
        assert_eq!(metadata.files["/f"], Fact { value: vec![0, 1], sensitive: false });
        assert!(!format!("{metadata:?}").contains("\"s\""));
        // What is sensitive is for the container alone.
        let mut question = json!({});
        put_metadata(&mut question, &metadata, false);
        assert_eq!(
            question,
            json!({
                "authenticatedUsername": "bob",
                "metadata": {"team": {"value": "a", "sensitive": false}},
                "environment": {"A": {"value": "b", "sensitive": false}},
                "files": {"/f": {"value": "AAE=", "sensitive": false}},
            })
        );
        put_metadata(&mut question, &metadata, true);
        assert_eq!(question["metadata"]["secret"], json!({"value": "s", "sensitive": true}));
    }

    #[test]
    fn nothing_but_true_is_a_yes() {
        for (answer, expected) in [
            ("{}", None),
            (r#"{"success": null}"#, None),
            (r#"{"success": false}"#, Some(false)),
            (r#"{"success": false, "Success": true}"#, Some(false)),
            (r#"{"succes": true}"#, None),
            (r#"{"Success": false}"#, Some(false)),
            // As Go's encoding/json has it.
            (r#"{"Success": true}"#, Some(true)),
            (r#"{"SUCCESS": true}"#, Some(true)),
        ] {
            assert_eq!(decode(answer.as_bytes()).map(|(success, _)| success), Ok(expected), "{answer}");
        }
        for bad in [
            "",
            "true",
            "[]",
            "<html>",
            r#"{"success": "true"}"#,
            r#"{"success": 1}"#,
            r#"{"success": true, "metadata": []}"#,
            r#"{"success": true, "metadata": {"a": "b"}}"#,
            r#"{"success": true, "environment": {"a": {"value": 1}}}"#,
            r#"{"success": true, "files": {"a": {"value": "?"}}}"#,
            r#"{"success": true, "files": {"a": {"value": "", "sensitive": "yes"}}}"#,
            r#"{"success": true, "authenticatedUsername": {}}"#,
            r#"{"success": true} x"#,
            r#"{"Success": true, "SUCCESS": false}"#,
            r#"{"Success": 1}"#,
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in "\\PC{0,200}", key in "success|metadata|files|authenticatedUsername") {
            let _ = decode(answer.as_bytes());
            let _ = decode(format!("{{\"{key}\": {answer}}}").as_bytes());
        }
    }
}
