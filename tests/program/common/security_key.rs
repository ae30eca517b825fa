//! FIDO security keys in software: what they sign is in PROTOCOL.u2f of OpenSSH.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::bn::{BigNumContext, BigNumRef};
use openssl::ec::{EcGroup, EcKey, PointConversionForm};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;

use super::ssh_agent::string;

/// Somebody has touched it.
pub const PRESENT: u8 = 1;
/// It has verified who that is.
pub const VERIFIED: u8 = 4;

/// A security key.
pub struct SecurityKey {
    kind: &'static str,
    private: PKey<Private>,
    /// The public key, encoded.
    pub blob: Vec<u8>,
    flags: u8,
}

impl SecurityKey {
    /// A key on Edwards's curve whose signatures have these flags.
    pub fn ed25519(flags: u8) -> Self {
        let private = PKey::generate_ed25519().unwrap();
        let public = string(private.raw_public_key().unwrap());
        SecurityKey::new("sk-ssh-ed25519@openssh.com", private, public, flags)
    }

    /// A key on the curve P-256 whose signatures have these flags.
    pub fn ecdsa(flags: u8) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = EcKey::generate(&group).unwrap();
        let (form, mut context) = (PointConversionForm::UNCOMPRESSED, BigNumContext::new().unwrap());
        let point = key.public_key().to_bytes(&group, form, &mut context).unwrap();
        let public = [string(b"nistp256"), string(&point)].concat();
        SecurityKey::new("sk-ecdsa-sha2-nistp256@openssh.com", PKey::from_ec_key(key).unwrap(), public, flags)
    }

    fn new(kind: &'static str, private: PKey<Private>, public: Vec<u8>, flags: u8) -> Self {
        SecurityKey { kind, private, blob: [string(kind.as_bytes()), public, string(b"ssh:")].concat(), flags }
    }

    /// Its line of authorized keys.
    pub fn line(&self) -> String {
        format!("{} {}", self.kind, STANDARD.encode(&self.blob))
    }

    /// Signs, as the agent in front of it gives it to clients.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        let attested = [&[self.flags][..], &1u32.to_be_bytes()].concat();
        let data = [&sha256(b"ssh:")[..], &attested, &sha256(data)].concat();
        let signature = if self.kind.contains("ecdsa") {
            let der = Signer::new(MessageDigest::sha256(), &self.private).unwrap().sign_oneshot_to_vec(&data).unwrap();
            let signature = EcdsaSig::from_der(&der).unwrap();
            [number(signature.r()), number(signature.s())].concat()
        } else {
            Signer::new_without_digest(&self.private).unwrap().sign_oneshot_to_vec(&data).unwrap()
        };
        [string(self.kind.as_bytes()), string(&signature), attested].concat()
    }
}

fn number(number: &BigNumRef) -> Vec<u8> {
    let digits = number.to_vec();
    let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
    string([sign, &digits].concat())
}
