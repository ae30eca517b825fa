//! OpenSSH's user certificates: PROTOCOL.certkeys.

use std::fmt;
use std::net::IpAddr;

use super::public_key::{KeyError, PublicKey, Type, excerpt, fingerprint};
use super::source::Sources;
use super::{Attested, BadSignature, Restrictions, composite};
use crate::connection::wire::{Malformed, Reader, Write};

/// What the names of certificates' types end in.
const SUFFIX: &str = "-cert-v01@openssh.com";

/// What the names of security keys' types end in.
const VENDOR: &str = "@openssh.com";

/// The principals that a certificate may have, as many as OpenSSH takes.
const MOST_PRINCIPALS: usize = 256;

/// The types of certificate.
const USER: u32 = 1;

/// A public key that a client offers: bare, or in a certificate.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The key.
    pub key: PublicKey,
    /// The certificate that it came in, whose authority has signed it.
    pub certificate: Option<Certificate>,
}

/// A user certificate. Its authority's signature is good; whether the authority is, others know.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// As it was encoded.
    blob: Vec<u8>,
    /// The authority's key.
    pub authority: PublicKey,
    /// The authority's number for it; 0 where it does not count.
    pub serial: u64,
    /// The authority's words on whom it is for. Hostile where the authority is not known.
    pub key_id: Vec<u8>,
    /// Whose it is. None is nobody's.
    principals: Vec<Vec<u8>>,
    /// Since when, and until when, it is good: seconds since 1970.
    valid: (u64, u64),
    /// `source-address`
    sources: Option<Sources>,
    /// What its critical options take, and its extensions give.
    restrictions: Restrictions,
}

/// Why a blob is no key or certificate that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferError {
    /// The key, or that of the authority.
    Key(KeyError),
    /// The certificate ends too early, or has what its form does not allow.
    Malformed,
    /// It is for a host.
    NotForUsers,
    /// It was not signed by the key that it names.
    Signature,
    /// A critical option of this name cannot be honoured.
    Critical(String),
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OfferError::Key(error) => error.fmt(f),
            OfferError::Malformed => f.write_str("a malformed certificate"),
            OfferError::NotForUsers => f.write_str("a certificate for hosts"),
            OfferError::Signature => f.write_str("a certificate that its authority has not signed"),
            OfferError::Critical(name) => {
                write!(f, "a certificate with a critical option that is unknown or bad: {name:?}")
            }
        }
    }
}

impl std::error::Error for OfferError {}

impl From<KeyError> for OfferError {
    fn from(error: KeyError) -> Self {
        OfferError::Key(error)
    }
}

impl From<Malformed> for OfferError {
    fn from(_: Malformed) -> Self {
        OfferError::Malformed
    }
}

/// The name of the plain type or algorithm that goes with a certificate's.
fn plain(name: &[u8]) -> Option<String> {
    if name == composite::CERTIFICATE.as_bytes() {
        return Some(composite::NAME.to_owned());
    }
    let start = std::str::from_utf8(name).ok()?.strip_suffix(SUFFIX).filter(|&start| start != composite::NAME)?;
    Some(if start.starts_with("sk-") { format!("{start}{VENDOR}") } else { start.to_owned() })
}

impl Offer {
    /// Takes an encoded key or certificate, and verifies what its authority has signed.
    pub fn parse(blob: &[u8]) -> Result<Offer, OfferError> {
        let mut reader = Reader::new(blob);
        match plain(reader.string().unwrap_or_default()) {
            None => Ok(Offer { key: PublicKey::parse(blob)?, certificate: None }),
            Some(name) => {
                let (key, certificate) = Certificate::read(Type::of(name.as_bytes())?, blob, reader)?;
                Ok(Offer { key, certificate: Some(certificate) })
            }
        }
    }
}

impl Offer {
    /// What is offered, as it was encoded.
    pub(super) fn blob(&self) -> &[u8] {
        self.certificate.as_ref().map_or(self.key.blob(), |certificate| &certificate.blob)
    }

    /// The key in a user's or a host's certificate of this type, whoever has signed it and whatever it allows; none where
    /// the type is not that of a certificate. For lists of what is revoked.
    pub(super) fn certified(name: &[u8], blob: &[u8]) -> Option<Result<PublicKey, OfferError>> {
        let kind = plain(name)?;
        let read = || {
            let kind = Type::of(kind.as_bytes())?;
            let mut reader = Reader::new(blob);
            if reader.string()? != name {
                return Err(OfferError::Malformed);
            }
            Ok(Fields::read(kind, blob, reader)?.key)
        };
        Some(read())
    }

