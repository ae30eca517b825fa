//! Lines of authorized keys.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openssl::sha::sha256;

use super::Restrictions;
use super::options::Options;
use crate::connection::wire::{Malformed, Reader};

/// The types of key that berth can verify a signature of.
const TYPES: [(&str, Shape); 5] = [
    ("ssh-ed25519", Shape::Ed25519),
    ("ecdsa-sha2-nistp256", Shape::Ecdsa { curve: "nistp256", coordinate: 32 }),
    ("ecdsa-sha2-nistp384", Shape::Ecdsa { curve: "nistp384", coordinate: 48 }),
    ("ecdsa-sha2-nistp521", Shape::Ecdsa { curve: "nistp521", coordinate: 66 }),
    ("ssh-rsa", Shape::Rsa),
];

/// What follows the type in an encoded key.
#[derive(Clone, Copy)]
enum Shape {
    /// RFC 8709 section 4.
    Ed25519,
    /// RFC 5656 section 3.1. The size of a coordinate is in bytes.
    Ecdsa { curve: &'static str, coordinate: usize },
    /// RFC 4253 section 6.6.
    Rsa,
}

/// What the names of other types begin with, and no option's name does.
const OTHER_TYPES: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

/// The sizes that an RSA key may have, in bits. The upper one is OpenSSH's.
const RSA_BITS: RangeInclusive<usize> = 2048..=16384;

/// By what people know a public key, of which this is the encoding: what `ssh-keygen -l` shows.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256(blob)))
}

/// A line of an authorized keys file: sshd(8), AUTHORIZED_KEYS FILE FORMAT.
#[derive(Clone, Debug)]
pub struct AuthorizedKey {
    /// The public key, encoded as in RFC 4253 section 6.6.
    blob: Vec<u8>,
    options: Options,
}

/// Why a line holds no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLineError {
    /// It has not the form of such a line.
    Form,
    /// It is several lines.
    SeveralLines,
    /// A quote in the options is not closed.
    Quote,
    /// The option of this name cannot be taken, for this reason.
    Option(String, &'static str),
    /// The key is of a type that berth does not know.
    Type(String),
    /// The key is not in base64.
    Base64,
    /// The key is not of this type, which stands before it.
    OtherType(&'static str),
    /// What follows this type in the key is not a key of it.
    Malformed(&'static str),
    /// An RSA key of a size that is not taken, in bits.
    RsaSize(usize),
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
            KeyLineError::SeveralLines => f.write_str("several lines: give each authorized key an entry of its own"),
            KeyLineError::Quote => f.write_str("a double quote in the options is not closed"),
            KeyLineError::Option(name, reason) => write!(f, "option {name:?}: {reason}"),
            KeyLineError::Type(name) => {
                let known = TYPES.map(|(name, _)| name).join(", ");
                write!(f, "no support for keys of type {name:?}: use one of {known}")
            }
            KeyLineError::Base64 => f.write_str("the key is no base64: part of it is missing or changed"),
            KeyLineError::OtherType(name) => write!(f, "the key is not of type {name}, which stands before it"),
            KeyLineError::Malformed(name) => write!(f, "not a whole {name} key: part of it is missing or changed"),
            KeyLineError::RsaSize(bits) => {
                write!(f, "an RSA key of {bits} bits: it must have from {} to {}", RSA_BITS.start(), RSA_BITS.end())
            }
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
        let known = TYPES.into_iter().find(|&(name, _)| name == kind);
        let (kind, shape) = known.ok_or_else(|| KeyLineError::Type(excerpt(kind)))?;
        let text = rest.split_ascii_whitespace().next().ok_or(KeyLineError::Form)?;
        let blob = STANDARD.decode(text).map_err(|_| KeyLineError::Base64)?;
        check(kind, shape, &blob)?;
        Ok(AuthorizedKey { blob, options })
    }

    /// Whether this is the key.
    pub(super) fn is(&self, blob: &[u8]) -> bool {
        self.blob == blob
    }

    /// What its owner is held to, when logging in from `client` at the time `now`, in seconds since 1970; or why the
    /// key is not good for that.
    pub(super) fn admit(&self, client: IpAddr, now: i64) -> Result<&Restrictions, &'static str> {
        if self.options.expires.is_some_and(|time| time < now) {
            return Err("it has expired");
        }
        if self.options.from.as_ref().is_some_and(|sources| !sources.allow(client)) {
            return Err("its from= does not allow the address");
        }
        Ok(&self.options.restrictions)
    }
}

fn is_type(word: &str) -> bool {
    OTHER_TYPES.iter().any(|start| word.starts_with(start))
}

