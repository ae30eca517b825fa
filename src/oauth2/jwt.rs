//! Signed tokens: RFC 7515, with the algorithms of RFC 7518 and RFC 8037 that a public key verifies.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};
use serde_json::Value;

/// The longest token, in bytes.
const LONGEST: usize = 64 * 1024;

/// How many of a provider's keys are looked at.
const MOST_KEYS: usize = 64;

/// The sizes that an RSA key may have, in bytes: RFC 7518 section 3.3 asks for the lower one.
const RSA: std::ops::RangeInclusive<usize> = 256..=2048;

/// Why a token is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no signed token.
    Form,
    /// It is signed by an algorithm that does not say who has signed it: none, or one with a secret.
    Algorithm(String),
    /// None of the keys has signed it.
    Signature,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Form => f.write_str("there is no ID token"),
            Error::Algorithm(name) => {
                write!(f, "the ID token is signed by {name:?}, which is not taken: use RS256 or ES256")
            }
            Error::Signature => f.write_str("the ID token is signed by none of the provider's keys"),
        }
    }
}

/// An algorithm, and what its keys are.
#[derive(Clone, Copy)]
enum Algorithm {
    Rsa(fn() -> MessageDigest),
    Pss(fn() -> MessageDigest),
    /// The curve by its name there and OpenSSL's, and the size of a coordinate.
    Ecdsa(fn() -> MessageDigest, &'static str, Nid, usize),
    Ed25519,
}

fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::Rsa(MessageDigest::sha256),
        "RS384" => Algorithm::Rsa(MessageDigest::sha384),
        "RS512" => Algorithm::Rsa(MessageDigest::sha512),
        "PS256" => Algorithm::Pss(MessageDigest::sha256),
        "PS384" => Algorithm::Pss(MessageDigest::sha384),
        "PS512" => Algorithm::Pss(MessageDigest::sha512),
        "ES256" => Algorithm::Ecdsa(MessageDigest::sha256, "P-256", Nid::X9_62_PRIME256V1, 32),
        "ES384" => Algorithm::Ecdsa(MessageDigest::sha384, "P-384", Nid::SECP384R1, 48),
        "ES512" => Algorithm::Ecdsa(MessageDigest::sha512, "P-521", Nid::SECP521R1, 66),
        "EdDSA" | "Ed25519" => Algorithm::Ed25519,
        _ => return None,
    })
}

/// What a token claims. Nobody has said yet that it is true.
pub fn claims(token: &str) -> Result<Value, Error> {
    let (_, payload, _) = parts(token)?;
    json(payload)
}

/// What a token claims that one of the keys has signed. `keys` is a JWK Set: RFC 7517.
pub fn verify(token: &str, keys: &Value) -> Result<Value, Error> {
    let (header, payload, signature) = parts(token)?;
    let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
    let (header, signature) = (json(header)?, decode(signature)?);
    // RFC 7515 section 4.1.11: what must be understood is not.
    if !header["crit"].is_null() {
        return Err(Error::Form);
    }
    let name = header["alg"].as_str().ok_or(Error::Form)?;
    let by = algorithm(name).ok_or_else(|| Error::Algorithm(name.chars().take(64).collect()))?;
    let is_meant = |key: &&Value| {
        let is = |name: &str, wanted: &Value| key[name].is_null() || wanted.is_null() || key[name] == *wanted;
        is("kid", &header["kid"]) && is("alg", &header["alg"]) && is("use", &"sig".into())
    };
    let keys = keys["keys"].as_array().into_iter().flatten().take(MOST_KEYS).filter(is_meant);
    for key in keys {
        if by.verify(key, &signature, signed).unwrap_or(false) {
            return json(payload);
        }
    }
    Err(Error::Signature)
}

