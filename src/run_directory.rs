//! The run directory, in which agents' sockets are: whoever can change it, or what is above it, chooses what a daemon
//! mounts into the next container.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::random;
use crate::strict_modes::{self, Untrusted, own_user};

/// The file with the server's name.
const SERVER: &str = "server";

/// Why a run directory cannot be used.
#[derive(Debug)]
pub enum RunDirectoryError {
    /// It could not be made, or looked at.
    Io(PathBuf, io::Error),
    /// Others could put something else in its place.
    Untrusted(Untrusted),
    /// It is there, and open to others.
    Open(PathBuf, u32),
    /// It is there, and not a directory.
    NotADirectory(PathBuf),
    /// Another process serves from it.
    InUse(PathBuf),
}

impl fmt::Display for RunDirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunDirectoryError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            RunDirectoryError::Untrusted(error) => write!(f, "{error}, or name another directory"),
            RunDirectoryError::Open(path, mode) => {
                write!(f, "{}: mode {mode:04o} is open to others: chmod 700", path.display())
            }
            RunDirectoryError::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
            RunDirectoryError::InUse(path) => write!(
                f,
                "{} is in use: another berth runs as this instance, and each would remove the other's containers; give \
                 one of them another name (instance)",
                path.display()
            ),
        }
    }
}

impl std::error::Error for RunDirectoryError {}

impl From<Untrusted> for RunDirectoryError {
    fn from(error: Untrusted) -> Self {
        RunDirectoryError::Untrusted(error)
    }
}

/// A run directory that this process serves from. Until it is dropped, no other process does.
#[derive(Debug)]
pub struct RunDirectory {
    _lock: File,
}

impl RunDirectory {
    /// Makes the directory where it is missing, and takes it for this process.
    pub fn take(path: &Path) -> Result<RunDirectory, RunDirectoryError> {
        prepare(path)?;
        let failed = |error| RunDirectoryError::Io(path.to_owned(), error);
        // The directory itself is what is locked: so nothing is left of it.
        let lock = File::open(path).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(RunDirectory { _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RunDirectoryError::InUse(path.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Makes the directory where it is missing, closed to others, and refuses one that anybody else could change, look into,
/// or put something else in the place of. `path` is absolute.
pub fn prepare(path: &Path) -> Result<(), RunDirectoryError> {
    // Before it is made, too: nothing is made where others choose the place.
    verify(path)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| RunDirectoryError::Io(path.to_owned(), error))?;
    verify(path)
}

/// The name of the server that serves from the directory: of its own making, and the same after a restart.
pub(crate) fn server_name(path: &Path) -> io::Result<String> {
    let file = path.join(SERVER);
    match fs::read_to_string(&file) {
        Ok(name) if name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(name),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    prepare(path).map_err(io::Error::other)?;
    let name = random::name()?;
    fs::write(&file, &name)?;
    Ok(name)
}

/// Looks at as much of it as there is.
pub fn verify(path: &Path) -> Result<(), RunDirectoryError> {
    strict_modes::verify(path, None)?;
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(RunDirectoryError::NotADirectory(path.to_owned())),
        Ok(metadata) if metadata.uid() != own_user() => Err(Untrusted::Owner(path.to_owned(), metadata.uid()).into()),
        // Not repaired with a chmod: a shared directory, named by mistake, must stay as it is.
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            Err(RunDirectoryError::Open(path.to_owned(), metadata.mode() & 0o7777))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunDirectoryError::Io(path.to_owned(), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    /// A directory of this test's, removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-run-directory-{test}-{}", std::process::id()));
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_is_made_closed_and_taken_once() {
        let directory = Directory::new("taken");
        let path = directory.0.join("a/b");
        let taken = RunDirectory::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let error = RunDirectory::take(&path).unwrap_err();
        assert!(matches!(error, RunDirectoryError::InUse(_)) && error.to_string().contains("(instance)"), "{error}");
        drop(taken);
        RunDirectory::take(&path).unwrap();
    }

    #[test]
    fn one_that_is_open_to_others_is_refused_and_left_as_it_is() {
        let directory = Directory::new("open");
        fs::set_permissions(&directory.0, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(prepare(&directory.0), Err(RunDirectoryError::Open(_, 0o755))));
        assert_eq!(fs::metadata(&directory.0).unwrap().mode() & 0o777, 0o755);
        fs::set_permissions(&directory.0, Permissions::from_mode(0o777)).unwrap();
        let below = directory.0.join("run");
        assert!(matches!(prepare(&below), Err(RunDirectoryError::Untrusted(_))) && !below.exists());
    }

    #[test]
    fn one_that_somebody_else_has_made_is_refused() {
        if own_user() != 0 {
            return;
        }
        let directory = Directory::new("owner");
        chown(&directory.0, Some(65534), None).unwrap();
        for path in [directory.0.clone(), directory.0.join("run")] {
            assert!(matches!(prepare(&path), Err(RunDirectoryError::Untrusted(Untrusted::Owner(_, 65534)))));
        }
        chown(&directory.0, Some(0), None).unwrap();
    }
}
