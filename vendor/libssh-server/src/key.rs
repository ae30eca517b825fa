//! Host keys.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::ptr::NonNull;

use crate::ffi;
use crate::message::frames;

/// The kinds of host key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `ssh-ed25519`
    Ed25519,
    /// `ecdsa-sha2-nistp256`, `-nistp384` or `-nistp521`; a generated one is on P-256.
    Ecdsa,
    /// `ssh-rsa`, signing with SHA-2; a generated one has 3072 bits.
    Rsa,
}

/// Why a key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not a private key in OpenSSH's or PEM format, or one with a passphrase.
    Unreadable,
    /// A key of a kind that no host key may have (DSA, FIDO, ML-DSA).
    Unsupported,
    /// OpenSSL could not make one, for want of memory or randomness.
    Failed,
    /// Not a certificate for this key.
    Certificate,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Unreadable => "not a private key in OpenSSH or PEM format without a passphrase",
            KeyError::Unsupported => "not an Ed25519, ECDSA or RSA key",
            KeyError::Failed => "the key could not be made",
            KeyError::Certificate => "not a certificate for this key",
        })
    }
}

impl std::error::Error for KeyError {}

/// A private key: a host's, or a user's where we are the client.
pub struct HostKey {
    raw: NonNull<ffi::RawKey>,
    kind: KeyKind,
}

// SAFETY: an `ssh_key` has no tie to the thread that made it.
unsafe impl Send for HostKey {}
// SAFETY: after construction the key is only read (signing with an EVP_PKEY locks what it caches).
unsafe impl Sync for HostKey {}

impl HostKey {
    /// Reads a private key in OpenSSH's or PEM format.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        ffi::initialise();
        let text = CString::new(text).map_err(|_| KeyError::Unreadable)?;
        // SAFETY: the argument is a C string that the call only reads.
        let raw = unsafe { ffi::berth_key_import(text.as_ptr()) };
        let is_known =
            || type_of(&text.to_string_lossy()).is_none_or(|name| TYPES.map(str::as_bytes).contains(&&name[..]));
        Self::own(raw, if raw.is_null() && !is_known() { KeyError::Unsupported } else { KeyError::Unreadable })
    }

    /// Makes a new key.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        ffi::initialise();
        // SAFETY: `kind` is 0, 1 or 2, which index the shim's tables.
        let raw = unsafe { ffi::berth_key_generate(kind as i32) };
        Self::own(raw, KeyError::Failed)
    }

    /// The key with a certificate, which is the name of its type and its base64.
    fn certified(&self, name: &str, base64: &str) -> Result<Self, KeyError> {
        let text = |text| CString::new(text).map_err(|_| KeyError::Certificate);
        let (name, base64) = (text(name)?, text(base64)?);
        // SAFETY: the key is live; the other arguments are C strings that the call only reads.
        let raw = unsafe { ffi::berth_key_certify(self.raw.as_ptr(), name.as_ptr(), base64.as_ptr()) };
        Self::own(raw, KeyError::Certificate)
    }

    fn own(raw: *mut ffi::RawKey, error: KeyError) -> Result<Self, KeyError> {
        let mut key = HostKey { raw: NonNull::new(raw).ok_or(error)?, kind: KeyKind::Ed25519 };
        // SAFETY: `raw` is a live key, owned by `key`.
        key.kind = match unsafe { ffi::berth_key_kind(key.raw.as_ptr()) } {
            0 => KeyKind::Ed25519,
            1 => KeyKind::Ecdsa,
            2 => KeyKind::Rsa,
            _ => return Err(KeyError::Unsupported),
        };
        Ok(key)
    }

    /// What kind it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The private key in OpenSSH's format, for its file.
    pub fn private_text(&self) -> Result<String, KeyError> {
        // SAFETY: the key is live; the answer is ours to free.
        unsafe { take_text(ffi::berth_key_export(self.raw.as_ptr())) }
    }

    /// The public key as in a `.pub` file, without a comment: type and base64.
    pub fn public_text(&self) -> Result<String, KeyError> {
        // SAFETY: the key is live; the answer is ours to free.
        let base64 = unsafe { take_text(ffi::berth_key_public(self.raw.as_ptr())) }?;
        Ok(format!("{} {base64}", self.type_name()))
    }

    /// Signs, by an algorithm of the key's: the signature as in RFC 4253 section 6.6.
    pub fn sign(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let algorithm = CString::new(algorithm).map_err(|_| KeyError::Unsupported)?;
        let mut length = 0;
        // SAFETY: the key is live, and pointer and length are of `data`; the answer is ours to free.
        unsafe {
            let signature =
                ffi::berth_key_sign(self.raw.as_ptr(), algorithm.as_ptr(), data.as_ptr(), data.len(), &raw mut length);
            take_bytes(signature, length).ok_or(KeyError::Failed)
        }
    }

    /// The public key, encoded (RFC 4253 section 6.6).
    pub fn public_blob(&self) -> Result<Vec<u8>, KeyError> {
        let mut length = 0;
        // SAFETY: the key is live; the answer is ours to free.
        unsafe { take_bytes(ffi::berth_key_blob(self.raw.as_ptr(), &raw mut length), length) }.ok_or(KeyError::Failed)
    }

    /// The name of its type, as `ssh-ed25519`.
    pub fn type_name(&self) -> &'static str {
        // SAFETY: the name is a static C string, in ASCII.
        unsafe { CStr::from_ptr(ffi::berth_key_name(self.raw.as_ptr())) }.to_str().unwrap_or_default()
    }
}

