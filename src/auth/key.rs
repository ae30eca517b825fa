//! Lines of authorized keys.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::certificate::Offer;
use super::options::Options;
use super::public_key::{KeyError, PublicKey, Type, excerpt};
use crate::connection::wire::Reader;

/// What the names of types begin with, and no option's name does.
const TYPES: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

/// A line of an authorized keys file: sshd(8), AUTHORIZED_KEYS FILE FORMAT.
#[derive(Clone, Debug)]
pub struct AuthorizedKey {
    key: PublicKey,
    options: Options,
}

/// Why a line holds no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLineError {
    /// It has not the form of such a line.
    Form,
    /// It has not the form of a line of authorized principals.
    Principal,
    /// It is several lines.
    SeveralLines,
    /// A quote in the options is not closed.
    Quote,
    /// The option of this name cannot be taken, for this reason.
    Option(String, &'static str),
    /// The key is not in base64.
    Base64,
    /// The key is not of this type, which stands before it.
    OtherType(&'static str),
    /// The key itself.
    Key(KeyError),
}

impl From<KeyError> for KeyLineError {
    fn from(error: KeyError) -> Self {
        KeyLineError::Key(error)
    }
}

impl KeyLineError {
    pub(super) fn option(name: &str, reason: &'static str) -> Self {
        KeyLineError::Option(excerpt(name), reason)
    }
}

impl fmt::Display for KeyLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyLineError::Form => f.write_str("not an authorized key: [OPTIONS] TYPE BASE64-KEY [COMMENT]"),
            KeyLineError::Principal => f.write_str("not an authorized principal: [OPTIONS] NAME"),
            KeyLineError::SeveralLines => f.write_str("several lines: give each authorized key an entry of its own"),
            KeyLineError::Quote => f.write_str("a double quote in the options is not closed"),
            KeyLineError::Option(name, reason) => write!(f, "option {name:?}: {reason}"),
            KeyLineError::Base64 => f.write_str("the key is no base64: part of it is missing or changed"),
            KeyLineError::OtherType(name) => write!(f, "the key is not of type {name}, which stands before it"),
            KeyLineError::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyLineError {}

impl AuthorizedKey {
    /// Takes a line: options, type, key in base64, comment.
    pub fn parse(line: &str) -> Result<AuthorizedKey, KeyLineError> {
        let line = line.trim_ascii();
        if line.contains(['\n', '\r']) {
            return Err(KeyLineError::SeveralLines);
        }
        let (first, rest) = split_word(line)?;
        let (options, kind, rest) = if is_type(first) {
            (Options::default(), first, rest)
        } else {
            let (kind, rest) = split_word(rest)?;
            if !is_type(kind) {
                return Err(KeyLineError::Form);
            }
            (Options::parse(first)?, kind, rest)
        };
        let kind = Type::of(kind.as_bytes())?;
        let text = rest.split_ascii_whitespace().next().ok_or(KeyLineError::Form)?;
        let blob = STANDARD.decode(text).map_err(|_| KeyLineError::Base64)?;
        if Reader::new(&blob).string() != Ok(kind.name.as_bytes()) {
            return Err(KeyLineError::OtherType(kind.name));
        }
        Ok(AuthorizedKey { key: PublicKey::parse(&blob)?, options })
    }

    /// Whether it is the line for what a client offers: of that key, or of the authority that has signed the certificate.
    pub(super) fn is_for(&self, offer: &Offer) -> bool {
        match &offer.certificate {
            None => !self.options.cert_authority && self.key == offer.key,
            Some(certificate) => self.options.cert_authority && self.key == certificate.authority,
        }
    }

    /// The key, and what stands before it.
    pub(super) fn parts(&self) -> (&PublicKey, &Options) {
        (&self.key, &self.options)
    }

    /// `command=`
    pub fn forced_command(&self) -> Option<&str> {
        self.options.restrictions.command.as_deref()
    }
}

/// A line of an authorized principals file: sshd_config(5), AuthorizedPrincipalsFile.
#[derive(Clone, Debug)]
pub struct AuthorizedPrincipal {
    pub(super) name: String,
    pub(super) options: Options,
}

impl AuthorizedPrincipal {
    /// Takes a line: options, name.
    pub fn parse(line: &str) -> Result<AuthorizedPrincipal, KeyLineError> {
        let line = line.trim_ascii();
        if line.contains(['\n', '\r']) {
            return Err(KeyLineError::SeveralLines);
        }
        let (first, rest) = split_word(line)?;
        let (name, options) = match rest {
            "" => (first, Options::default()),
            name => (name, Options::parse(first)?),
        };
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(KeyLineError::Principal);
        }
        Ok(AuthorizedPrincipal { name: name.to_owned(), options })
    }

    /// `command=`
    pub fn forced_command(&self) -> Option<&str> {
        self.options.restrictions.command.as_deref()
    }
}

