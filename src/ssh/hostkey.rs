//! Host key files.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libssh_server::{HostKey, HostKeys, KeyError, KeyKind};

use crate::auth::{Offer, OfferError};
use crate::config::Pem;
use crate::private_file;

/// The longest file of a host key or certificate, in bytes: an RSA key of 16384 bits has 13 kB.
const LONGEST: u64 = 64 * 1024;

/// Why a host key file cannot be used or made.
#[derive(Debug)]
pub enum KeyFileError {
    /// It could not be read or written.
    Io(PathBuf, io::Error),
    /// It holds no usable key.
    Key(PathBuf, KeyError),
    /// It is no certificate for hosts, or for none of the keys.
    Certificate(PathBuf),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io(path, error) => write!(f, "host key {}: {error}", path.display()),
            KeyFileError::Key(path, error) => write!(f, "host key {}: {error}", path.display()),
            KeyFileError::Certificate(path) => {
                write!(
                    f,
                    "host certificate {}: not a certificate for hosts (ssh-keygen -h) of one of ssh.hostkeys",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for KeyFileError {}

/// What becomes of a key whose file is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is made, of the kind that its name says, else Ed25519.
    Make,
    /// It is made, and not kept: to see whether all would be well.
    Pretend,
}

/// Reads the host keys and their certificates.
pub(super) fn load(keys: &[Pem], certificates: &[PathBuf], missing: Missing) -> Result<HostKeys, KeyFileError> {
    let mut loaded = HostKeys::default();
    for pem in keys {
        // What messages call one that is not in a file.
        let (key, path) = match pem {
            Pem::Text(text) => (HostKey::parse(text), Path::new("in the configuration")),
            Pem::File(path) => (Ok(read_or_make(path, missing)?), path.as_path()),
        };
        let key = key.map_err(|error| KeyFileError::Key(path.into(), error))?;
        if let Ok(text) = key.public_text() {
            log::info!("host key {}: {text}", path.display());
        }
        loaded.add(key);
    }
    for path in certificates {
        certify(&mut loaded, path)?;
    }
    Ok(loaded)
}

fn certify(keys: &mut HostKeys, path: &Path) -> Result<(), KeyFileError> {
    let text = File::open(path).and_then(read).map_err(|error| KeyFileError::Io(path.into(), error))?;
    let mut words = text.split_ascii_whitespace();
    let (Some(name), Some(base64)) = (words.next(), words.next()) else {
        return Err(KeyFileError::Certificate(path.into()));
    };
    if !is_for_hosts(base64) || keys.certify(name, base64).is_err() {
        return Err(KeyFileError::Certificate(path.into()));
    }
    log::info!("host certificate {}: {name}", path.display());
    Ok(())
}

fn is_for_hosts(base64: &str) -> bool {
    STANDARD.decode(base64).is_ok_and(|blob| matches!(Offer::parse(&blob), Err(OfferError::NotForUsers)))
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn read_or_make(path: &Path, missing: Missing) -> Result<HostKey, KeyFileError> {
    match private_file::open(path) {
        Ok(file) => {
            let text = read(file).map_err(|error| KeyFileError::Io(path.into(), error))?;
            HostKey::parse(&text).map_err(|error| KeyFileError::Key(path.into(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Pretend => {
            // Where its directory is missing, too, none can be made.
            let directory = path.parent().unwrap_or(Path::new("."));
            fs::metadata(directory).map_err(|error| KeyFileError::Io(path.into(), error))?;
            HostKey::generate(kind_of(path)).map_err(|error| KeyFileError::Key(path.into(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::info!("making host key {}", path.display());
            keygen(kind_of(path), path)
        }
        Err(error) => Err(KeyFileError::Io(path.into(), error)),
    }
}

fn kind_of(path: &Path) -> KeyKind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("ecdsa") {
        KeyKind::Ecdsa
    } else if name.contains("rsa") {
        KeyKind::Rsa
    } else {
        KeyKind::Ed25519
    }
}

/// Makes a key and writes it to `path` (mode 0600) and its public half to `path.pub`. Never overwrites a private key.
pub fn keygen(kind: KeyKind, path: &Path) -> Result<HostKey, KeyFileError> {
    let key = HostKey::generate(kind).map_err(|error| KeyFileError::Key(path.into(), error))?;
    let private = key.private_text().map_err(|error| KeyFileError::Key(path.into(), error))?;
    let public = key.public_text().map_err(|error| KeyFileError::Key(path.into(), error))?;
    let io_error = |path: &Path, error| KeyFileError::Io(path.into(), error);
    // A complete file or none: a process killed half-way leaves a file that no one reads.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(private.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&unfinished, path)
    };
    let result = write();
    let _ = fs::remove_file(&unfinished);
    result.map_err(|error| io_error(path, error))?;
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    fs::write(&public_path, format!("{public}\n")).map_err(|error| io_error(Path::new(&public_path), error))?;
    Ok(key)
}
