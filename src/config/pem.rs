//! Certificates and keys, where the configuration or a file may hold them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::bounded;

/// The largest file of certificates or keys, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// A certificate or key in PEM (RFC 7468).
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In the configuration itself.
    Text(String),
    /// In this file.
    File(PathBuf),
}

impl Pem {
    /// The PEM. Reads a file of 1 MiB at most.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let path = match self {
            Pem::Text(text) => return Ok(text.clone().into_bytes()),
            Pem::File(path) => path,
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        bounded::read(path, LARGEST).map_err(named)?.ok_or_else(|| named(io::Error::other("larger than 1 MiB")))
    }
}

/// What it is may be secret.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::Text(_) => f.write_str("Text"),
            Pem::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}
