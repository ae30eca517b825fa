//! Keys and certificates that are good no more: lists of public keys, and OpenSSH's KRLs (PROTOCOL.krl).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::sha::{sha1, sha256};

use super::certificate::{Certificate, Offer, OfferError, strings};
use super::file::{self, FileError, StrictModes};
use super::key::{AuthorizedKey, KeyLineError};
use super::public_key::{KeyError, PublicKey};
use crate::connection::wire::{Malformed, Reader};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// What a KRL begins with, as one number.
const MAGIC: &[u8; 8] = b"SSHKRL\n\0";

/// The type of key that older lists have, and that lets nobody in.
const OBSOLETE: &str = "ssh-dss";

/// The format's version.
const VERSION: u32 = 1;

/// Files of what is revoked, read at each login: `revokedKeys`.
#[derive(Clone, Debug, Default)]
pub struct RevokedKeys {
    files: Vec<PathBuf>,
    strict_modes: StrictModes,
}

impl RevokedKeys {
    /// What these files revoke, which these may be able to replace.
    pub fn new(files: Vec<PathBuf>, strict_modes: StrictModes) -> Self {
        RevokedKeys { files, strict_modes }
    }

    /// Why nobody would get in by a key, for each file that is no good.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let problem =
            |path: &PathBuf| Revoked::read(path, self.strict_modes).err().map(|error| Self::tell(path, &error));
        self.files.iter().filter_map(problem)
    }

    fn tell(path: &Path, error: &RevocationError) -> String {
        format!("ssh.revokedKeys: {}: {error}; no key is good until that is mended", path.display())
    }

    /// Whether what a client offers is revoked: the key, the certificate or its authority. Where that cannot be told it
    /// is, as for sshd, and the log says why.
    pub fn cover(&self, offer: &Offer) -> bool {
        self.files.iter().any(|path| match Revoked::read(path, self.strict_modes) {
            Ok(revoked) => revoked.covers(offer),
            Err(error) => {
                log::error!("{}", Self::tell(path, &error));
                true
            }
        })
    }
}

/// Why a file is no list of what is revoked.
#[derive(Debug)]
enum RevocationError {
    File(FileError),
    /// A line of a list of keys.
    Line(usize, KeyLineError),
    /// A line with a certificate.
    Certificate(usize, OfferError),
    /// A KRL that is cut or changed.
    Krl,
    /// A KRL of this version.
    Version(u32),
    /// A KRL with a section of this kind, which is unknown.
    Section(u8),
    /// A KRL with an extension that must be known, and is not.
    Extension,
    /// A KRL with a signature that is none.
    Signature,
}

impl fmt::Display for RevocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RevocationError::File(error) => error.fmt(f),
            RevocationError::Line(number, error) => write!(f, "line {number}: {error}"),
            RevocationError::Certificate(number, error) => write!(f, "line {number}: {error}"),
            RevocationError::Krl => f.write_str("not a whole KRL: part of it is missing or changed"),
            RevocationError::Version(version) => write!(f, "a KRL of version {version}, which is unknown"),
            RevocationError::Section(kind) => write!(f, "a KRL with a section of type {kind}, which is unknown"),
            RevocationError::Extension => f.write_str("a KRL with a critical extension that is unknown"),
            RevocationError::Signature => f.write_str("a KRL with a bad signature"),
        }
    }
}

impl From<Malformed> for RevocationError {
    fn from(_: Malformed) -> Self {
        RevocationError::Krl
    }
}

/// What one file revokes.
#[derive(Debug, Default)]
struct Revoked {
    /// Encoded keys.
    keys: HashSet<Vec<u8>>,
    /// Fingerprints of keys.
    sha1: HashSet<Vec<u8>>,
    sha256: HashSet<Vec<u8>>,
    /// Certificates by their authority's encoded key. That of no bytes stands for any.
    certificates: HashMap<Vec<u8>, Certificates>,
}

/// Certificates of one authority.
#[derive(Debug, Default)]
struct Certificates {
    /// First and last serial number.
    ranges: Vec<(u64, u64)>,
    /// A first serial number, and a number whose bits stand for it and those that follow, the least significant first.
    bitmaps: Vec<(u64, Vec<u8>)>,
    key_ids: HashSet<Vec<u8>>,
}

impl Revoked {
    fn read(path: &Path, strict_modes: StrictModes) -> Result<Self, RevocationError> {
        let read = match strict_modes {
            StrictModes::Yes => file::read,
            StrictModes::No => file::read_unless_writable,
        };
        let bytes = read(path, LONGEST).map_err(RevocationError::File)?;
        if bytes.starts_with(MAGIC) { Self::krl(&bytes) } else { Self::list(&bytes) }
    }

