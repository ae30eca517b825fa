//! Signatures by ML-DSA-44 and Ed25519 together, `ssh-mldsa44-ed25519` of OpenSSH 10.6: good as long as one of the two
//! cannot be forged (draft-miller-sshm-mldsa44-ed25519-composite-sigs, draft-ietf-lamps-pq-composite-sigs).

use openssl::md_ctx::MdCtx;
use openssl::pkey::{Id, KeyType, PKey};
use openssl::sha::sha512;
use openssl::sign::Verifier;

use super::BadSignature;

/// The name of the keys' type, and of the algorithm.
pub(super) const NAME: &str = "ssh-mldsa44-ed25519";

/// The name of their certificates' type, which does not end as those of all others do.
pub(super) const CERTIFICATE: &str = "ssh-mldsa44-ed25519-cert";

/// The lengths of ML-DSA-44's public keys and signatures, in bytes (FIPS 204 section 4), which come first.
const ML_DSA: (usize, usize) = (1312, 2420);

/// The lengths of Ed25519's (RFC 8032 section 5.1).
const ED25519: (usize, usize) = (32, 64);

/// The length of an encoded public key.
pub(super) const KEY: usize = ML_DSA.0 + ED25519.0;

const PREFIX: &[u8] = b"CompositeAlgorithmSignatures2025";
pub(super) const LABEL: &[u8] = b"COMPSIG-MLDSA44-Ed25519-SHA512";

/// What both sign, of what is to be signed. Its context is empty.
pub(super) fn message(data: &[u8]) -> Vec<u8> {
    [PREFIX, LABEL, &[0], &sha512(data)].concat()
}

/// Whether both parts of a signature are this key's over `data`.
pub(super) fn verify(key: &[u8], signature: &[u8], data: &[u8]) -> Result<bool, BadSignature> {
    if key.len() != KEY || signature.len() != ML_DSA.1 + ED25519.1 {
        return Err(BadSignature);
    }
    let ((ml_dsa, ed25519), (first, second)) = (key.split_at(ML_DSA.0), signature.split_at(ML_DSA.1));
    let message = message(data);
    let ml_dsa = PKey::public_key_from_raw_bytes_ex(None, KeyType::ML_DSA_44, None, ml_dsa)?;
    let mut context = MdCtx::new()?;
    context.digest_verify_init(None, &ml_dsa)?.set_context_string(LABEL)?;
    let is_first_good = context.digest_verify(&message, first)?;
    let ed25519 = PKey::public_key_from_raw_bytes(ed25519, Id::ED25519)?;
    let is_second_good = Verifier::new_without_digest(&ed25519)?.verify_oneshot(second, &message)?;
    Ok(is_first_good && is_second_good)
}

#[cfg(test)]
mod tests {
    use super::{ED25519, KEY, ML_DSA, NAME, verify};
    use crate::auth::key::tests::blob;
    use crate::auth::signature::tests::KeyPair;
    use crate::auth::{Offer, PublicKey};
    use crate::connection::wire::Reader;
    use crate::fuzzing::pieces;

    /// A user certificate with such a key, signed by another: of ssh-keygen, OpenSSH 10.6.
    const CERTIFICATE: &str = include_str!("test_composite-cert.pub");

    /// The numbers of the authority's key, what it has signed, and the numbers of its signature.
    fn signed(certificate: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut reader = Reader::new(certificate);
        let (_name, _nonce, _key) = (reader.string().unwrap(), reader.string().unwrap(), reader.string().unwrap());
        let (_serial, _purpose, _key_id) = (reader.u64().unwrap(), reader.u32().unwrap(), reader.string().unwrap());
        let (_principals, _valid) = (reader.string().unwrap(), [reader.u64().unwrap(), reader.u64().unwrap()]);
        let _options = [(); 3].map(|()| reader.string().unwrap().len());
        let authority = reader.string().unwrap();
        let signed = &certificate[..certificate.len() - reader.rest().len()];
        let numbers = |blob| {
            let mut reader = Reader::new(blob);
            assert_eq!(reader.string(), Ok(&b"ssh-mldsa44-ed25519"[..]));
            reader.string().unwrap().to_vec()
        };
        (numbers(authority), signed.to_vec(), numbers(reader.string().unwrap()))
    }

