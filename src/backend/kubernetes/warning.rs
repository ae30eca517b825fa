//! What an API server warns of: header fields as `299 - "text"` (RFC 7234 section 5.5), which kubectl prints, too.

use crate::backend::told::{LONGEST, Told};

/// The code of warnings that are for people to read.
const CODE: &str = "299";

/// Tells the log what is new in these fields.
pub(super) fn hear<'a>(told: &Told, fields: impl Iterator<Item = &'a str>) {
    for text in fields.flat_map(texts).filter_map(|text| told.once(&text)) {
        log::warn!("kubernetes: the API server warns: {text}");
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
        if count < LONGEST {
            text.push(character);
        }
        count += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LONGEST, texts};

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
        assert_eq!(texts(&format!("299 - \"{}\"", "é".repeat(5000)))[0].chars().count(), LONGEST);
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