impl Algorithm {
    /// Whether this key has signed. None for a key that is not one for this algorithm.
    fn verify(self, key: &Value, signature: &[u8], signed: &[u8]) -> Option<bool> {
        let number = |name: &str| decode(key[name].as_str()?).ok();
        let is_kind = |kind: &str| (key["kty"] == kind).then_some(());
        match self {
            Algorithm::Rsa(digest) | Algorithm::Pss(digest) => {
                is_kind("RSA")?;
                let (modulus, exponent) = (number("n")?, number("e")?);
                let key = rsa_key(&modulus, &exponent)?;
                let mut verifier = Verifier::new(digest(), &key).ok()?;
                if let Algorithm::Pss(_) = self {
                    verifier.set_rsa_padding(Padding::PKCS1_PSS).ok()?;
                    verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).ok()?;
                    verifier.set_rsa_mgf1_md(digest()).ok()?;
                }
                verifier.verify_oneshot(signature, signed).ok()
            }
            Algorithm::Ecdsa(digest, curve, nid, size) => {
                is_kind("EC")?;
                let point = [number("x")?, number("y")?];
                if key["crv"] != curve || point.iter().any(|part| part.len() != size) || signature.len() != 2 * size {
                    return None;
                }
                let key = ec_key(nid, &point.concat()).ok()?;
                let (r, s) = signature.split_at(size);
                let signature = ecdsa_signature(r, s).ok()?;
                Verifier::new(digest(), &key).ok()?.verify_oneshot(&signature, signed).ok()
            }
            Algorithm::Ed25519 => {
                is_kind("OKP")?;
                if key["crv"] != "Ed25519" {
                    return None;
                }
                let key = PKey::public_key_from_raw_bytes(&number("x")?, Id::ED25519).ok()?;
                Verifier::new_without_digest(&key).ok()?.verify_oneshot(signature, signed).ok()
            }
        }
    }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Option<PKey<Public>> {
    let first = modulus.iter().position(|byte| *byte != 0)?;
    if !RSA.contains(&(modulus.len() - first)) || exponent.len() > 8 {
        return None;
    }
    let number = |bytes| BigNum::from_slice(bytes).ok();
    PKey::from_rsa(Rsa::from_public_components(number(modulus)?, number(exponent)?).ok()?).ok()
}

fn ec_key(nid: Nid, coordinates: &[u8]) -> Result<PKey<Public>, ErrorStack> {
    let group = EcGroup::from_curve_name(nid)?;
    // SEC 1 section 2.3.3: not compressed.
    let point = EcPoint::from_bytes(&group, &[&[4], coordinates].concat(), &mut *BigNumContext::new()?)?;
    let key = EcKey::from_public_key(&group, &point)?;
    key.check_key()?;
    PKey::from_ec_key(key)
}

/// As OpenSSL takes it, in DER.
fn ecdsa_signature(r: &[u8], s: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?.to_der()
}

/// Header, payload and signature, encoded.
fn parts(token: &str) -> Result<(&str, &str, &str), Error> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) if token.len() <= LONGEST => {
            Ok((header, payload, signature))
        }
        _ => Err(Error::Form),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| Error::Form)
}

fn json(text: &str) -> Result<Value, Error> {
    serde_json::from_slice(&decode(text)?).map_err(|_| Error::Form)
}

