//! Signatures of users' keys: RFC 4253 section 6.6, RFC 5656, RFC 8332, RFC 8709, and PROTOCOL.u2f of OpenSSH.

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Verifier;

use super::composite;
use super::public_key::{Curve, Fields, Numbers, PublicKey, positive};
use crate::connection::wire::{Malformed, Reader, Write};
use crate::fuzzing::pieces;

/// The algorithms that a user's key may sign with (`server-sig-algs`, RFC 8308 section 3.1): no SHA-1, no DSA.
pub const SIGNATURE_ALGORITHMS: &str = "ssh-ed25519,sk-ssh-ed25519@openssh.com,ecdsa-sha2-nistp256,\
    ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256,\
    ssh-mldsa44-ed25519";

/// A security key's word on its user, in a signature's flags (PROTOCOL.u2f of OpenSSH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Somebody has touched it.
    pub present: bool,
    /// It was told the right PIN, or knows the finger.
    pub verified: bool,
}

impl Attested {
    const PRESENT: u8 = 1;
    const VERIFIED: u8 = 4;
}

/// A signature that is none of this key over this data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

impl From<Malformed> for BadSignature {
    fn from(_: Malformed) -> Self {
        BadSignature
    }
}

/// What OpenSSL takes for no key or no signature.
impl From<ErrorStack> for BadSignature {
    fn from(_: ErrorStack) -> Self {
        BadSignature
    }
}

/// The type of the keys that an algorithm signs with.
pub(super) fn key_type(algorithm: &[u8]) -> &[u8] {
    match algorithm {
        b"rsa-sha2-256" | b"rsa-sha2-512" => b"ssh-rsa",
        other => other,
    }
}

impl PublicKey {
    /// Whether it can sign by this algorithm, which is one of [`SIGNATURE_ALGORITHMS`].
    pub fn signs_by(&self, algorithm: &[u8]) -> bool {
        SIGNATURE_ALGORITHMS.split(',').any(|known| known.as_bytes() == algorithm)
            && self.kind().name.as_bytes() == key_type(algorithm)
    }

    /// Verifies that the key has signed `data`, by this algorithm. Gives a security key's word on its user.
    pub fn verify(&self, algorithm: &[u8], signature: &[u8], data: &[u8]) -> Result<Option<Attested>, BadSignature> {
        let mut reader = Reader::new(signature);
        if !self.signs_by(algorithm) || reader.string()? != algorithm {
            return Err(BadSignature);
        }
        let blob = reader.string()?;
        let Fields { numbers, application } = self.fields().ok_or(BadSignature)?;
        let (mut attested, mut over) = (None, Vec::new());
        let mut data = data;
        if let Some(application) = application {
            let (flags, counter) = (reader.u8()?, reader.u32()?);
            over.extend_from_slice(&sha256(application));
            over.put_u8(flags);
            over.put_u32(counter);
            over.extend_from_slice(&sha256(data));
            data = &over;
            let has = |flag| flags & flag != 0;
            attested = Some(Attested { present: has(Attested::PRESENT), verified: has(Attested::VERIFIED) });
        }
        reader.end()?;
        let is_good = match numbers {
            Numbers::Ed25519(key) => {
                let key = PKey::public_key_from_raw_bytes(key, Id::ED25519)?;
                Verifier::new_without_digest(&key)?.verify_oneshot(blob, data)?
            }
            Numbers::Ecdsa(curve, point) => {
                let (key, digest) = ecdsa_key(curve, point)?;
                Verifier::new(digest, &key)?.verify_oneshot(&ecdsa_signature(blob)?, data)?
            }
            Numbers::Rsa(exponent, modulus) => {
                let key = Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_slice(exponent)?)?;
                let digest =
                    if algorithm == b"rsa-sha2-512" { MessageDigest::sha512() } else { MessageDigest::sha256() };
                // Some clients leave out the zeros in front.
                let missing = modulus.len().checked_sub(blob.len()).ok_or(BadSignature)?;
                let whole = [&vec![0; missing], blob].concat();
                Verifier::new(digest, &*PKey::from_rsa(key)?)?.verify_oneshot(&whole, data)?
            }
            Numbers::Composite(key) => composite::verify(key, blob, data)?,
        };
        if is_good { Ok(attested) } else { Err(BadSignature) }
    }
}