    fn is_good(key: &[u8], signature: &[u8], data: &[u8]) -> bool {
        verify(key, signature, data).unwrap_or(false)
    }

    #[test]
    fn a_signature_of_opensshs_is_good_and_none_where_a_bit_of_either_part_is_another() {
        let (key, data, signature) = signed(&blob(CERTIFICATE));
        assert!(is_good(&key, &signature, &data));
        let changed = |bytes: &[u8], place: usize| {
            let mut bytes = bytes.to_vec();
            bytes[place] ^= 1 << (place % 8);
            bytes
        };
        for place in 0..ML_DSA.1 + ED25519.1 {
            assert!(!is_good(&key, &changed(&signature, place), &data), "byte {place} of the signature");
        }
        for place in 0..KEY {
            assert!(!is_good(&changed(&key, place), &signature, &data), "byte {place} of the key");
        }
        for place in 0..data.len() {
            assert!(!is_good(&key, &signature, &changed(&data, place)), "byte {place} of what is signed");
        }
    }

    #[test]
    fn each_part_must_be_of_its_own_key_and_of_its_length() {
        let (key, data, signature) = signed(&blob(CERTIFICATE));
        let other = KeyPair::new("ssh-mldsa44-ed25519");
        let mut reader = Reader::new(other.public.blob());
        let (_, other) = (reader.string().unwrap(), reader.string().unwrap());
        for mixed in [[&key[..ML_DSA.0], &other[ML_DSA.0..]], [&other[..ML_DSA.0], &key[ML_DSA.0..]]] {
            assert!(!is_good(&mixed.concat(), &signature, &data));
        }
        for length in [0, 1, ED25519.1, ML_DSA.1, ML_DSA.1 + ED25519.1 - 1] {
            assert!(verify(&key, &signature[..length], &data).is_err(), "{length} bytes");
        }
        assert!(verify(&key, &[&signature[..], &[0]].concat(), &data).is_err());
        assert!(verify(&key[..KEY - 1], &signature, &data).is_err());
        assert!(verify(&[&key[..], &[0]].concat(), &signature, &data).is_err());
    }

    #[test]
    fn a_certificate_of_opensshs_is_read_and_none_once_changed() {
        let whole = blob(CERTIFICATE);
        let offer = Offer::take(b"ssh-mldsa44-ed25519-cert", &whole).unwrap();
        let certificate = offer.certificate.unwrap();
        assert!(certificate.is_for("alice") && certificate.serial == 7 && certificate.key_id == b"alice's laptop");
        assert_eq!(certificate.authority.kind(), offer.key.kind());
        assert!(Offer::take(b"ssh-mldsa44-ed25519", &whole).is_none());
        for place in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(Offer::parse(&changed).is_err(), "byte {place}");
            assert!(Offer::parse(&whole[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn the_fuzz_target_begins_with_a_good_signature() {
        // Of ssh-keygen -Y sign, OpenSSH 10.6.
        let seed: Vec<_> = pieces(include_bytes!("../../fuzz/seeds/signature/composite")).collect();
        let [key, signature, data] = seed[..] else { panic!("{} pieces", seed.len()) };
        assert_eq!(PublicKey::parse(key).unwrap().verify(NAME.as_bytes(), signature, data), Ok(None));
    }

    #[test]
    fn its_name_ends_in_no_other_way() {
        let renamed = |name: &str| {
            let whole = blob(CERTIFICATE);
            let mut reader = Reader::new(&whole);
            let _name = reader.string();
            let mut renamed = (name.len() as u32).to_be_bytes().to_vec();
            renamed.extend_from_slice(name.as_bytes());
            renamed.extend_from_slice(reader.rest());
            Offer::certified(name.as_bytes(), &renamed).is_some_and(|key| key.is_ok())
        };
        assert!(renamed("ssh-mldsa44-ed25519-cert"));
        assert!(!renamed("ssh-mldsa44-ed25519-cert-v01@openssh.com") && !renamed("ssh-mldsa44-ed25519"));
    }
}
