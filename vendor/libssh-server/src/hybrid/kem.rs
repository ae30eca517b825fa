//! ML-KEM-768 by OpenSSL, for whose encapsulation the `openssl` crate has no functions.

use std::ptr;

use foreign_types::{ForeignType, ForeignTypeRef};

use super::*;

/// A context of OpenSSL's for one operation with one key.
struct Context(*mut openssl_sys::EVP_PKEY_CTX);

impl Context {
    fn new<T>(key: &PKeyRef<T>) -> Result<Self, ErrorStack> {
        // SAFETY: the key is live, and the context counts as one more that refers to it; NULL stands for no engine.
        let context = unsafe { openssl_sys::EVP_PKEY_CTX_new(key.as_ptr(), ptr::null_mut()) };
        if context.is_null() { Err(ErrorStack::get()) } else { Ok(Context(context)) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        unsafe { openssl_sys::EVP_PKEY_CTX_free(self.0) }
    }
}

/// OpenSSL's result: 1 is good.
fn good(result: i32) -> Result<(), ErrorStack> {
    if result == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// A new key.
pub fn generate() -> Result<PKey<Private>, ErrorStack> {
    // SAFETY: NULL stands for the default library context and properties; the name is a C string, and all that follows.
    let key = unsafe { openssl_sys::EVP_PKEY_Q_keygen(ptr::null_mut(), ptr::null(), c"ML-KEM-768".as_ptr()) };
    // SAFETY: where it is not null, it is a key with its private half, and nobody else's.
    if key.is_null() { Err(ErrorStack::get()) } else { Ok(unsafe { PKey::from_ptr(key) }) }
}

/// OpenSSL looks whether it is one, as FIPS 203 section 7.2 demands.
pub fn encapsulation_key(bytes: &[u8]) -> Result<PKey<Public>, Error> {
    PKey::public_key_from_raw_bytes_ex(None, KeyType::ML_KEM_768, None, bytes).map_err(|_| Error::EncapsulationKey)
}

/// A ciphertext, and the secret in it.
pub fn encapsulate<T: HasPublic>(key: &PKeyRef<T>) -> Result<(Vec<u8>, Secret), ErrorStack> {
    let context = Context::new(key)?;
    // SAFETY: the context is live; NULL stands for no parameters.
    good(unsafe { openssl_sys::EVP_PKEY_encapsulate_init(context.0, ptr::null()) })?;
    // With room for the X25519 key that follows.
    let mut ciphertext = Vec::with_capacity(CIPHERTEXT + X25519);
    ciphertext.resize(CIPHERTEXT, 0);
    let secret = Secret::of(SECRET, |secret| {
        let (mut length, mut secret_length) = (ciphertext.len(), secret.len());
        // SAFETY: each length is that of the buffer before it, which OpenSSL does not write beyond.
        good(unsafe {
            openssl_sys::EVP_PKEY_encapsulate(
                context.0,
                ciphertext.as_mut_ptr(),
                &raw mut length,
                secret.as_mut_ptr(),
                &raw mut secret_length,
            )
        })
    })?;
    Ok((ciphertext, secret))
}

/// The secret in a ciphertext; another one where that was changed.
pub fn decapsulate<T: HasPrivate>(key: &PKeyRef<T>, ciphertext: &[u8]) -> Result<Secret, ErrorStack> {
    let context = Context::new(key)?;
    // SAFETY: as in `encapsulate`.
    good(unsafe { openssl_sys::EVP_PKEY_decapsulate_init(context.0, ptr::null()) })?;
    Secret::of(SECRET, |secret| {
        let mut length = secret.len();
        // SAFETY: each length is that of its buffer; OpenSSL reads the one, and does not write beyond the other.
        good(unsafe {
            openssl_sys::EVP_PKEY_decapsulate(
                context.0,
                secret.as_mut_ptr(),
                &raw mut length,
                ciphertext.as_ptr(),
                ciphertext.len(),
            )
        })
    })
}
