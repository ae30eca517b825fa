//! Users' public keys: RFC 4253 section 6.6, RFC 5656, RFC 8709, PROTOCOL.u2f of OpenSSH, and [`composite`].

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openssl::sha::sha256;

use super::composite;
use crate::connection::wire::{Malformed, Reader};

/// The types of key that berth can verify a signature of.
pub(super) static TYPES: [Type; 8] = [
    Type { name: "ssh-ed25519", shape: Shape::Ed25519, security_key: false },
    Type { name: "ecdsa-sha2-nistp256", shape: Shape::Ecdsa(Curve::P256), security_key: false },
    Type { name: "ecdsa-sha2-nistp384", shape: Shape::Ecdsa(Curve::P384), security_key: false },
    Type { name: "ecdsa-sha2-nistp521", shape: Shape::Ecdsa(Curve::P521), security_key: false },
    Type { name: "ssh-rsa", shape: Shape::Rsa, security_key: false },
    Type { name: "sk-ssh-ed25519@openssh.com", shape: Shape::Ed25519, security_key: true },
    Type { name: "sk-ecdsa-sha2-nistp256@openssh.com", shape: Shape::Ecdsa(Curve::P256), security_key: true },
    Type { name: composite::NAME, shape: Shape::Composite, security_key: false },
];

/// The sizes that an RSA key may have, in bits. The upper one is OpenSSH's.
const RSA_BITS: RangeInclusive<usize> = 2048..=16384;

/// A type of key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub name: &'static str,
    shape: Shape,
    /// Whether such keys live in FIDO authenticators.
    pub security_key: bool,
}

/// What follows the type in an encoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// RFC 8709 section 4.
    Ed25519,
    /// RFC 5656 section 3.1.
    Ecdsa(Curve),
    /// RFC 4253 section 6.6.
    Rsa,
    /// See [`composite`].
    Composite,
}

/// The curves of RFC 5656 section 10.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Curve::P256 => "nistp256",
            Curve::P384 => "nistp384",
            Curve::P521 => "nistp521",
        }
    }

    /// The size of a coordinate, in bytes.
    fn coordinate(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// A public key of a type that berth can verify a signature of.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: &'static Type,
    /// Encoded as in RFC 4253 section 6.6.
    blob: Vec<u8>,
}

/// What is in a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub numbers: Numbers<'a>,
    /// Whom the key of a FIDO authenticator is for ("ssh:").
    pub application: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Numbers<'a> {
    Ed25519(&'a [u8]),
    /// The point is not compressed.
    Ecdsa(Curve, &'a [u8]),
    /// Exponent and modulus, most significant byte first.
    Rsa(&'a [u8], &'a [u8]),
    /// That of ML-DSA, and behind it that of Ed25519.
    Composite(&'a [u8]),
}

/// Why a blob is no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key is of a type that berth does not know.
    Type(String),
    /// What follows this type in the key is not a key of it.
    Malformed(&'static str),
    /// An RSA key of a size that is not taken, in bits.
    RsaSize(usize),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Type(name) => {
                let known = TYPES.each_ref().map(|known| known.name).join(", ");
                write!(f, "no support for keys of type {name:?}: use one of {known}")
            }
            KeyError::Malformed(name) => write!(f, "not a whole {name} key: part of it is missing or changed"),
            KeyError::RsaSize(bits) => {
                write!(f, "an RSA key of {bits} bits: it must have from {} to {}", RSA_BITS.start(), RSA_BITS.end())
            }
        }
    }
}

impl std::error::Error for KeyError {}

impl PublicKey {
    /// Takes an encoded key.
    pub fn parse(blob: &[u8]) -> Result<PublicKey, KeyError> {
        let mut reader = Reader::new(blob);
        let kind = Type::of(reader.string().unwrap_or_default())?;
        kind.read(&mut reader)?;
        reader.end().map_err(|_| KeyError::Malformed(kind.name))?;
        Ok(PublicKey { kind, blob: blob.to_vec() })
    }

    /// The key, encoded as in RFC 4253 section 6.6.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Its type.
    pub(super) fn kind(&self) -> &'static Type {
        self.kind
    }

    /// What is in it. There always is something: the key was parsed.
    pub(super) fn fields(&self) -> Option<Fields<'_>> {
        let mut reader = Reader::new(&self.blob);
        reader.string().ok()?;
        self.kind.read(&mut reader).ok()
    }
}

/// As in an authorized keys file: type and base64.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name, STANDARD.encode(&self.blob))
    }
}

/// The type alone.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind.name)
    }
}