impl Drop for HostKey {
    fn drop(&mut self) {
        // SAFETY: the key is live and nobody else's: sessions hold their HostKeys in an Arc until they have ended.
        unsafe { ffi::berth_key_free(self.raw.as_ptr()) }
    }
}

/// Copies a C string of libssh's and frees it.
///
/// # Safety
/// `text` is null or was given by the shim for its caller to free.
unsafe fn take_text(text: *mut c_char) -> Result<String, KeyError> {
    if text.is_null() {
        return Err(KeyError::Failed);
    }
    // SAFETY: not null, so a C string; it is freed once, after the copy.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        ffi::berth_text_free(text);
        Ok(copy)
    }
}

/// Copies bytes that the shim has allocated, and frees them.
///
/// # Safety
/// `bytes` is null, or has `length` bytes and was given by the shim for its caller to free.
pub(crate) unsafe fn take_bytes(bytes: *mut u8, length: usize) -> Option<Vec<u8>> {
    // SAFETY: where it is not null, it is what the contract above says; it is freed once, after the copy.
    (!bytes.is_null()).then(|| unsafe {
        let copy = std::slice::from_raw_parts(bytes, length).to_vec();
        ffi::berth_text_free(bytes.cast());
        copy
    })
}

/// What a private key in OpenSSH's format without a passphrase begins with (PROTOCOL.key), up to the public key.
const BEGINNING: &[u8] = b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01";

/// The name of the type of such a key, which libssh may not know.
fn type_of(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let base64: String = text.strip_suffix("-----END OPENSSH PRIVATE KEY-----")?.split_ascii_whitespace().collect();
    let bytes = openssl::base64::decode_block(&base64).ok()?;
    let public = frames(bytes.strip_prefix(BEGINNING)?).next()?;
    frames(public).next().map(<[u8]>::to_vec)
}

/// The types of host keys, in the shim's order.
const TYPES: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// A server's host keys, and certificates for them. Of several keys of a type the first one serves, as with OpenSSH's
/// server, and of several certificates the first key's.
#[derive(Default)]
pub struct HostKeys(Vec<Entry>);

struct Entry {
    key: HostKey,
    /// The same in a certificate.
    certified: Option<HostKey>,
}

impl HostKeys {
    /// Adds a key behind the others, unless it is there already.
    pub fn add(&mut self, key: HostKey) {
        if !self.iter().any(|known| known.public_blob() == key.public_blob()) {
            self.0.push(Entry { key, certified: None });
        }
    }

    /// All keys, those that do not serve among them.
    pub fn iter(&self) -> impl Iterator<Item = &HostKey> {
        self.0.iter().map(|entry| &entry.key)
    }