/// The first 64 characters: names in messages may come from anyone.
fn excerpt(name: &str) -> String {
    name.chars().take(64).collect()
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

/// Whether the blob is a key of this type.
fn check(kind: &'static str, shape: Shape, blob: &[u8]) -> Result<(), KeyLineError> {
    let mut reader = Reader::new(blob);
    if reader.string() != Ok(kind.as_bytes()) {
        return Err(KeyLineError::OtherType(kind));
    }
    match follow(shape, reader) {
        Ok(Some(bits)) if !RSA_BITS.contains(&bits) => Err(KeyLineError::RsaSize(bits)),
        Ok(_) => Ok(()),
        Err(Malformed) => Err(KeyLineError::Malformed(kind)),
    }
}

/// Reads a key's rest. Gives the size of an RSA key's modulus, in bits.
fn follow(shape: Shape, mut reader: Reader<'_>) -> Result<Option<usize>, Malformed> {
    let mut bits = None;
    let is_good = match shape {
        Shape::Ed25519 => reader.string()?.len() == 32,
        Shape::Ecdsa { curve, coordinate } => {
            let is_curve = reader.string()? == curve.as_bytes();
            let point = reader.string()?;
            // Not compressed (SEC 1 section 2.3.3), as RFC 5656 section 3.1 allows and OpenSSH demands.
            is_curve && point.len() == 1 + 2 * coordinate && point[0] == 4
        }
        Shape::Rsa => {
            positive(&mut reader)?;
            bits = Some(positive(&mut reader)?);
            true
        }
    };
    reader.end()?;
    if is_good { Ok(bits) } else { Err(Malformed) }
}

/// Reads a positive `mpint`, and gives its size in bits. No other encoding of the same number is taken (RFC 4251
/// section 5): a client's key is compared byte by byte.
fn positive(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let bytes = reader.string()?;
    let digits = match bytes {
        [0, digits @ ..] if digits.first().is_some_and(|&digit| digit >= 0x80) => digits,
        [1..0x80, ..] => bytes,
        _ => return Err(Malformed),
    };
    Ok(digits.len() * 8 - digits[0].leading_zeros() as usize)
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::{AuthorizedKey, KeyLineError, positive};
    use crate::connection::wire::{Reader, Write};

    /// Lines of ssh-keygen's: five that are taken, an RSA key of 1024 bits, and a DSA key.
    pub(in crate::auth) const LINES: &str = include_str!("test_keys.pub");

    /// The line of an Ed25519 key, with a comment.
    pub(in crate::auth) fn line() -> &'static str {
        LINES.lines().next().unwrap()
    }

    /// The key of a line without options.
    pub(in crate::auth) fn blob(line: &str) -> Vec<u8> {
        STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap()
    }

    fn error(line: &str) -> KeyLineError {
        AuthorizedKey::parse(line).unwrap_err()
    }

    #[test]
    fn keys_of_all_supported_types_are_taken() {
        for line in LINES.lines().take(5) {
            assert!(AuthorizedKey::parse(line).unwrap().is(&blob(line)), "{line}");
        }
    }

    #[test]
    fn weak_and_unknown_types_are_refused_by_name() {
        let others: Vec<_> = LINES.lines().skip(5).map(error).collect();
        assert_eq!(others, [KeyLineError::RsaSize(1024), KeyLineError::Type("ssh-dss".into())]);
        assert_eq!(
            error("restrict sk-ssh-ed25519@openssh.com AAAA"),
            KeyLineError::Type("sk-ssh-ed25519@openssh.com".into())
        );
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
    fn a_key_that_is_cut_or_too_long_is_refused() {
        for line in LINES.lines().take(5) {
            let (kind, blob) = (line.split(' ').next().unwrap(), blob(line));
            let mut longer = blob.clone();
            longer.push(0);
            for changed in (0..blob.len()).map(|end| &blob[..end]).chain([&longer[..]]) {
                let line = format!("{kind} {}", STANDARD.encode(changed));
                assert!(AuthorizedKey::parse(&line).is_err(), "{} of {} bytes of {kind}", changed.len(), blob.len());
            }
        }
    }

    #[test]
    fn an_ecdsa_key_must_name_its_own_curve_and_not_be_compressed() {
        let key = |curve: &str, first: u8| {
            let mut blob = Vec::new();
            blob.put_string("ecdsa-sha2-nistp256");
            blob.put_string(curve);
            blob.put_string([&[first][..], &[7; 64]].concat());
            AuthorizedKey::parse(&format!("ecdsa-sha2-nistp256 {}", STANDARD.encode(blob)))
        };
        assert!(key("nistp256", 4).is_ok());
        assert!(key("nistp384", 4).is_err() && key("", 4).is_err() && key("nistp256", 2).is_err());
    }

    #[test]
    fn a_number_has_one_encoding() {
        let size = |digits: &[u8]| {
            let mut number = Vec::new();
            number.put_string(digits);
            positive(&mut Reader::new(&number)).ok()
        };
        assert_eq!([size(&[1]), size(&[0x7f, 0]), size(&[0, 0x80])], [Some(1), Some(15), Some(8)]);
        for digits in [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80]] {
            assert_eq!(size(digits), None, "{digits:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(\\PC|[ \t\"\\\\,=])*") {
            let _ = AuthorizedKey::parse(&line);
        }

        #[test]
        fn no_key_panics(kind in 0..5usize, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (kind, _) = super::TYPES[kind];
            let mut blob = Vec::new();
            blob.put_string(kind);
            blob.extend_from_slice(&rest);
            let _ = AuthorizedKey::parse(&format!("{kind} {}", STANDARD.encode(blob)));
        }
    }
}