fn is_type(word: &str) -> bool {
    TYPES.iter().any(|start| word.starts_with(start))
}

/// Splits at the first blanks outside double quotes.
fn split_word(text: &str) -> Result<(&str, &str), KeyLineError> {
    let bytes = text.as_bytes();
    let (mut end, mut quoted) = (0, false);
    while let Some(&byte) = bytes.get(end) {
        match byte {
            b' ' | b'\t' if !quoted => break,
            b'\\' if bytes.get(end + 1) == Some(&b'"') => end += 1,
            b'"' => quoted = !quoted,
            _ => (),
        }
        end += 1;
    }
    if quoted {
        return Err(KeyLineError::Quote);
    }
    let (word, rest) = text.split_at(end);
    Ok((word, rest.trim_ascii_start()))
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::{AuthorizedKey, AuthorizedPrincipal, KeyLineError, Offer};
    use crate::auth::public_key::{KeyError, PublicKey};

    /// Lines of ssh-keygen's: a key of each type that is taken, an RSA key of 1024 bits, and a DSA key.
    pub(in crate::auth) const LINES: &str = include_str!("test_keys.pub");

    /// The line of an Ed25519 key, with a comment.
    pub(in crate::auth) fn line() -> &'static str {
        LINES.lines().next().unwrap()
    }

    /// The key of a line without options.
    pub(in crate::auth) fn blob(line: &str) -> Vec<u8> {
        STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap()
    }

    /// The same, parsed.
    pub(in crate::auth) fn public_key(line: &str) -> PublicKey {
        PublicKey::parse(&blob(line)).unwrap()
    }

    /// The same, as a client offers it.
    pub(in crate::auth) fn offer(line: &str) -> Offer {
        Offer { key: public_key(line), certificate: None }
    }

    fn error(line: &str) -> KeyLineError {
        AuthorizedKey::parse(line).unwrap_err()
    }

    #[test]
    fn keys_of_all_supported_types_are_taken() {
        for line in LINES.lines().take(8) {
            assert!(AuthorizedKey::parse(line).unwrap().is_for(&offer(line)), "{line}");
        }
        let others: Vec<_> = LINES.lines().skip(8).map(error).collect();
        assert_eq!(others, [KeyError::RsaSize(1024), KeyError::Type("ssh-dss".into())].map(KeyLineError::Key));
        assert_eq!(error("restrict ssh-x AAAA"), KeyLineError::Key(KeyError::Type("ssh-x".into())));
    }

    #[test]
    fn blanks_and_line_ends_around_the_fields_do_not_matter() {
        let (kind, key) = line().rsplit_once(' ').unwrap().0.split_once(' ').unwrap();
        for line in [
            format!("{kind} {key}"),
            format!("  {kind}\t {key} a comment of words\r\n"),
            format!("restrict,pty \t{kind} {key}"),
            format!("command=\"echo \\\"a b\\\"\" {kind} {key}"),
        ] {
            assert!(AuthorizedKey::parse(&line).is_ok(), "{line}");
        }
        let two = format!("{}\n{}", line(), line());
        assert_eq!(error(&two), KeyLineError::SeveralLines);
    }

    #[test]
    fn a_line_without_a_key_is_refused() {
        let kind = "ssh-ed25519";
        for line in ["", "# comment", "AAAAC3NzaC1lZDI1NTE5", "AAAAC3NzaC1lZDI1NTE5 me@home", kind, "restrict ssh-rsa"]
        {
            assert_eq!(error(line), KeyLineError::Form, "{line}");
        }
        assert_eq!(error("command=\"x ssh-ed25519 AAAA"), KeyLineError::Quote);
        assert_eq!(error("ssh-ed25519 AAAA!"), KeyLineError::Base64);
        assert_eq!(error(&line().replace(kind, "ssh-rsa")), KeyLineError::OtherType("ssh-rsa"));
        assert!(matches!(error(&format!("no-ptty {}", line())), KeyLineError::Option(name, _) if name == "no-ptty"));
    }

    #[test]
    fn a_principal_has_options_before_its_name() {
        let name = |line| AuthorizedPrincipal::parse(line).map(|principal| principal.name);
        assert_eq!(name(" alice \r"), Ok("alice".into()));
        assert_eq!(name("from=\"10.0.0.1\",no-pty\tweb admins").unwrap_err(), KeyLineError::Principal);
        assert_eq!(name("from=\"10.0.0.1\",no-pty\tadmins"), Ok("admins".into()));
        assert!(matches!(name("admins web"), Err(KeyLineError::Option(..))));
        assert_eq!(name(""), Err(KeyLineError::Principal));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(\\PC|[ \t\"\\\\,=])*") {
            let _ = AuthorizedKey::parse(&line);
            let _ = AuthorizedPrincipal::parse(&line);
        }
    }
}