/// A token, and a provider's keys behind a line end.
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (token, keys) = text.split_once('\n').unwrap_or((&text, ""));
    let keys = serde_json::from_str(keys).unwrap_or_default();
    if let Ok(claimed) = verify(token, &keys) {
        assert_eq!(claims(token), Ok(claimed));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use openssl::pkey::Private;
    use openssl::sign::Signer;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A provider's key, and its public half as JWK.
    pub(in crate::oauth2) struct Key {
        name: &'static str,
        private: PKey<Private>,
        pub public: Value,
    }

    impl Key {
        pub(in crate::oauth2) fn new(name: &'static str) -> Key {
            let (private, public) = match algorithm(name).unwrap() {
                Algorithm::Rsa(_) | Algorithm::Pss(_) => {
                    let key = Rsa::generate(2048).unwrap();
                    let public = json!({"kty": "RSA", "n": encode(&key.n().to_vec()), "e": encode(&key.e().to_vec())});
                    (PKey::from_rsa(key).unwrap(), public)
                }
                Algorithm::Ecdsa(_, curve, nid, size) => {
                    let group = EcGroup::from_curve_name(nid).unwrap();
                    let key = EcKey::generate(&group).unwrap();
                    let (mut x, mut y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
                    let mut context = BigNumContext::new().unwrap();
                    key.public_key().affine_coordinates(&group, &mut x, &mut y, &mut context).unwrap();
                    let part = |number: &BigNum| encode(&number.to_vec_padded(size as i32).unwrap());
                    let public = json!({"kty": "EC", "crv": curve, "x": part(&x), "y": part(&y)});
                    (PKey::from_ec_key(key).unwrap(), public)
                }
                Algorithm::Ed25519 => {
                    let key = PKey::generate_ed25519().unwrap();
                    let public = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&key.raw_public_key().unwrap())});
                    (key, public)
                }
            };
            Key { name, private, public }
        }

        pub(in crate::oauth2) fn sign(&self, header: &Value, claims: &Value) -> String {
            let mut header = header.clone();
            header["alg"] = self.name.into();
            let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
            let by = algorithm(self.name).unwrap();
            let signature = match by {
                Algorithm::Ed25519 => {
                    Signer::new_without_digest(&self.private).unwrap().sign_oneshot_to_vec(signed.as_bytes()).unwrap()
                }
                Algorithm::Rsa(digest) | Algorithm::Pss(digest) | Algorithm::Ecdsa(digest, ..) => {
                    let mut signer = Signer::new(digest(), &self.private).unwrap();
                    if let Algorithm::Pss(_) = by {
                        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                        signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
                    }
                    let signature = signer.sign_oneshot_to_vec(signed.as_bytes()).unwrap();
                    match by {
                        Algorithm::Ecdsa(_, _, _, size) => {
                            let signature = EcdsaSig::from_der(&signature).unwrap();
                            let part = |number: &openssl::bn::BigNumRef| number.to_vec_padded(size as i32).unwrap();
                            [part(signature.r()), part(signature.s())].concat()
                        }
                        _ => signature,
                    }
                }
            };
            format!("{signed}.{}", encode(&signature))
        }

        fn set(&self) -> Value {
            json!({ "keys": [self.public] })
        }
    }

    const NAMES: [&str; 10] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

    #[test]
    fn one_changed_bit_makes_a_token_void() {
        let claims = json!({"sub": "alice"});
        for name in NAMES {
            let key = Key::new(name);
            let token = key.sign(&json!({"kid": "a"}), &claims);
            assert_eq!(verify(&token, &key.set()), Ok(claims.clone()), "{name}");
            let parts: Vec<Vec<u8>> = token.split('.').map(|part| decode(part).unwrap()).collect();
            for part in 0..3 {
                for place in 0..parts[part].len() {
                    let mut changed = parts.clone();
                    changed[part][place] ^= 1 << (place % 8);
                    let token = changed.iter().map(|part| encode(part)).collect::<Vec<_>>().join(".");
                    assert!(verify(&token, &key.set()).is_err(), "{name}: byte {place} of part {part}");
                }
            }
            let signature = &parts[2];
            for cut in [&signature[..signature.len() - 1], &signature[1..], &[&signature[..], &[0]].concat(), &[]] {
                let token = format!("{}.{}", token.rsplit_once('.').unwrap().0, encode(cut));
                assert_eq!(verify(&token, &key.set()), Err(Error::Signature), "{name}");
            }
            assert_eq!(verify(&token, &Key::new(name).set()), Err(Error::Signature), "another key");
        }
    }

    #[test]
    fn the_example_of_rfc_7515_is_good() {
        let (token, keys) = include_str!("../../fuzz/seeds/jwt/es256").split_once('\n').unwrap();
        assert_eq!(verify(token, &serde_json::from_str(keys).unwrap()).unwrap()["iss"], "joe");
    }

    #[test]
    fn what_anybody_can_sign_is_refused() {
        let key = Key::new("RS256");
        let payload = encode(br#"{"sub":"alice"}"#);
        for name in ["none", "None", "HS256", "HS512", "", "ES256K"] {
            let header = encode(json!({ "alg": name }).to_string().as_bytes());
            for signature in ["", "AAAA"] {
                let token = format!("{header}.{payload}.{signature}");
                assert_eq!(verify(&token, &key.set()), Err(Error::Algorithm(name.into())), "{name}");
            }
        }
        let critical = key.sign(&json!({"crit": ["exp"]}), &json!({}));
        assert_eq!(verify(&critical, &key.set()), Err(Error::Form));
        for token in ["", "a", "a.b", "a.b.c.d", "....", "e30.e30.", "e30.e30.AAAA"] {
            assert_eq!(verify(token, &key.set()), Err(Error::Form), "{token}");
        }
    }

    #[test]
    fn a_key_is_good_for_what_it_says_it_is_for() {
        let key = Key::new("RS256");
        let (claims, header) = (json!({"sub": "alice"}), json!({"kid": "new"}));
        let token = key.sign(&header, &claims);
        let with = |name: &str, value: &str| {
            let mut public = key.public.clone();
            public[name] = value.into();
            verify(&token, &json!({"keys": [{"kty": "RSA"}, public]})).is_ok()
        };
        assert!(with("kid", "new") && with("use", "sig") && with("alg", "RS256"));
        assert!(!with("kid", "old") && !with("use", "enc") && !with("alg", "PS256") && !with("kty", "EC"));
        let short = Rsa::generate(1024).unwrap();
        assert!(rsa_key(&short.n().to_vec(), &short.e().to_vec()).is_none());
        for set in [json!(null), json!([]), json!({"keys": {}}), json!({"keys": [1, null, {}]})] {
            assert_eq!(verify(&token, &set), Err(Error::Signature), "{set}");
        }
    }

    proptest! {
        #[test]
        fn no_token_panics(header in ".*", rest in "[A-Za-z0-9_.-]{0,80}") {
            let set = json!({"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "", "y": ""}]});
            let header = json!({"alg": "ES256", "kid": header});
            let _ = verify(&format!("{}.{rest}", encode(header.to_string().as_bytes())), &set);
        }
    }
}
