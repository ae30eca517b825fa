//! Whether anybody else could put something in the place of a file: sshd_config(5), StrictModes.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How many symbolic links may be on the way: as many as the kernel follows, path_resolution(7).
const MOST_LINKS: u32 = 40;

/// Write permission of the group and of others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Where only its owner may remove or rename what is in a directory.
const STICKY: u32 = 0o1000;

/// Why a path is not trusted.
#[derive(Debug)]
pub enum Untrusted {
    /// It could not be looked at.
    Io(PathBuf, io::Error),
    /// A part of it belongs to this user.
    Owner(PathBuf, u32),
    /// Others may change what is in a directory of it, which has this mode.
    Writable(PathBuf, u32),
    /// A part of it that is no directory has something below it.
    NotADirectory(PathBuf),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untrusted::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Untrusted::Owner(path, owner) => {
                let path = path.display();
                write!(
                    f,
                    "{path} belongs to another user ({owner}), who could put something else in its place: chown it"
                )
            }
            Untrusted::Writable(path, mode) => {
                let path = path.display();
                write!(f, "{path}: mode {mode:04o} lets others put something else in its place: chmod go-w")
            }
            Untrusted::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
        }
    }
}

impl std::error::Error for Untrusted {}

/// The user that this process runs as.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sees that nobody but root, this process's user, and `also` can put anything else in the place of any part of a path.
/// Unlike sshd, this trusts what is in a directory with a sticky bit, such as /tmp, where it belongs to one of these. Links
/// are looked at as such, and followed. It ends where there is nothing yet. What the last part is open for, others see.
pub fn verify(path: &Path, also: Option<u32>) -> Result<(), Untrusted> {
    walk(path, also, &mut 0)
}

fn walk(path: &Path, also: Option<u32>, links: &mut u32) -> Result<(), Untrusted> {
    let mut place = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        match component {
            Component::ParentDir => drop(place.pop()),
            Component::CurDir => continue,
            other => place.push(other),
        }
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Untrusted::Io(place, error)),
        };
        check(&place, &metadata, also, components.peek().is_some())?;
        if metadata.is_symlink() {
            *links += 1;
            if *links > MOST_LINKS {
                return Err(Untrusted::Io(place, rustix::io::Errno::LOOP.into()));
            }
            let failed = |error| Untrusted::Io(place.clone(), error);
            let target = place.parent().unwrap_or(Path::new("/")).join(fs::read_link(&place).map_err(failed)?);
            walk(&target, also, links)?;
            match fs::canonicalize(&target) {
                Ok(target) => place = target,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(Untrusted::Io(place, error)),
            }
        }
    }
    Ok(())
}

fn check(path: &Path, metadata: &Metadata, also: Option<u32>, has_more: bool) -> Result<(), Untrusted> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if ![0, own_user()].contains(&owner) && also != Some(owner) {
        return Err(Untrusted::Owner(path.to_owned(), owner));
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    if !metadata.is_dir() {
        return if has_more { Err(Untrusted::NotADirectory(path.to_owned())) } else { Ok(()) };
    }
    if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(Untrusted::Writable(path.to_owned(), mode & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};

    use super::*;

    /// A directory of this test's, closed to others, and removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-strict-modes-{test}-{}", std::process::id()));
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            Directory(path)
        }

        fn make(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_others_can_change_is_not_trusted() {
        let directory = Directory::new("writable");
        for mode in [0o777, 0o770, 0o702] {
            let parent = directory.make(&format!("{mode:o}"), mode);
            let error = verify(&parent.join("a/b"), None).unwrap_err();
            assert!(matches!(error, Untrusted::Writable(..)) && error.to_string().contains("chmod go-w"), "{error}");
        }
        for mode in [0o700, 0o755, 0o1777] {
            verify(&directory.make(&format!("{mode:o}"), mode).join("a"), None).unwrap();
        }
        fs::write(directory.0.join("file"), "").unwrap();
        verify(&directory.0.join("file"), None).unwrap();
        assert!(matches!(verify(&directory.0.join("file/a"), None), Err(Untrusted::NotADirectory(_))));
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_set_them() {
        let directory = Directory::new("links");
        directory.make("real", 0o700);
        symlink("real", directory.0.join("link")).unwrap();
        verify(&directory.0.join("link/../link/a"), None).unwrap();
        symlink("loop", directory.0.join("loop")).unwrap();
        assert!(verify(&directory.0.join("loop/a"), None).is_err());
        let open = directory.make("open", 0o777);
        symlink(&directory.0, open.join("link")).unwrap();
        assert!(matches!(verify(&open.join("link/a"), None), Err(Untrusted::Writable(..))));
        symlink(&open, directory.0.join("there")).unwrap();
        assert!(matches!(verify(&directory.0.join("there/a"), None), Err(Untrusted::Writable(..))));
    }

    #[test]
    fn what_is_somebody_elses_is_not_trusted() {
        if own_user() != 0 {
            return;
        }
        const NOBODY: u32 = 65534;
        let directory = Directory::new("owner");
        let made = directory.make("a", 0o700);
        chown(&made, Some(NOBODY), None).unwrap();
        for path in [made.clone(), made.join("b")] {
            assert!(matches!(verify(&path, None), Err(Untrusted::Owner(_, NOBODY))));
            verify(&path, Some(NOBODY)).unwrap();
        }
    }
}