impl Type {
    /// The type of this name.
    pub fn of(name: &[u8]) -> Result<&'static Type, KeyError> {
        let known = TYPES.iter().find(|known| known.name.as_bytes() == name);
        known.ok_or_else(|| KeyError::Type(excerpt(&String::from_utf8_lossy(name))))
    }

    /// Reads what follows the type in an encoded key.
    pub fn read<'a>(&self, reader: &mut Reader<'a>) -> Result<Fields<'a>, KeyError> {
        match self.fields(reader) {
            Ok((_, bits)) if !RSA_BITS.contains(&bits) && self.shape == Shape::Rsa => Err(KeyError::RsaSize(bits)),
            Ok((fields, _)) => Ok(fields),
            Err(Malformed) => Err(KeyError::Malformed(self.name)),
        }
    }

    /// Gives the size of an RSA key's modulus, in bits, too.
    fn fields<'a>(&self, reader: &mut Reader<'a>) -> Result<(Fields<'a>, usize), Malformed> {
        let mut bits = 0;
        let numbers = match self.shape {
            Shape::Ed25519 => Numbers::Ed25519(reader.string().ok().filter(|key| key.len() == 32).ok_or(Malformed)?),
            Shape::Ecdsa(curve) => {
                let is_curve = reader.string()? == curve.name().as_bytes();
                let point = reader.string()?;
                // Not compressed (SEC 1 section 2.3.3), as RFC 5656 section 3.1 allows and OpenSSH demands.
                if !is_curve || point.len() != 1 + 2 * curve.coordinate() || point[0] != 4 {
                    return Err(Malformed);
                }
                Numbers::Ecdsa(curve, point)
            }
            Shape::Rsa => {
                let exponent = positive(reader)?;
                let modulus = positive(reader)?;
                bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
                Numbers::Rsa(exponent, modulus)
            }
            Shape::Composite => {
                Numbers::Composite(reader.string().ok().filter(|key| key.len() == composite::KEY).ok_or(Malformed)?)
            }
        };
        let application = if self.security_key { Some(reader.string()?) } else { None };
        Ok((Fields { numbers, application }, bits))
    }
}

/// By what people know a public key, of which this is the encoding: what `ssh-keygen -l` shows.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256(blob)))
}

/// The first 64 characters: names in messages may come from anyone.
pub(super) fn excerpt(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Reads a positive `mpint`, and gives it without a sign. No other encoding of the same number is taken (RFC 4251
/// section 5): a client's key is compared byte by byte.
pub(super) fn positive<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    match reader.string()? {
        [0, digits @ ..] if digits.first().is_some_and(|&digit| digit >= 0x80) => Ok(digits),
        digits @ [1..0x80, ..] => Ok(digits),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{KeyError, PublicKey, TYPES, positive};
    use crate::auth::key::tests::{LINES, blob};
    use crate::connection::wire::{Reader, Write};

    fn error(blob: &[u8]) -> KeyError {
        PublicKey::parse(blob).unwrap_err()
    }

    #[test]
    fn keys_of_all_supported_types_are_taken() {
        let names = LINES.lines().take(8).map(|line| PublicKey::parse(&blob(line)).unwrap().kind().name);
        assert_eq!(names.collect::<Vec<_>>(), TYPES.each_ref().map(|known| known.name));
    }

    #[test]
    fn weak_and_unknown_types_are_refused_by_name() {
        let others: Vec<_> = LINES.lines().skip(8).map(|line| error(&blob(line))).collect();
        assert_eq!(others, [KeyError::RsaSize(1024), KeyError::Type("ssh-dss".into())]);
    }

    #[test]
    fn a_key_that_is_cut_or_too_long_is_refused() {
        for line in LINES.lines().take(8) {
            let blob = blob(line);
            let longer = [&blob[..], &[0]].concat();
            for changed in (0..blob.len()).map(|end| &blob[..end]).chain([&longer[..]]) {
                assert!(PublicKey::parse(changed).is_err(), "{} of {} bytes of {line}", changed.len(), blob.len());
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
            PublicKey::parse(&blob)
        };
        assert!(key("nistp256", 4).is_ok());
        assert!(key("nistp384", 4).is_err() && key("", 4).is_err() && key("nistp256", 2).is_err());
    }

    #[test]
    fn a_number_has_one_encoding() {
        let digits = |digits: &[u8]| {
            let mut number = Vec::new();
            number.put_string(digits);
            positive(&mut Reader::new(&number)).ok().map(<[u8]>::to_vec)
        };
        assert_eq!(
            [digits(&[1]), digits(&[0x7f, 0]), digits(&[0, 0x80])],
            [Some(vec![1]), Some(vec![0x7f, 0]), Some(vec![0x80])]
        );
        for number in [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80]] {
            assert_eq!(digits(number), None, "{number:?}");
        }
    }

    proptest! {
        #[test]
        fn no_key_panics(kind in 0..TYPES.len(), rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut blob = Vec::new();
            blob.put_string(TYPES[kind].name);
            blob.extend_from_slice(&rest);
            if let Ok(key) = PublicKey::parse(&blob) {
                prop_assert_eq!(key.blob(), &blob[..]);
            }
        }
    }
}