    /// Takes what a client offers, to sign with by this algorithm; none for what it could not.
    pub fn take(algorithm: &[u8], blob: &[u8]) -> Option<Offer> {
        let offer = Offer::parse(blob).inspect_err(|error| log::debug!("a key is not taken: {error}")).ok()?;
        offer.plain(algorithm).is_some_and(|algorithm| offer.key.signs_by(&algorithm)).then_some(offer)
    }

    /// Verifies that the key has signed `data`: see [`PublicKey::verify`].
    pub fn verify(&self, algorithm: &[u8], signature: &[u8], data: &[u8]) -> Result<Option<Attested>, BadSignature> {
        self.key.verify(&self.plain(algorithm).ok_or(BadSignature)?, signature, data)
    }

    /// The algorithm by which the key signs: a certificate's has a name of its own.
    fn plain(&self, algorithm: &[u8]) -> Option<Vec<u8>> {
        match self.certificate {
            None => Some(algorithm.to_vec()),
            Some(_) => plain(algorithm).map(String::into_bytes),
        }
    }
}

/// What stands in a certificate, in its form alone.
struct Fields<'a> {
    key: PublicKey,
    serial: u64,
    purpose: u32,
    key_id: &'a [u8],
    principals: &'a [u8],
    valid: (u64, u64),
    critical: &'a [u8],
    extensions: &'a [u8],
    authority: &'a [u8],
    /// What the signature is over.
    signed: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads what follows the type in `blob`. `kind` is that of the certified key.
    fn read(kind: &Type, blob: &'a [u8], mut reader: Reader<'a>) -> Result<Self, OfferError> {
        let _nonce = reader.string()?;
        let key = key(kind, &mut reader)?;
        let (serial, purpose, key_id) = (reader.u64()?, reader.u32()?, reader.string()?);
        let principals = reader.string()?;
        let valid = (reader.u64()?, reader.u64()?);
        let (critical, extensions) = (reader.string()?, reader.string()?);
        let _reserved = reader.string()?;
        let authority = reader.string()?;
        let signed = &blob[..blob.len() - reader.rest().len()];
        let signature = reader.string()?;
        reader.end()?;
        Ok(Fields {
            key,
            serial,
            purpose,
            key_id,
            principals,
            valid,
            critical,
            extensions,
            authority,
            signed,
            signature,
        })
    }
}

impl Certificate {
    /// Reads what follows the type in `blob`. `kind` is that of the certified key.
    fn read(kind: &Type, blob: &[u8], reader: Reader<'_>) -> Result<(PublicKey, Certificate), OfferError> {
        let fields = Fields::read(kind, blob, reader)?;
        if fields.purpose != USER {
            return Err(OfferError::NotForUsers);
        }
        let principals = strings(fields.principals, MOST_PRINCIPALS)?;
        let authority = PublicKey::parse(fields.authority)?;
        let algorithm = Reader::new(fields.signature).string()?;
        authority.verify(algorithm, fields.signature, fields.signed).map_err(|_| OfferError::Signature)?;

        let mut certificate = Certificate {
            blob: blob.to_vec(),
            authority,
            serial: fields.serial,
            key_id: fields.key_id.to_vec(),
            principals,
            valid: fields.valid,
            sources: None,
            restrictions: Restrictions {
                no_pty: true,
                no_port_forwarding: true,
                no_agent_forwarding: true,
                no_x11_forwarding: true,
                ..Restrictions::default()
            },
        };
        options(fields.critical, |name, data| certificate.critical(name, data))?;
        options(fields.extensions, |name, _data| {
            certificate.extension(name);
            Some(())
        })?;
        Ok((fields.key, certificate))
    }

    /// Takes a critical option; none for one that is unknown, bad, or given twice.
    fn critical(&mut self, name: &[u8], data: &[u8]) -> Option<()> {
        let mut data = Reader::new(data);
        let is_first = match name {
            b"force-command" => {
                let command = data.utf8().ok().filter(|command| !command.contains('\0'))?;
                self.restrictions.command.replace(command.to_owned()).is_none()
            }
            b"source-address" => self.sources.replace(Sources::parse_networks(data.utf8().ok()?).ok()?).is_none(),
            b"verify-required" => !std::mem::replace(&mut self.restrictions.verify_required, true),
            _ => false,
        };
        (is_first && data.end().is_ok()).then_some(())
    }

    /// Takes an extension. Those that are unknown allow nothing.
    fn extension(&mut self, name: &[u8]) {
        let restrictions = &mut self.restrictions;
        match name {
            b"permit-pty" => restrictions.no_pty = false,
            b"permit-port-forwarding" => restrictions.no_port_forwarding = false,
            b"permit-agent-forwarding" => restrictions.no_agent_forwarding = false,
            b"permit-X11-forwarding" => restrictions.no_x11_forwarding = false,
            b"no-touch-required" => restrictions.no_touch_required = true,
            // permit-user-rc: nothing here runs ~/.ssh/rc.
            _ => (),
        }
    }

