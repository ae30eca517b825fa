//! What one direction's algorithms are called, and how long their keys are.

use openssl::cipher::{Cipher, CipherRef};

/// The algorithms of one direction, as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm {
    pub cipher: CipherName,
    /// Where the cipher does not authenticate by itself.
    pub mac: Option<MacName>,
    /// zlib@openssh.com: from the user's login on.
    pub compression: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CipherName {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    Aes128Ctr,
    Aes192Ctr,
    Aes256Ctr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacName {
    pub digest: Digest,
    /// Over the ciphertext, with the length in the clear: encrypt-then-MAC.
    pub etm: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// By their names in RFC 4253's lists. None for those that are not known here.
    pub fn named(cipher: &str, mac: &str, compression: &str) -> Option<Algorithm> {
        let (cipher, alone) = match cipher {
            "aes128-gcm@openssh.com" => (CipherName::Aes128Gcm, true),
            "aes256-gcm@openssh.com" => (CipherName::Aes256Gcm, true),
            "chacha20-poly1305@openssh.com" => (CipherName::ChaCha20Poly1305, true),
            "aes128-ctr" => (CipherName::Aes128Ctr, false),
            "aes192-ctr" => (CipherName::Aes192Ctr, false),
            "aes256-ctr" => (CipherName::Aes256Ctr, false),
            _ => return None,
        };
        let mac = if alone { None } else { Some(MacName::named(mac)?) };
        let compression = match compression {
            "none" => false,
            "zlib@openssh.com" => true,
            _ => return None,
        };
        Some(Algorithm { cipher, mac, compression })
    }
}

impl MacName {
    fn named(name: &str) -> Option<MacName> {
        let (name, etm) = match name.strip_suffix("-etm@openssh.com") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let digest = match name {
            "hmac-sha1" => Digest::Sha1,
            "hmac-sha2-256" => Digest::Sha256,
            "hmac-sha2-512" => Digest::Sha512,
            _ => return None,
        };
        Some(MacName { digest, etm })
    }
}

impl CipherName {
    /// The lengths of its key and of its initial vector.
    pub fn lengths(self) -> (usize, usize) {
        match self {
            CipherName::Aes128Gcm => (16, 12),
            CipherName::Aes256Gcm => (32, 12),
            CipherName::ChaCha20Poly1305 => (64, 0),
            CipherName::Aes128Ctr => (16, 16),
            CipherName::Aes192Ctr => (24, 16),
            CipherName::Aes256Ctr => (32, 16),
        }
    }

    pub fn openssl(self) -> &'static CipherRef {
        match self {
            CipherName::Aes128Gcm => Cipher::aes_128_gcm(),
            CipherName::Aes256Gcm => Cipher::aes_256_gcm(),
            CipherName::ChaCha20Poly1305 => Cipher::chacha20(),
            CipherName::Aes128Ctr => Cipher::aes_128_ctr(),
            CipherName::Aes192Ctr => Cipher::aes_192_ctr(),
            CipherName::Aes256Ctr => Cipher::aes_256_ctr(),
        }
    }
}

impl Digest {
    /// The length of an HMAC, and of its key.
    pub fn length(self) -> usize {
        match self {
            Digest::Sha1 => 20,
            Digest::Sha256 => 32,
            Digest::Sha512 => 64,
        }
    }
}
