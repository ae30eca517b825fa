//! Forms, what a provider signs, and the page for browsers.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::http::{Page, encode};

/// What GitHub says of a user, and ContainerSSH's names for it.
pub const GITHUB_FACTS: &[(&str, &str)] = &[
    ("login", "LOGIN"),
    ("id", "ID"),
    ("node_id", "NODE_ID"),
    ("name", "NAME"),
    ("avatar_url", "AVATAR_URL"),
    ("bio", "BIO"),
    ("company", "COMPANY"),
    ("email", "EMAIL"),
    ("blog", "BLOG_URL"),
    ("location", "LOCATION"),
    ("twitter_username", "TWITTER_USERNAME"),
    ("html_url", "PROFILE_URL"),
];

/// How much a provider's clock may go before or after this one, in seconds.
const SKEW: u64 = 60;

/// A form's fields, encoded.
pub fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encode(value).replace('/', "%2F")));
    pairs.collect::<Vec<_>>().join("&")
}

/// As a URL takes it.
pub fn without_padding(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a text of a provider's may be shown on a terminal.
pub fn is_shown(text: &str) -> bool {
    (1..=2000).contains(&text.len()) && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Whether a token can stand in a header.
pub fn is_token(token: &str) -> bool {
    !token.is_empty() && token.len() <= 16 * 1024 && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a provider says was wrong, for the log: a code of RFC 6749 section 5.2. Nothing else of its answer.
pub fn error(answer: &Value) -> String {
    match answer["error"].as_str().filter(|code| code.len() <= 64 && is_shown(code)) {
        Some(code) => format!("the provider says {code:?}"),
        None => "the answer is not what it should be".to_owned(),
    }
}

/// Checks what an ID token says: OpenID Connect Core 1.0 section 3.1.3.7. That it is the provider's, somebody else has
/// checked. `user` is the subject of the user's facts.
pub fn check_claims(
    claims: &Value,
    issuer: &str,
    client: &str,
    nonce: Option<&str>,
    user: &Value,
) -> Result<(), String> {
    let audience = &claims["aud"];
    let is_for_us = audience == client || audience.as_array().is_some_and(|all| all.iter().any(|one| one == client));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Numbers may have fractions.
    let is_fresh = claims["exp"].as_f64().is_some_and(|end| end + SKEW as f64 > now as f64);
    let wrong = [
        (claims["iss"] == issuer, "issuer"),
        (is_for_us, "audience"),
        (claims["azp"].is_null() || claims["azp"] == client, "authorized party"),
        (is_fresh, "time"),
        (nonce.is_none_or(|nonce| claims["nonce"] == nonce), "nonce"),
        (claims["sub"].is_string() && claims["sub"] == *user, "subject"),
    ];
    match wrong.into_iter().find(|(is_right, _)| !is_right) {
        Some((_, what)) => Err(format!("the ID token is of another {what}")),
        None => Ok(()),
    }
}

/// The page to which a provider sends a browser: shows what the SSH client wants.
pub fn page(query: &str) -> Page {
    let field = |name: &str| {
        let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
        decode(value).filter(|value| is_token(value) && !value.contains('|'))
    };
    match (field("state"), field("code")) {
        (Some(state), Some(code)) => {
            let text = format!("Give this to your SSH client, and to nobody else:\n\n{state}|{code}");
            Page::line("200 OK", &text)
        }
        _ if field("error").is_some() => Page::line("200 OK", "The login has failed. You can close this page."),
        _ => Page::line("400 Bad Request", "This page is for browsers that come back from a login."),
    }
}

/// Decodes a query's value.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A browser's query.
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let shown = page(&text).body;
    assert!(shown.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{check_claims, form, page};

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form(&[("a", "b c/&="), ("d", "é")]), "a=b%20c%2F%26%3D&d=%C3%A9");
    }

    #[test]
    fn the_page_shows_what_came_with_the_browser_and_nothing_that_is_markup() {
        assert!(page("code=a%2Fb&state=c&iss=x").body.ends_with("\n\nc|a/b\n"));
        assert_eq!(page("error=access_denied&state=c").status, "200 OK");
        for query in
            ["", "code=a", "state=a", "code=&state=", "code=%00&state=a", "code=%zz&state=a", "code=a%7Cb&state=c"]
        {
            assert_eq!(page(query).status, "400 Bad Request", "{query}");
        }
        assert!(page("code=%3Cscript%3E&state=a").content_type.starts_with("text/plain"));
    }

    #[test]
    fn an_id_token_must_be_of_this_login() {
        let good = json!({"iss": "https://i", "aud": ["c", "d"], "exp": 1e12, "nonce": "n", "sub": "alice"});
        let check = |change: &dyn Fn(&mut Value)| {
            let mut claims = good.clone();
            change(&mut claims);
            check_claims(&claims, "https://i", "c", Some("n"), &"alice".into())
        };
        assert_eq!(check(&|_| ()), Ok(()));
        assert_eq!(check(&|claims| claims["aud"] = "c".into()), Ok(()));
        let changes: [(&str, Value); 8] = [
            ("iss", "https://j".into()),
            ("aud", json!(["d"])),
            ("azp", "d".into()),
            ("exp", 1000.into()),
            ("exp", "never".into()),
            ("nonce", Value::Null),
            ("sub", "bob".into()),
            ("sub", Value::Null),
        ];
        for (key, value) in changes {
            assert!(check(&|claims| claims[key] = value.clone()).is_err(), "{key}");
        }
        for claims in [Value::Null, json!([]), json!({}), 1.into()] {
            assert!(check_claims(&claims, "https://i", "c", None, &"alice".into()).is_err(), "{claims}");
        }
    }
}