    /// Whether this is one of those whose certificate it is.
    pub(super) fn is_for(&self, principal: &str) -> bool {
        self.principals.iter().any(|own| own == principal.as_bytes())
    }

    /// What its owner is held to, when logging in from `client` at the time `now`, in seconds since 1970; or why it is not
    /// good for that.
    pub(super) fn admit(&self, client: IpAddr, now: i64) -> Result<&Restrictions, &'static str> {
        let now = u64::try_from(now).unwrap_or_default();
        if now < self.valid.0 {
            return Err("the certificate is not valid yet");
        }
        if now >= self.valid.1 {
            return Err("the certificate has expired");
        }
        if self.sources.as_ref().is_some_and(|sources| !sources.allow(client)) {
            return Err("the certificate's source-address does not allow the address");
        }
        Ok(&self.restrictions)
    }
}

/// What the log says of a certificate: `ID "alice" (serial 5) CA SHA256:...`.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = excerpt(&String::from_utf8_lossy(&self.key_id));
        write!(f, "ID {id:?} (serial {}) CA {}", self.serial, fingerprint(self.authority.blob()))
    }
}

/// Reads a key without its type, and gives it whole.
fn key(kind: &Type, reader: &mut Reader<'_>) -> Result<PublicKey, OfferError> {
    let before = reader.rest();
    kind.read(reader)?;
    let mut blob = Vec::new();
    blob.put_string(kind.name);
    blob.extend_from_slice(&before[..before.len() - reader.rest().len()]);
    Ok(PublicKey::parse(&blob)?)
}

/// Reads strings up to the end, `most` of them.
pub(super) fn strings(bytes: &[u8], most: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut strings = Vec::new();
    while !reader.rest().is_empty() {
        if strings.len() == most {
            return Err(Malformed);
        }
        strings.push(reader.string()?.to_vec());
    }
    Ok(strings)
}

