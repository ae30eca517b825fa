//! MACs whose contexts are kept, by OpenSSL's EVP_MAC(3), of which the crate `openssl` has nothing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};

use openssl_sys as sys;

use super::PacketError;
use super::algorithm::Digest;

/// The longest that there is: HMAC's with SHA-512.
pub(super) const MAX: usize = 64;

/// OSSL_PARAM(3)
#[repr(C)]
struct Parameter {
    key: *const c_char,
    data_type: c_uint,
    data: *mut c_void,
    data_size: usize,
    return_size: usize,
}

/// OSSL_PARAM_UTF8_STRING
const UTF8_STRING: c_uint = 4;

/// A MAC with its key.
pub(super) struct Mac {
    context: NonNull<sys::EVP_MAC_CTX>,
    length: usize,
}

// SAFETY: a context may be used by any one thread at a time, and all uses go through `&mut self`.
unsafe impl Send for Mac {}

impl Mac {
    /// HMAC (RFC 2104), for any number of messages.
    pub fn hmac(digest: Digest, key: &[u8]) -> Result<Mac, PacketError> {
        let name = match digest {
            Digest::Sha1 => c"SHA1",
            Digest::Sha256 => c"SHA256",
            Digest::Sha512 => c"SHA512",
        };
        let parameters = [
            Parameter {
                key: c"digest".as_ptr(),
                data_type: UTF8_STRING,
                data: name.as_ptr().cast_mut().cast(),
                data_size: name.count_bytes(),
                return_size: 0,
            },
            Parameter { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 },
        ];
        let mac = Mac::new(c"HMAC", digest.length())?;
        // SAFETY: the context is live; pointer and length are of `key`; the parameters end with one that has no key,
        // and are only read.
        let result =
            unsafe { sys::EVP_MAC_init(mac.context.as_ptr(), key.as_ptr(), key.len(), parameters.as_ptr().cast()) };
        good(result)?;
        Ok(mac)
    }

    /// Poly1305 (RFC 8439), without a key.
    pub fn poly1305() -> Result<Mac, PacketError> {
        Mac::new(c"POLY1305", 16)
    }

    fn new(name: &CStr, length: usize) -> Result<Mac, PacketError> {
        // SAFETY: the name is a C string; the context holds the algorithm, which is given back, as NULL may be.
        let context = unsafe {
            let algorithm = sys::EVP_MAC_fetch(ptr::null_mut(), name.as_ptr(), ptr::null());
            let context = if algorithm.is_null() { ptr::null_mut() } else { sys::EVP_MAC_CTX_new(algorithm) };
            sys::EVP_MAC_free(algorithm);
            context
        };
        Ok(Mac { context: NonNull::new(context).ok_or(PacketError::Cipher)?, length })
    }

    /// The MAC's length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Takes a key for one message.
    pub fn key(&mut self, key: &[u8]) -> Result<(), PacketError> {
        // SAFETY: the context is live; pointer and length are of `key`.
        good(unsafe { sys::EVP_MAC_init(self.context.as_ptr(), key.as_ptr(), key.len(), ptr::null()) })
    }

    /// Begins with the next message under the same key.
    pub fn restart(&mut self) -> Result<(), PacketError> {
        // SAFETY: the context is live; no key means the one that it has.
        good(unsafe { sys::EVP_MAC_init(self.context.as_ptr(), ptr::null(), 0, ptr::null()) })
    }

    pub fn update(&mut self, data: &[u8]) -> Result<(), PacketError> {
        // SAFETY: the context is live; pointer and length are of `data`.
        good(unsafe { sys::EVP_MAC_update(self.context.as_ptr(), data.as_ptr(), data.len()) })
    }

    /// Ends the message: its MAC, in as many bytes of the answer as [`Mac::length`].
    pub fn finish(&mut self) -> Result<[u8; MAX], PacketError> {
        let mut mac = [0; MAX];
        let mut length = 0;
        // SAFETY: the context is live; `mac` has the room that is said.
        let result = unsafe { sys::EVP_MAC_final(self.context.as_ptr(), mac.as_mut_ptr(), &raw mut length, mac.len()) };
        good(result)?;
        if length == self.length { Ok(mac) } else { Err(PacketError::Cipher) }
    }

    /// Ends the message: whether `tag` is its MAC, in constant time.
    pub fn verify(&mut self, tag: &[u8]) -> Result<(), PacketError> {
        let mac = self.finish()?;
        if tag.len() == self.length && openssl::memcmp::eq(tag, &mac[..self.length]) {
            Ok(())
        } else {
            Err(PacketError::Mac)
        }
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        // SAFETY: the context is live and freed once. OpenSSL wipes it.
        unsafe { sys::EVP_MAC_CTX_free(self.context.as_ptr()) }
    }
}

fn good(result: c_int) -> Result<(), PacketError> {
    if result == 1 { Ok(()) } else { Err(PacketError::Cipher) }
}
