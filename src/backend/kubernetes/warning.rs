//! What an API server warns of: header fields as `299 - "text"` (RFC 7234 section 5.5), which kubectl prints, too.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The code of warnings that are for people to read.
const CODE: &str = "299";

/// How many texts are remembered. Then all are forgotten: those that still come are told again.
const MOST: usize = 100;

/// The longest text that is told, in characters.
const LIMIT: usize = 1000;

/// The warnings that were told.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<BTreeSet<String>>);

impl Warnings {
    /// Tells the log what is new in these fields.
    pub(super) fn hear<'a>(&self, fields: impl Iterator<Item = &'a str>) {
        for text in fields.flat_map(texts) {
            if self.is_new(&text) {
                log::warn!("kubernetes: the API server warns: {text}");
            }
        }
    }

    fn is_new(&self, text: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains(text) {
            return false;
        }
        if told.len() >= MOST {
            told.clear();
        }
        told.insert(text.to_owned())
    }
}

/// The texts of one field's warnings. What is malformed ends it.
fn texts(mut field: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        field = field.trim_start_matches([' ', '\t', ',']);
        let Some((code, rest)) = field.split_once(' ') else { return texts };
        let Some((_agent, rest)) = rest.split_once(' ') else { return texts };
        let Some((text, rest)) = quoted(rest) else { return texts };
        if code == CODE {
            texts.push(text);
        }
        // A date may follow.
        field = quoted(rest.trim_start()).map_or(rest, |(_date, rest)| rest);
    }
}

/// A quoted string at the beginning (RFC 9110 section 5.6.4), and what follows it.
fn quoted(field: &str) -> Option<(String, &str)> {
    let field = field.strip_prefix('"')?;
    let mut text = String::new();
    let (mut characters, mut count) = (field.char_indices(), 0);
    while let Some((index, character)) = characters.next() {
        let character = match character {
            '"' => return Some((text, &field[index + 1..])),
            '\\' => characters.next()?.1,
            other => other,
        };
        if count < LIMIT {
            text.push(character);
        }
        count += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LIMIT, MOST, Warnings, texts};

    #[test]
    fn warnings_are_read_as_servers_write_them() {
        assert_eq!(texts(r#"299 - "would violate \"restricted\"""#), [r#"would violate "restricted""#]);
        assert_eq!(
            texts(r#"299 - "one", 199 - "no", 299 a:1 "t\\wo" "Mon, 01 Jan 2026", 299 - "" "#),
            ["one", r"t\wo", ""]
        );
        for malformed in ["", "299", "299 -", "299 - one", "299 - \"one", "299 - \"one\\", ", ,"] {
            assert_eq!(texts(malformed), [""; 0], "{malformed}");
        }
        assert_eq!(texts(&format!("299 - \"{}\"", "é".repeat(5000)))[0].chars().count(), LIMIT);
    }

    #[test]
    fn each_text_is_told_once_and_so_many_are_remembered() {
        let warnings = Warnings::default();
        assert!(warnings.is_new("a") && !warnings.is_new("a") && warnings.is_new("b"));
        assert!((0..10 * MOST).all(|number| warnings.is_new(&number.to_string())));
        assert!(warnings.0.lock().unwrap().len() <= MOST);
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<Vec<String>>()) {
            let written: Vec<String> = text
                .iter()
                .map(|text| format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            prop_assert_eq!(texts(&written.join(", ")), text);
        }

        #[test]
        fn nothing_panics(field in any::<String>()) {
            texts(&field);
        }
    }
}