    /// A list of public keys and certificates, one a line. A certificate stands for the key in it, as for sshd.
    fn list(text: &[u8]) -> Result<Self, RevocationError> {
        let mut revoked = Revoked::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            revoked.keys.extend(key(line, index + 1)?.map(|key| key.blob().to_vec()));
        }
        Ok(revoked)
    }

    /// A KRL.
    fn krl(bytes: &[u8]) -> Result<Self, RevocationError> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(RevocationError::Krl);
        }
        match reader.u32()? {
            VERSION => (),
            other => return Err(RevocationError::Version(other)),
        }
        let (_number, _date, _flags) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (_reserved, _comment) = (reader.string()?, reader.string()?);
        let (mut revoked, mut is_signed) = (Revoked::default(), false);
        while !reader.rest().is_empty() {
            let kind = reader.u8()?;
            let section = reader.string()?;
            // Nothing but signatures follows a signature.
            if is_signed && kind != 4 {
                return Err(RevocationError::Krl);
            }
            match kind {
                1 => revoked.certificates(section)?,
                2 => revoked.keys.extend(strings(section, usize::MAX)?),
                3 => revoked.sha1.extend(hashes(section, 20)?),
                4 => {
                    is_signed = true;
                    let signed = &bytes[..bytes.len() - reader.rest().len()];
                    verify(section, reader.string()?, signed)?;
                }
                5 => revoked.sha256.extend(hashes(section, 32)?),
                255 => extension(section)?,
                other => return Err(RevocationError::Section(other)),
            }
        }
        Ok(revoked)
    }

    /// A section of certificates.
    fn certificates(&mut self, section: &[u8]) -> Result<(), RevocationError> {
        let mut reader = Reader::new(section);
        let (authority, _reserved) = (reader.string()?, reader.string()?);
        let certificates = self.certificates.entry(authority.to_vec()).or_default();
        while !reader.rest().is_empty() {
            let kind = reader.u8()?;
            let mut part = Reader::new(reader.string()?);
            match kind {
                0x20 => {
                    while !part.rest().is_empty() {
                        let serial = part.u64()?;
                        certificates.ranges.push((serial, serial));
                    }
                }
                0x21 => {
                    let (first, last) = (part.u64()?, part.u64()?);
                    if first > last {
                        return Err(RevocationError::Krl);
                    }
                    certificates.ranges.push((first, last));
                }
                0x22 => certificates.bitmaps.push((part.u64()?, part.string()?.to_vec())),
                0x23 => {
                    certificates.key_ids.extend(strings(part.rest(), usize::MAX)?);
                    continue;
                }
                0x39 => {
                    extension(part.rest())?;
                    continue;
                }
                other => return Err(RevocationError::Section(other)),
            }
            part.end()?;
        }
        Ok(())
    }

    fn covers(&self, offer: &Offer) -> bool {
        self.has_key(&offer.key)
            || offer.certificate.as_ref().is_some_and(|certificate| {
                let of = |authority: &[u8]| self.certificates.get(authority);
                self.has_key(&certificate.authority)
                    || [of(certificate.authority.blob()), of(b"")]
                        .into_iter()
                        .flatten()
                        .any(|list| list.have(certificate))
            })
    }

    fn has_key(&self, key: &PublicKey) -> bool {
        let blob = key.blob();
        self.keys.contains(blob) || self.sha1.contains(&sha1(blob)[..]) || self.sha256.contains(&sha256(blob)[..])
    }
}

impl Certificates {
    fn have(&self, certificate: &Certificate) -> bool {
        let serial = certificate.serial;
        let in_bitmap = |(first, bits): &(u64, Vec<u8>)| {
            let index = serial.checked_sub(*first).and_then(|index| usize::try_from(index).ok());
            index.is_some_and(|index| bits.iter().rev().nth(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1))
        };
        self.key_ids.contains(&certificate.key_id)
            // 0 is the number of those that have none.
            || serial != 0
                && (self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&serial))
                    || self.bitmaps.iter().any(in_bitmap))
    }
}

/// The key in a line of this number; none for those that let nobody in anyway. All else that is not understood may be a
/// key that was to be revoked, so it is an error.
fn key(line: &[u8], number: usize) -> Result<Option<PublicKey>, RevocationError> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (name, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let blob = STANDARD.decode(base64).unwrap_or_default();
    let result = match Offer::certified(name, &blob) {
        Some(Err(OfferError::Key(error))) => Err(KeyLineError::Key(error)),
        Some(result) => Ok(result.map_err(|error| RevocationError::Certificate(number, error))?),
        None => AuthorizedKey::parse(&String::from_utf8_lossy(line)).map(|line| line.parts().0.clone()),
    };
    match result {
        Ok(key) => Ok(Some(key)),
        Err(KeyLineError::Key(KeyError::RsaSize(_))) => Ok(None),
        Err(KeyLineError::Key(KeyError::Type(name))) if name == OBSOLETE => Ok(None),
        Err(error) => Err(RevocationError::Line(number, error)),
    }
}