/// A key, and the hash function that goes with its curve (RFC 5656 section 6.2.1).
fn ecdsa_key(curve: Curve, point: &[u8]) -> Result<(PKey<Public>, MessageDigest), ErrorStack> {
    let (name, digest) = match curve {
        Curve::P256 => (Nid::X9_62_PRIME256V1, MessageDigest::sha256()),
        Curve::P384 => (Nid::SECP384R1, MessageDigest::sha384()),
        Curve::P521 => (Nid::SECP521R1, MessageDigest::sha512()),
    };
    let group = EcGroup::from_curve_name(name)?;
    let point = EcPoint::from_bytes(&group, point, &mut *openssl::bn::BigNumContext::new()?)?;
    let key = EcKey::from_public_key(&group, &point)?;
    key.check_key()?;
    Ok((PKey::from_ec_key(key)?, digest))
}

/// An ECDSA signature as OpenSSL takes it, in DER.
fn ecdsa_signature(blob: &[u8]) -> Result<Vec<u8>, BadSignature> {
    let mut reader = Reader::new(blob);
    let (r, s) = (positive(&mut reader)?, positive(&mut reader)?);
    reader.end()?;
    Ok(EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?.to_der()?)
}

/// A key, and a signature by each algorithm.
pub(crate) fn fuzz(data: &[u8]) {
    let mut parts = pieces(data);
    let mut part = || parts.next().unwrap_or_default();
    if let Ok(key) = PublicKey::parse(part()) {
        let (signature, data) = (part(), part());
        for algorithm in SIGNATURE_ALGORITHMS.split(',') {
            let _ = key.verify(algorithm.as_bytes(), signature, data);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use openssl::bn::BigNumContext;
    use openssl::ec::{EcGroup, EcKey, PointConversionForm};
    use openssl::ecdsa::EcdsaSig;
    use openssl::hash::MessageDigest;
    use openssl::md_ctx::MdCtx;
    use openssl::nid::Nid;
    use openssl::pkey::{KeyType, PKey, Private};
    use openssl::rsa::Rsa;
    use openssl::sha::sha256;
    use openssl::sign::Signer;
    use proptest::prelude::*;

    use super::{Attested, BadSignature, SIGNATURE_ALGORITHMS, key_type};
    use crate::auth::key::tests::{LINES, public_key};
    use crate::auth::{PublicKey, composite};
    use crate::connection::wire::Write;

    /// A key pair. Security keys' are in software, and attest what they are told to.
    pub(in crate::auth) struct KeyPair {
        algorithm: &'static str,
        pub public: PublicKey,
        private: PKey<Private>,
        /// Where two keys sign, the one that does so first.
        first: Option<PKey<Private>>,
    }

    impl KeyPair {
        pub(in crate::auth) fn new(algorithm: &'static str) -> Self {
            let kind = std::str::from_utf8(key_type(algorithm.as_bytes())).unwrap();
            let mut blob = Vec::new();
            blob.put_string(kind);
            let mut first = None;
            let private = if let Some((_, curve)) = kind.split_once("nistp") {
                let curve = &curve[..3];
                let nid = match curve {
                    "256" => Nid::X9_62_PRIME256V1,
                    "384" => Nid::SECP384R1,
                    _ => Nid::SECP521R1,
                };
                let group = EcGroup::from_curve_name(nid).unwrap();
                let key = EcKey::generate(&group).unwrap();
                let mut context = BigNumContext::new().unwrap();
                blob.put_string(format!("nistp{curve}"));
                let form = PointConversionForm::UNCOMPRESSED;
                blob.put_string(key.public_key().to_bytes(&group, form, &mut context).unwrap());
                PKey::from_ec_key(key).unwrap()
            } else if kind == "ssh-rsa" {
                let key = Rsa::generate(2048).unwrap();
                put_number(&mut blob, &key.e().to_vec());
                put_number(&mut blob, &key.n().to_vec());
                PKey::from_rsa(key).unwrap()
            } else if kind == composite::NAME {
                let key = PKey::generate_ed25519().unwrap();
                // The one is as good a seed as the other.
                let seed = PKey::generate_ed25519().unwrap().raw_private_key().unwrap();
                let ml_dsa = PKey::private_key_from_seed(None, KeyType::ML_DSA_44, None, &seed).unwrap();
                blob.put_string([ml_dsa.raw_public_key().unwrap(), key.raw_public_key().unwrap()].concat());
                first = Some(ml_dsa);
                key
            } else {
                let key = PKey::generate_ed25519().unwrap();
                blob.put_string(key.raw_public_key().unwrap());
                key
            };
            if kind.starts_with("sk-") {
                blob.put_string("ssh:");
            }
            KeyPair { algorithm, public: PublicKey::parse(&blob).unwrap(), private, first }
        }

        pub(in crate::auth) fn sign(&self, data: &[u8]) -> Vec<u8> {
            self.sign_with_flags(data, Attested::PRESENT)
        }

        fn sign_with_flags(&self, data: &[u8], flags: u8) -> Vec<u8> {
            let mut more = Vec::new();
            let mut over = data.to_vec();
            if self.algorithm.starts_with("sk-") {
                more.put_u8(flags);
                more.put_u32(17);
                over = [&sha256(b"ssh:")[..], &more, &sha256(data)].concat();
            }
            let mut signature = Vec::new();
            if let Some(first) = &self.first {
                over = composite::message(&over);
                let mut context = MdCtx::new().unwrap();
                context.digest_sign_init(None, first).unwrap().set_context_string(composite::LABEL).unwrap();
                context.digest_sign_to_vec(&over, &mut signature).unwrap();
            }
            signature.extend(match self.algorithm.rsplit_once(['-', 'p']).unwrap().1 {
                "256" if self.algorithm.starts_with("rsa") => self.with_digest(MessageDigest::sha256(), &over),
                "512" => self.with_digest(MessageDigest::sha512(), &over),
                "384" => ecdsa(&self.with_digest(MessageDigest::sha384(), &over)),
                "521" => ecdsa(&self.with_digest(MessageDigest::sha512(), &over)),
                _ if self.algorithm.contains("nistp256") => ecdsa(&self.with_digest(MessageDigest::sha256(), &over)),
                _ => Signer::new_without_digest(&self.private).unwrap().sign_oneshot_to_vec(&over).unwrap(),
            });
            let mut blob = Vec::new();
            blob.put_string(self.algorithm);
            blob.put_string(signature);
            [blob, more].concat()
        }

        fn with_digest(&self, digest: MessageDigest, data: &[u8]) -> Vec<u8> {
            Signer::new(digest, &self.private).unwrap().sign_oneshot_to_vec(data).unwrap()
        }
    }

    /// An ECDSA signature as SSH encodes it (RFC 5656 section 3.1.2), from DER.
    fn ecdsa(der: &[u8]) -> Vec<u8> {
        let signature = EcdsaSig::from_der(der).unwrap();
        let mut blob = Vec::new();
        put_number(&mut blob, &signature.r().to_vec());
        put_number(&mut blob, &signature.s().to_vec());
        blob
    }

    fn put_number(blob: &mut Vec<u8>, digits: &[u8]) {
        let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
        blob.put_string([sign, digits].concat());
    }

    fn verify(pair: &KeyPair, signature: &[u8], data: &[u8]) -> Result<Option<Attested>, BadSignature> {
        pair.public.verify(pair.algorithm.as_bytes(), signature, data)
    }

    #[test]
    fn signatures_of_every_algorithm_are_verified() {
        for algorithm in SIGNATURE_ALGORITHMS.split(',') {
            let pair = KeyPair::new(algorithm);
            let signature = pair.sign(b"data");
            assert!(verify(&pair, &signature, b"data").is_ok(), "{algorithm}");
            assert_eq!(verify(&pair, &signature, b"Data"), Err(BadSignature), "{algorithm}");
            assert_eq!(verify(&KeyPair::new(algorithm), &signature, b"data"), Err(BadSignature), "{algorithm}");
            // Of all that follows the algorithm's name no bit may be another, but for the lengths' redundancy.
            for place in 0..signature.len() {
                let mut changed = signature.clone();
                changed[place] ^= 1;
                assert_eq!(verify(&pair, &changed, b"data"), Err(BadSignature), "{algorithm}: byte {place}");
                assert_eq!(verify(&pair, &signature[..place], b"data"), Err(BadSignature), "{algorithm}: {place}");
            }
            assert!(verify(&pair, &[&signature[..], &[0]].concat(), b"data").is_err(), "{algorithm}");
        }
    }

    #[test]
    fn a_key_signs_by_its_own_algorithms() {
        let signs_by =
            |line: usize, algorithm: &str| public_key(LINES.lines().nth(line).unwrap()).signs_by(algorithm.as_bytes());
        assert!(signs_by(0, "ssh-ed25519") && signs_by(4, "rsa-sha2-256") && signs_by(4, "rsa-sha2-512"));
        assert!(signs_by(5, "sk-ssh-ed25519@openssh.com"));
        for (line, algorithm) in [(4, "ssh-rsa"), (4, "ssh-ed25519"), (0, "rsa-sha2-256"), (5, "ssh-ed25519"), (0, "")]
        {
            assert!(!signs_by(line, algorithm), "{algorithm}");
        }
    }

    #[test]
    fn the_algorithm_is_the_one_that_was_named() {
        let pair = KeyPair::new("rsa-sha2-256");
        let signature = pair.sign(b"data");
        assert_eq!(pair.public.verify(b"rsa-sha2-512", &signature, b"data"), Err(BadSignature));
        assert_eq!(pair.public.verify(b"ssh-rsa", &signature, b"data"), Err(BadSignature));
    }

    #[test]
    fn zeros_may_be_missing_before_an_rsa_signature() {
        let pair = KeyPair::new("rsa-sha2-256");
        // One in 256 begins so.
        let found = (0u32..).map(|number| (number.to_be_bytes(), pair.sign(&number.to_be_bytes())));
        let (data, signature) = found.into_iter().find(|(_, signature)| signature[20] == 0).unwrap();
        let mut shorter = Vec::new();
        shorter.put_string("rsa-sha2-256");
        shorter.put_string(&signature[21..]);
        assert_eq!(verify(&pair, &shorter, &data), Ok(None));
    }

    #[test]
    fn a_security_keys_word_is_passed_on() {
        for algorithm in ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"] {
            let pair = KeyPair::new(algorithm);
            for flags in 0..8 {
                let (present, verified) = (flags & 1 != 0, flags & 4 != 0);
                let attested = verify(&pair, &pair.sign_with_flags(b"data", flags), b"data");
                assert_eq!(attested, Ok(Some(Attested { present, verified })), "{algorithm}");
            }
        }
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_no_key() {
        let mut blob = Vec::new();
        blob.put_string("ecdsa-sha2-nistp256");
        blob.put_string("nistp256");
        blob.put_string([&[4][..], &[7; 64]].concat());
        let key = PublicKey::parse(&blob).unwrap();
        let signature = KeyPair::new("ecdsa-sha2-nistp256").sign(b"data");
        assert_eq!(key.verify(b"ecdsa-sha2-nistp256", &signature, b"data"), Err(BadSignature));
    }

    proptest! {
        #[test]
        fn no_signature_panics(
            line in 0..8usize,
            algorithm in 0..9usize,
            rest in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let algorithm = SIGNATURE_ALGORITHMS.split(',').nth(algorithm).unwrap();
            let mut signature = Vec::new();
            signature.put_string(algorithm);
            signature.extend_from_slice(&rest);
            let key = public_key(LINES.lines().nth(line).unwrap());
            prop_assert_eq!(key.verify(algorithm.as_bytes(), &signature, b"data"), Err(BadSignature));
        }
    }
}
