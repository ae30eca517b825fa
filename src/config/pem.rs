//! Certificates and keys, where the configuration or a file may hold them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

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
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(named)?;
        if bytes.len() as u64 > LARGEST {
            return Err(named(io::Error::other("larger than 1 MiB")));
        }
        Ok(bytes)
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
