//! Bytes that nobody shall find in memory afterwards.

use std::ffi::c_void;
use std::ops::Deref;

unsafe extern "C" {
    fn OPENSSL_cleanse(bytes: *mut c_void, length: usize);
}

/// Overwrites a secret, which the compiler does not leave out.
pub(crate) fn wipe(bytes: &mut [u8]) {
    // SAFETY: pointer and length are of `bytes`.
    unsafe { OPENSSL_cleanse(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Bytes that are wiped before they are given back. They must not outgrow their capacity: what they leave is not wiped.
pub(crate) struct Secret(pub Vec<u8>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    /// `length` bytes that `fill` writes; wiped, too, where it fails.
    pub fn of<E>(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Secret(vec![0; length]);
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// As a string (RFC 4251 section 5).
    pub fn encoded(&self) -> Self {
        let mut bytes = Vec::with_capacity(4 + self.len());
        bytes.extend_from_slice(&(self.len() as u32).to_be_bytes());
        bytes.extend_from_slice(self);
        Secret(bytes)
    }

    /// These bytes, which are wiped where they were.
    pub fn take(bytes: &mut [u8]) -> Self {
        let secret = Secret(bytes.to_vec());
        wipe(bytes);
        secret
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}
