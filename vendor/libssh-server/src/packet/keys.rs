//! Keys from a key exchange (RFC 4253 section 7.2).

use openssl::hash::{Hasher, MessageDigest};

use super::algorithm::Algorithm;
use super::protection::Protection;
use super::{Opener, PacketError, Sealer};
use crate::secret::{Secret, wipe};

/// The hash function of a key exchange method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// That of the method of this name.
    pub fn of(method: &str) -> Option<Hash> {
        let (_, hash) = method.trim_end_matches("@libssh.org").trim_end_matches("@openssh.com").rsplit_once('-')?;
        match hash {
            "sha1" => Some(Hash::Sha1),
            "sha256" | "nistp256" => Some(Hash::Sha256),
            "nistp384" | "sha384" => Some(Hash::Sha384),
            "sha512" | "nistp521" => Some(Hash::Sha512),
            _ => None,
        }
    }

    fn openssl(self) -> MessageDigest {
        match self {
            Hash::Sha1 => MessageDigest::sha1(),
            Hash::Sha256 => MessageDigest::sha256(),
            Hash::Sha384 => MessageDigest::sha384(),
            Hash::Sha512 => MessageDigest::sha512(),
        }
    }
}

/// Which of the two we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a key exchange came to.
pub(crate) struct Exchange {
    /// K, encoded: as an mpint, or as a string where the method says so.
    pub secret: Secret,
    /// H
    pub hash: Vec<u8>,
    /// The first exchange's H.
    pub identifier: Vec<u8>,
    pub function: Hash,
}

impl Exchange {
    /// What opens packets that are sent to `side`. It counts its packets from zero.
    pub fn opener(&self, side: Side, algorithm: Algorithm) -> Result<Opener, PacketError> {
        let sender = if side == Side::Server { Side::Client } else { Side::Server };
        Ok(Opener::new(self.protection(sender, algorithm, false)?, algorithm.compression))
    }

    /// What seals packets that `side` sends.
    pub fn sealer(&self, side: Side, algorithm: Algorithm) -> Result<Sealer, PacketError> {
        Ok(Sealer::new(self.protection(side, algorithm, true)?, algorithm.compression))
    }

    pub(super) fn protection(
        &self,
        sender: Side,
        algorithm: Algorithm,
        seals: bool,
    ) -> Result<Protection, PacketError> {
        let [iv, key, integrity] = match sender {
            Side::Client => b"ACE",
            Side::Server => b"BDF",
        };
        let (key_length, iv_length) = algorithm.cipher.lengths();
        let iv = self.derive(*iv, iv_length)?;
        let key = self.derive(*key, key_length)?;
        let integrity = self.derive(*integrity, algorithm.mac.map_or(0, |mac| mac.digest.length()))?;
        Protection::new(algorithm, seals, &key, &iv, &integrity)
    }

    /// HASH(K || H || letter || identifier), with HASH(K || H || all so far) behind it until that is long enough.
    fn derive(&self, letter: u8, length: usize) -> Result<Secret, PacketError> {
        let mut key = Secret::new(Vec::with_capacity(length + 64));
        while key.len() < length {
            let mut hasher = Hasher::new(self.function.openssl())?;
            hasher.update(&self.secret)?;
            hasher.update(&self.hash)?;
            if key.is_empty() {
                hasher.update(&[letter])?;
                hasher.update(&self.identifier)?;
            } else {
                hasher.update(&key)?;
            }
            let mut block = hasher.finish()?;
            key.0.extend_from_slice(&block);
            wipe(&mut block);
        }
        wipe(&mut key.0[length..]);
        key.0.truncate(length);
        Ok(key)
    }
}