/// Fingerprints of so many bytes.
fn hashes(section: &[u8], length: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let hashes = strings(section, usize::MAX)?;
    if hashes.iter().all(|hash| hash.len() == length) { Ok(hashes) } else { Err(Malformed) }
}

/// An extension: none is known, so none may be critical.
fn extension(section: &[u8]) -> Result<(), RevocationError> {
    let mut reader = Reader::new(section);
    let (_name, critical, _contents) = (reader.string()?, reader.boolean()?, reader.string()?);
    reader.end()?;
    if critical { Err(RevocationError::Extension) } else { Ok(()) }
}

/// A signature over all that comes before it. Whose it is does not matter: whoever could change the file could leave it out.
fn verify(key: &[u8], signature: &[u8], signed: &[u8]) -> Result<(), RevocationError> {
    let key = PublicKey::parse(key).map_err(|_| RevocationError::Signature)?;
    let algorithm = Reader::new(signature).string()?;
    key.verify(algorithm, signature, signed).map(|_| ()).map_err(|_| RevocationError::Signature)
}

/// A KRL, and a list of keys.
pub(crate) fn fuzz(data: &[u8]) {
    let _ = Revoked::krl(data);
    let _ = Revoked::list(data);
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::{MAGIC, Revoked};
    use crate::auth::Offer;
    use crate::auth::certificate::tests::Draft;
    use crate::auth::key::tests::{LINES, line, offer};
    use crate::auth::signature::tests::KeyPair;
    use crate::connection::wire::Write;

    /// A KRL with these sections.
    fn krl(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u32(1);
        [0, 0, 0].into_iter().for_each(|number| bytes.put_u64(number));
        bytes.put_string("");
        bytes.put_string("comment");
        for (kind, section) in sections {
            bytes.put_u8(*kind);
            bytes.put_string(section);
        }
        bytes
    }

    /// A section of certificates of an authority, with one part.
    fn certificates(authority: &[u8], kind: u8, part: &[u8]) -> Vec<u8> {
        let mut section = Vec::new();
        section.put_string(authority);
        section.put_string("");
        section.put_u8(kind);
        section.put_string(part);
        section
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// Which of the serial numbers up to 20 are revoked.
    fn serials(authority: &KeyPair, bytes: &[u8]) -> Vec<u64> {
        let revoked = Revoked::krl(bytes).unwrap();
        let is_revoked = |serial: &u64| {
            let blob = Draft { serial: *serial, ..Draft::default() }.sign(authority);
            revoked.covers(&Offer::parse(&blob).unwrap())
        };
        (0..=20).filter(is_revoked).collect()
    }

    #[test]
    fn certificates_are_revoked_by_serial_number() {
        let (authority, other) = (KeyPair::new("ssh-mldsa44-ed25519"), KeyPair::new("ssh-ed25519"));
        let mut bitmap = numbers(&[3]);
        // 0, 1, and 9 from 3.
        bitmap.put_string([0b10, 0b11]);
        for (kind, part, expected) in [
            (0x20, numbers(&[0, 2, 17]), &[2, 17][..]),
            (0x21, numbers(&[5, 8]), &[5, 6, 7, 8]),
            (0x21, numbers(&[0, u64::MAX]), &(1..=20).collect::<Vec<_>>()),
            (0x22, bitmap, &[3, 4, 12]),
        ] {
            let own = krl(&[(1, certificates(authority.public.blob(), kind, &part))]);
            assert_eq!(serials(&authority, &own), expected, "{kind:#x}");
            assert!(serials(&other, &own).is_empty());
            assert_eq!(serials(&other, &krl(&[(1, certificates(b"", kind, &part))])), expected, "of any authority");
        }
    }

    #[test]
    fn certificates_are_revoked_by_id_and_by_their_authority() {
        let authority = KeyPair::new("ssh-ed25519");
        let mut ids = Vec::new();
        ids.put_string("gone");
        let revoked = Revoked::krl(&krl(&[(1, certificates(b"", 0x23, &ids))])).unwrap();
        let covers = |revoked: &Revoked, key_id| {
            revoked.covers(&Offer::parse(&Draft { key_id, ..Draft::default() }.sign(&authority)).unwrap())
        };
        assert!(covers(&revoked, "gone") && !covers(&revoked, "here"));
        let list = Revoked::list(authority.public.to_string().as_bytes()).unwrap();
        assert!(covers(&list, "here"));
    }

    #[test]
    fn keys_are_revoked_by_themselves_and_by_fingerprints() {
        for (line, other) in LINES.lines().zip(LINES.lines().skip(1)).take(7).flat_map(|(a, b)| [(a, b), (b, a)]) {
            let blob = offer(line).key.blob().to_vec();
            for (kind, mark) in
                [(2, blob.clone()), (3, openssl::sha::sha1(&blob).to_vec()), (5, openssl::sha::sha256(&blob).to_vec())]
            {
                let mut section = Vec::new();
                section.put_string(&mark);
                let revoked = Revoked::krl(&krl(&[(kind, section)])).unwrap();
                assert!(revoked.covers(&offer(line)) && !revoked.covers(&offer(other)), "section {kind}: {line}");
            }
        }
        let list = Revoked::list(format!("# gone\n\n{LINES}").as_bytes()).unwrap();
        assert!(LINES.lines().take(8).all(|line| list.covers(&offer(line))));
    }

    #[test]
    fn a_certificate_in_a_list_revokes_its_key() {
        let authority = KeyPair::new("ssh-ed25519");
        for purpose in [1, 2] {
            let draft = Draft { purpose, critical: &[("unknown", None)], ..Draft::default() };
            let blob = draft.sign(&authority);
            let line = |blob: &[u8]| format!("ssh-ed25519-cert-v01@openssh.com {} comment", STANDARD.encode(blob));
            let list = Revoked::list(line(&blob).as_bytes()).unwrap();
            // The bare key, and any certificate with it; not the authority's others.
            let certified = Offer::parse(&Draft::default().sign(&KeyPair::new("ssh-ed25519"))).unwrap();
            assert!(list.covers(&Offer { certificate: None, ..certified.clone() }));
            assert!(list.covers(&certified) && !list.has_key(&authority.public));
            for end in 0..blob.len() {
                assert!(Revoked::list(line(&blob[..end]).as_bytes()).is_err(), "cut at {end}");
            }
            assert!(Revoked::list(line(&[&blob[..], &[0]].concat()).as_bytes()).is_err());
            assert!(Revoked::list(line(offer(self::line()).key.blob()).as_bytes()).is_err());
        }
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        let ed25519 = line();
        for list in [
            "no key\n",
            "ssh-x AAAA\n",
            "ssh-ed25519\n",
            "ssh-x-cert-v01@openssh.com AAAA\n",
            &ed25519.replace("ssh-ed25519", "ssh-ed25519x"),
            &ed25519.replace("AAAA", "AAA="),
            &format!("{ed25519}\nssh-xmss@openssh.com AAAA\n"),
        ] {
            assert!(Revoked::list(list.as_bytes()).is_err(), "{list}");
        }
        assert!(Revoked::list(b"ssh-dss AAAA\nssh-dss-cert-v01@openssh.com AAAA\n").is_ok());
        let mut extension = Vec::new();
        extension.put_string("x");
        extension.put_boolean(false);
        extension.put_string("");
        assert!(Revoked::krl(&krl(&[(255, extension.clone())])).is_ok());
        extension[5] = 1;
        let mut short = Vec::new();
        short.put_string([0; 19]);
        for sections in [
            vec![(255, extension)],
            vec![(9, Vec::new())],
            vec![(3, short)],
            vec![(1, certificates(b"", 0x21, &numbers(&[8, 5])))],
            vec![(1, certificates(b"", 0x24, b""))],
            vec![(1, certificates(b"", 0x20, b"1234567"))],
        ] {
            assert!(Revoked::krl(&krl(&sections)).is_err(), "{sections:?}");
        }
        let whole = krl(&[(2, Vec::new())]);
        (0..whole.len() - 5).for_each(|end| assert!(Revoked::krl(&whole[..end]).is_err(), "cut at {end}"));
    }

    #[test]
    fn a_signature_in_a_krl_must_be_good_and_the_last() {
        let pair = KeyPair::new("ssh-ed25519");
        let unsigned = krl(&[(4, pair.public.blob().to_vec())]);
        let mut signed = unsigned.clone();
        signed.put_string(pair.sign(&unsigned));
        assert!(Revoked::krl(&signed).is_ok());
        let mut more = signed.clone();
        more.put_u8(2);
        more.put_string("");
        assert!(Revoked::krl(&more).is_err());
        signed[30] ^= 1;
        assert!(Revoked::krl(&signed).is_err());
    }

    proptest! {
        #[test]
        fn no_krl_panics(kind in 0..6u8, section in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Revoked::krl(&krl(&[(kind, section)]));
        }

        #[test]
        fn no_list_panics(name in "ssh-(ed25519|rsa)(-cert-v01@openssh.com)?", blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = Vec::new();
            whole.put_string(&name);
            whole.extend_from_slice(&blob);
            let list = format!("{name} {}", STANDARD.encode(whole));
            prop_assert!(name == "ssh-rsa" || Revoked::list(list.as_bytes()).is_err());
        }
    }
}
