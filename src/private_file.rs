//! Files that hold what nobody else may know: private keys and secrets.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// What others must not have of such a file. sshd takes no mode but the owner's; a group may read here, since that is how
/// Kubernetes hands a secret to a process that is not root (`fsGroup`).
const FORBIDDEN: u32 = 0o037;

/// A file that others than its owner can read.
#[derive(Debug)]
pub(crate) struct TooOpen {
    path: PathBuf,
    mode: u32,
}

impl fmt::Display for TooOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mode, path) = (self.mode, self.path.display());
        write!(
            f,
            "Permissions {mode:04o} for '{path}' are too open. Others must not be able to read it: chmod 600 '{path}'"
        )
    }
}

impl TooOpen {
    fn error(self) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, self.to_string())
    }
}

/// Opens a file, where nobody can read it who should not.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Not to wait for a pipe's other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    check(path, &metadata).map_err(TooOpen::error)?;
    Ok(file)
}

/// Whether others can read what is to be berth's alone. As sshd, this is about files of the process's own user: whoever
/// else owns one has given it to be read.
pub(crate) fn check(path: &Path, metadata: &Metadata) -> Result<(), TooOpen> {
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_own && metadata.is_file() && metadata.mode() & FORBIDDEN != 0 {
        return Err(TooOpen { path: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{check, open};

    #[test]
    fn what_others_can_read_is_not_opened() {
        let path = std::env::temp_dir().join(format!("berth-private-file-{}", std::process::id()));
        fs::write(&path, "secret").unwrap();
        let is_opened = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            open(&path).map(drop).map_err(|error| error.to_string())
        };
        for mode in [0o600, 0o400, 0o640, 0o440] {
            assert_eq!(is_opened(mode), Ok(()), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o601, 0o660, 0o650, 0o444] {
            let message = is_opened(mode).unwrap_err();
            let expected = format!("Permissions {mode:04o} for '{}' are too open.", path.display());
            assert!(message.starts_with(&expected), "{message}");
        }
        fs::remove_file(&path).unwrap();
        assert!(open(Path::new("/dev/null")).is_err());
        // A directory has no secret in itself.
        assert!(check(Path::new("/"), &fs::metadata("/").unwrap()).is_ok());
    }
}