    /// Adds a certificate, given as in its file by the name of its type and its base64, in place of another for the same
    /// key. Fails where it is for none of the keys.
    pub fn certify(&mut self, name: &str, base64: &str) -> Result<(), KeyError> {
        let certify = |entry: &mut Entry| entry.key.certified(name, base64).map(|key| entry.certified = Some(key));
        self.0.iter_mut().find_map(|entry| certify(entry).ok()).ok_or(KeyError::Certificate)
    }

    /// Those of these algorithms that there is a key for, and before them those that there is a certificate for, separated
    /// by commas.
    pub fn algorithms(&self, wanted: &str) -> String {
        let type_of = |name| if str::starts_with(name, "rsa-") { "ssh-rsa" } else { name };
        let certified = wanted.split(',').filter(|name| self.certified(type_of(name)).is_some());
        let bare = wanted.split(',').filter(|name| self.bare(type_of(name)).is_some());
        let names = certified.map(|name| format!("{name}-cert-v01@openssh.com")).chain(bare.map(str::to_owned));
        names.collect::<Vec<_>>().join(",")
    }

    fn bare(&self, name: &str) -> Option<&HostKey> {
        self.iter().find(|key| key.type_name() == name)
    }

    fn certified(&self, name: &str) -> Option<&HostKey> {
        self.0.iter().filter_map(|entry| entry.certified.as_ref()).find(|key| key.type_name() == name)
    }

    /// Those that serve, by their types: bare, and with their certificates.
    pub(crate) fn pointers(&self) -> [[*mut ffi::RawKey; TYPES.len()]; 2] {
        let pointer = |key: Option<&HostKey>| key.map_or(std::ptr::null_mut(), |key| key.raw.as_ptr());
        [TYPES.map(|name| pointer(self.bare(name))), TYPES.map(|name| pointer(self.certified(name)))]
    }
}

#[cfg(test)]
mod tests {
    use super::{BEGINNING, HostKey, HostKeys, KeyError, KeyKind};
    use crate::message::frame;

    #[test]
    fn a_generated_key_is_read_back() {
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
            let key = HostKey::generate(kind).unwrap();
            let copy = HostKey::parse(&key.private_text().unwrap()).unwrap();
            assert_eq!(copy.kind(), kind);
            assert_eq!(copy.public_text(), key.public_text());
        }
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        for text in [
            "",
            "ssh-ed25519 AAAA",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            "a\0b",
        ] {
            assert_eq!(HostKey::parse(text).err(), Some(KeyError::Unreadable));
        }
    }

    #[test]
    fn a_key_of_a_type_that_no_host_key_may_have_is_told_from_what_is_no_key() {
        let read = |beginning: &[u8], name: &str| {
            let (mut public, mut bytes) = (Vec::new(), beginning.to_vec());
            frame(&mut public, name.as_bytes());
            frame(&mut bytes, &public);
            let base64 = openssl::base64::encode_block(&bytes);
            let text = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{base64}\n-----END OPENSSH PRIVATE KEY-----\n");
            HostKey::parse(&text).err()
        };
        assert_eq!(read(BEGINNING, "ssh-mldsa44-ed25519"), Some(KeyError::Unsupported));
        assert_eq!(read(BEGINNING, "ssh-ed25519"), Some(KeyError::Unreadable), "it is cut");
        assert_eq!(read(b"openssh-key-v1\0", "ssh-mldsa44-ed25519"), Some(KeyError::Unreadable));
    }

    #[test]
    fn of_several_keys_of_a_type_the_first_serves_and_none_is_there_twice() {
        let mut keys = HostKeys::default();
        let [first, second] = [(); 2].map(|()| HostKey::generate(KeyKind::Ed25519).unwrap());
        let again = HostKey::parse(&first.private_text().unwrap()).unwrap();
        let blobs = [&first, &second].map(|key| key.public_blob().unwrap());
        let serving = first.raw.as_ptr();
        [first, second, again].into_iter().for_each(|key| keys.add(key));
        assert_eq!(keys.iter().map(|key| key.public_blob().unwrap()).collect::<Vec<_>>(), blobs);
        assert_eq!(keys.pointers()[0][0], serving);
        assert_eq!(keys.algorithms("rsa-sha2-512,ssh-ed25519"), "ssh-ed25519");
    }
}
