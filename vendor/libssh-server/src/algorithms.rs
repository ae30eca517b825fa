//! What may be negotiated.

use std::ffi::CString;

use crate::ffi;

/// The algorithms that a server offers: comma-separated names, the preferred ones first.
#[derive(Clone, Debug)]
pub struct Algorithms {
    pub(crate) methods: [CString; ffi::METHODS],
    pub(crate) signature_algorithms: CString,
    /// The own identification string.
    pub(crate) identification: CString,
}

impl Algorithms {
    /// `software` is what stands after `SSH-2.0-` in the own identification. A name with a NUL ends there.
    ///
    /// `signature_algorithms` are those that a user's key may sign with (`server-sig-algs`, RFC 8308 section 3.1).
    pub fn new(
        software: &str,
        key_exchange: &str,
        host_keys: &str,
        ciphers: &str,
        macs: &str,
        signature_algorithms: &str,
    ) -> Self {
        let compression = "none,zlib@openssh.com";
        Algorithms {
            // The order of enum ssh_kex_types_e; the last two are languages.
            methods: [key_exchange, host_keys, ciphers, ciphers, macs, macs, compression, compression, "", ""]
                .map(text),
            signature_algorithms: text(signature_algorithms),
            identification: text(&format!("SSH-2.0-{software}")),
        }
    }
}

pub(crate) fn text(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}
