//! User keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::client::{Client, newest_openssh};

/// A type that older ones of `ssh-keygen` do not know.
const COMPOSITE: &str = "mldsa44-ed25519";

/// A key pair of `ssh-keygen`'s.
pub struct Key {
    /// The private key's file.
    pub path: PathBuf,
    /// The line for an authorized keys file.
    pub public: String,
}

/// The key of this name: a type that `ssh-keygen -t` knows, and then a size (`ecdsa-521`) or any other word. Made once, and
/// kept in the target directory.
pub fn key(name: &str) -> Key {
    static MAKING: Mutex<()> = Mutex::new(());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let path = directory.join(name);
    let public = directory.join(format!("{name}.pub"));
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !public.exists() {
        fs::create_dir_all(&directory).unwrap();
        let _ = fs::remove_file(&path);
        let (program, kind, rest) = if name.starts_with(COMPOSITE) {
            (newest_openssh("ssh-keygen"), COMPOSITE, "")
        } else {
            let (kind, rest) = name.split_once('-').unwrap_or((name, ""));
            ("ssh-keygen".to_owned(), kind, rest)
        };
        let size = rest.parse::<u32>().map(|size| format!("-b{size}"));
        let keygen = Client::new(program).args(["-q", "-N", "", "-C", name, "-t", kind]).args(size);
        keygen.arg("-f").arg(&path).run().succeeds();
    }
    Key { path, public: fs::read_to_string(public).unwrap().trim().to_owned() }
}