/// Gives each option of a list to `take`, which gives none for those that it does not.
fn options(list: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Result<(), OfferError> {
    let mut reader = Reader::new(list);
    while !reader.rest().is_empty() {
        let (name, data) = (reader.string()?, reader.string()?);
        take(name, data).ok_or_else(|| OfferError::Critical(excerpt(&String::from_utf8_lossy(name))))?;
    }
    Ok(())
}

/// A key or certificate as a client offers it.
pub(crate) fn fuzz(blob: &[u8]) {
    if let Ok(offer) = Offer::parse(blob)
        && let Some(certificate) = &offer.certificate
    {
        let _ = (certificate.admit([127, 0, 0, 1].into(), 1_000_000_000), certificate.to_string());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{Certificate, Offer, OfferError};
    use crate::auth::signature::tests::KeyPair;
    use crate::connection::wire::Write;

    /// What is to be certified. An option's data is a string in its place.
    pub(in crate::auth) struct Draft<'a> {
        pub serial: u64,
        pub purpose: u32,
        pub key_id: &'a str,
        pub principals: &'a [&'a str],
        pub valid: (u64, u64),
        pub critical: &'a [(&'a str, Option<&'a str>)],
        pub extensions: &'a [&'a str],
    }

    impl Default for Draft<'_> {
        fn default() -> Self {
            let valid = (0, u64::MAX);
            Draft { serial: 0, purpose: 1, key_id: "id", principals: &["alice"], valid, critical: &[], extensions: &[] }
        }
    }

    impl Draft<'_> {
        /// A certificate for an Ed25519 key.
        pub(in crate::auth) fn sign(&self, authority: &KeyPair) -> Vec<u8> {
            let mut blob = Vec::new();
            blob.put_string("ssh-ed25519-cert-v01@openssh.com");
            blob.put_string("nonce");
            blob.put_string([7; 32]);
            blob.put_u64(self.serial);
            blob.put_u32(self.purpose);
            blob.put_string(self.key_id);
            let (mut principals, mut critical, mut extensions) = (Vec::new(), Vec::new(), Vec::new());
            self.principals.iter().for_each(|principal| principals.put_string(principal));
            for (name, data) in self.critical {
                critical.put_string(name);
                let mut inner = Vec::new();
                data.iter().for_each(|data| inner.put_string(data));
                critical.put_string(inner);
            }
            for name in self.extensions {
                extensions.put_string(name);
                extensions.put_string("");
            }
            blob.put_string(principals);
            blob.put_u64(self.valid.0);
            blob.put_u64(self.valid.1);
            blob.put_string(critical);
            blob.put_string(extensions);
            blob.put_string("");
            blob.put_string(authority.public.blob());
            let signature = authority.sign(&blob);
            blob.put_string(signature);
            blob
        }

        fn parse(&self) -> Result<Certificate, OfferError> {
            let blob = self.sign(&KeyPair::new("ssh-ed25519"));
            Offer::parse(&blob).map(|offer| offer.certificate.unwrap())
        }
    }

    #[test]
    fn authorities_of_every_type_sign() {
        for algorithm in crate::auth::SIGNATURE_ALGORITHMS.split(',') {
            let authority = KeyPair::new(algorithm);
            let offer = Offer::parse(&Draft::default().sign(&authority)).unwrap();
            assert_eq!(offer.certificate.unwrap().authority, authority.public, "{algorithm}");
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_no_certificate() {
        let critical = [("source-address", Some("10.0.0.0/8"))];
        let draft = Draft { critical: &critical, extensions: &["permit-pty"], ..Draft::default() };
        let blob = draft.sign(&KeyPair::new("ssh-ed25519"));
        for place in 0..blob.len() {
            let mut changed = blob.clone();
            changed[place] ^= 1;
            assert!(Offer::parse(&changed).is_err(), "byte {place}");
            assert!(Offer::parse(&blob[..place]).is_err(), "cut at {place}");
        }
        assert!(Offer::parse(&[&blob[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_option_that_cannot_be_honoured_makes_it_void() {
        for critical in [
            &[("unknown", None)][..],
            &[("force-command", None)],
            &[("force-command", Some("a\0b"))],
            &[("force-command", Some("a")), ("force-command", Some("a"))],
            &[("source-address", Some("10.0.0.1/8"))],
            &[("source-address", Some("!10.0.0.1"))],
            &[("source-address", Some(""))],
            &[("verify-required", Some("yes"))],
        ] {
            let error = Draft { critical, ..Draft::default() }.parse().unwrap_err();
            assert_eq!(error, OfferError::Critical(critical[0].0.into()), "{critical:?}");
        }
        // Extensions may be unknown.
        assert!(Draft { extensions: &["unknown"], ..Draft::default() }.parse().is_ok());
        assert_eq!(Draft { purpose: 2, ..Draft::default() }.parse().unwrap_err(), OfferError::NotForUsers);
    }

    #[test]
    fn what_no_extension_permits_is_forbidden() {
        let restrictions = |extensions: &[&str]| Draft { extensions, ..Draft::default() }.parse().unwrap().restrictions;
        let none = restrictions(&[]);
        assert!(none.no_pty && none.no_port_forwarding && none.no_agent_forwarding && none.no_x11_forwarding);
        assert!(!none.no_touch_required);
        let all = restrictions(&[
            "no-touch-required",
            "permit-X11-forwarding",
            "permit-agent-forwarding",
            "permit-port-forwarding",
            "permit-pty",
            "permit-user-rc",
        ]);
        assert!(!(all.no_pty || all.no_port_forwarding || all.no_agent_forwarding || all.no_x11_forwarding));
        assert!(all.no_touch_required);
    }

    #[test]
    fn it_is_good_in_its_time_and_for_its_principals_and_addresses() {
        let critical = [("source-address", Some("10.0.0.0/8")), ("force-command", Some("date"))];
        let draft = Draft { valid: (100, 200), critical: &critical, principals: &["alice", "web"], ..Draft::default() };
        let certificate = draft.parse().unwrap();
        let admits = |client: &str, now| certificate.admit(client.parse().unwrap(), now).is_ok();
        assert_eq!([99, 100, 199, 200].map(|now| admits("10.0.0.1", now)), [false, true, true, false]);
        assert!(!admits("192.0.2.1", 150) && !admits("10.0.0.1", -1));
        assert!(certificate.is_for("web") && !certificate.is_for("Web") && !certificate.is_for(""));
        assert_eq!(certificate.restrictions.command.as_deref(), Some("date"));
        assert!(!Draft { principals: &[], ..Draft::default() }.parse().unwrap().is_for("alice"));
        let many = vec!["a"; super::MOST_PRINCIPALS + 1];
        assert!(Draft { principals: &many[1..], ..Draft::default() }.parse().is_ok());
        assert_eq!(Draft { principals: &many, ..Draft::default() }.parse().unwrap_err(), OfferError::Malformed);
    }

    proptest! {
        #[test]
        fn no_certificate_panics(
            name in "ssh-(ed25519-cert-v01@openssh.com|mldsa44-ed25519-cert)",
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut blob = Vec::new();
            blob.put_string(name);
            blob.extend_from_slice(&rest);
            prop_assert!(Offer::parse(&blob).is_err());
        }
    }
}
