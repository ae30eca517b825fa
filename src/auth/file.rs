//! Files of authorized keys.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::key::{AuthorizedKey, AuthorizedPrincipal, KeyLineError};
use super::public_key::KeyError;
use super::token;

use super::command::ids_of;
use crate::strict_modes::{self, Untrusted};
use crate::{bounded, private_file};

/// The longest file that is read, in bytes.
pub(super) const LONGEST: u64 = 1024 * 1024;

/// The device `/dev/null`: null(4), major number 1, minor number 3.
const NULL_DEVICE: u64 = 0x103;

/// Write permission of the group and of others.
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum FileError {
    Io(io::Error),
    /// The user's name cannot be part of a path.
    Name,
    NotAFile,
    Writable(u32),
    Untrusted(Untrusted),
    TooLong(u64),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Io(error) => error.fmt(f),
            FileError::Name => f.write_str("the user's name cannot stand for %u"),
            FileError::NotAFile => f.write_str("not a regular file"),
            FileError::Writable(mode) => write!(f, "mode {mode:04o} lets others write to it: chmod go-w"),
            FileError::Untrusted(error) => error.fmt(f),
            FileError::TooLong(longest) => write!(f, "longer than {longest} bytes"),
        }
    }
}

/// Who may be able to replace a file: sshd_config(5), StrictModes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StrictModes {
    /// Nobody but root, berth's own user, and the file's user where it is that one's own.
    #[default]
    Yes,
    /// Whoever may: as in a volume that Kubernetes makes of a ConfigMap, a directory that all may write to.
    No,
}

/// Gives each key of a user's file to `check`, in order, until it gives something. What cannot be read is logged, and
/// passed over.
pub(super) fn keys<T>(
    path: &Path,
    user: &str,
    strict_modes: StrictModes,
    check: impl FnMut(AuthorizedKey) -> Option<T>,
) -> Option<T> {
    find_map(path, user, strict_modes, AuthorizedKey::parse, check)
}

/// The same with a file of authorized principals.
pub(super) fn principals<T>(
    path: &Path,
    user: &str,
    strict_modes: StrictModes,
    check: impl FnMut(AuthorizedPrincipal) -> Option<T>,
) -> Option<T> {
    find_map(path, user, strict_modes, AuthorizedPrincipal::parse, check)
}

type Parse<L> = fn(&str) -> Result<L, KeyLineError>;

fn find_map<L, T>(
    path: &Path,
    user: &str,
    strict_modes: StrictModes,
    parse: Parse<L>,
    check: impl FnMut(L) -> Option<T>,
) -> Option<T> {
    let expanded = expand(path, user);
    let path = expanded.as_deref().unwrap_or(path).to_owned();
    let result = expanded.and_then(|path| match strict_modes {
        StrictModes::Yes => read_as(&path, LONGEST, user),
        StrictModes::No => read_unless_writable(&path, LONGEST),
    });
    match result {
        Ok(text) => lines(&text, &path, parse).find_map(check),
        // Not every user needs one.
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warn!("authorized keys of {user:?}: {}: {error}", path.display());
            None
        }
    }
}

/// Reads a user's file with a secret. Where others can read it, too, the log says so.
pub(super) fn of_user(path: &Path, user: &str) -> Result<Vec<u8>, FileError> {
    let path = expand(path, user)?;
    let bytes = read_as(&path, LONGEST, user)?;
    if let Ok(Err(error)) = fs::metadata(&path).map(|metadata| private_file::check(&path, &metadata)) {
        log::warn!("{error}");
    }
    Ok(bytes)
}

/// Puts the user's name in place of `%u`.
fn expand(path: &Path, user: &str) -> Result<PathBuf, FileError> {
    let Some(text) = path.to_str().filter(|text| text.contains('%')) else { return Ok(path.to_owned()) };
    let value = |letter| (letter == 'u' && is_plain(user)).then(|| user.to_owned());
    // The configuration has been looked at for other tokens.
    token::expand(text, value).map(PathBuf::from).map_err(|_| FileError::Name)
}

/// Whether a user's name can be that of a file, and of one that is not hidden.
pub(super) fn is_plain(user: &str) -> bool {
    !user.is_empty() && !user.starts_with('.') && !user.contains(['/', '\0'])
}

/// Reads a file of `longest` bytes at most that nobody can change or replace but root and berth's own user. `/dev/null` is an
/// empty one.
pub(super) fn read(path: &Path, longest: u64) -> Result<Vec<u8>, FileError> {
    strict_modes::verify(path, None).map_err(FileError::Untrusted)?;
    read_unless_writable(path, longest)
}

/// The same for a file that may belong to its user, too, where that is one of the host's.
fn read_as(path: &Path, longest: u64, user: &str) -> Result<Vec<u8>, FileError> {
    match strict_modes::verify(path, None) {
        Err(Untrusted::Owner(_, owner)) if ids_of(user).is_ok_and(|(uid, _)| uid == owner) => {
            strict_modes::verify(path, Some(owner)).map_err(FileError::Untrusted)?;
        }
        result => result.map_err(FileError::Untrusted)?,
    }
    read_unless_writable(path, longest)
}

/// The same for a file that somebody else may be able to replace.
pub(super) fn read_unless_writable(path: &Path, longest: u64) -> Result<Vec<u8>, FileError> {
    // Not to wait for a pipe's other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(FileError::Io)?;
    let metadata = file.metadata().map_err(FileError::Io)?;
    if metadata.file_type().is_char_device() && metadata.rdev() == NULL_DEVICE {
        return Ok(Vec::new());
    }
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::Writable(metadata.mode() & 0o7777));
    }
    bounded::read_from(file, longest).map_err(FileError::Io)?.ok_or(FileError::TooLong(longest))
}

/// What is in a file's lines. Like sshd, this passes over lines that it cannot use.
pub(super) fn lines<'a, L: 'a>(text: &'a [u8], path: &'a Path, parse: Parse<L>) -> impl Iterator<Item = L> + 'a {
    text.split(|&byte| byte == b'\n').enumerate().filter_map(move |(index, line)| {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return None;
        }
        match parse(&String::from_utf8_lossy(line)) {
            Ok(line) => return Some(line),
            // The file may serve an sshd as well, which knows more types.
            Err(error @ KeyLineError::Key(KeyError::Type(_))) => {
                log::debug!("{}:{}: {error}", path.display(), index + 1)
            }
            Err(error) => log::warn!("{}:{}: {error}", path.display(), index + 1),
        }
        None
    })
}

/// A file of authorized keys, and who may come in by it.
pub(crate) fn fuzz(text: &[u8]) {
    for key in lines(text, Path::new("fuzz"), AuthorizedKey::parse) {
        for client in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let _ = key.parts().1.admit(client, 1_000_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::super::key::tests::{LINES, line, offer};
    use super::{LONGEST, StrictModes, expand, keys, read};

    /// A directory with a file `alice` in it, both removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str, text: impl AsRef<[u8]>) -> Self {
            let path = std::env::temp_dir().join(format!("berth-auth-file-{test}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("alice"), text).unwrap();
            fs::set_permissions(path.join("alice"), Permissions::from_mode(0o644)).unwrap();
            Directory(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// How many of the file's lines are keys.
        fn count(&self, user: &str) -> usize {
            let mut count = 0;
            keys(&self.path("%u"), user, StrictModes::Yes, |_| -> Option<()> {
                count += 1;
                None
            });
            count
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_usable_lines_of_the_users_file_are_read() {
        let text = [b"# comment\r\n\r\n  \n\xff\xfe not UTF-8\nno-ptty ", LINES.as_bytes(), b"# no line end"].concat();
        let directory = Directory::new("lines", text);
        // The Ed25519 key has an unknown option, two others are of no use.
        assert_eq!(directory.count("alice"), 7);
        assert_eq!(directory.count("bob"), 0);
        let directory = Directory::new("crlf", format!("{}\r\n", line()));
        let found =
            keys(&directory.path("%u"), "alice", StrictModes::Yes, |key| key.is_for(&offer(line())).then_some(()));
        assert_eq!(found, Some(()));
    }

    #[test]
    fn a_file_that_others_can_write_to_is_not_read() {
        let directory = Directory::new("modes", line());
        for (mode, count) in [(0o600, 1), (0o444, 1), (0o664, 0), (0o646, 0)] {
            fs::set_permissions(directory.path("alice"), Permissions::from_mode(mode)).unwrap();
            assert_eq!(directory.count("alice"), count, "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_others_could_replace_is_not_read() {
        let directory = Directory::new("above", line());
        for (mode, count) in [(0o755, 1), (0o777, 0), (0o775, 0), (0o1777, 1)] {
            fs::set_permissions(&directory.0, Permissions::from_mode(mode)).unwrap();
            assert_eq!(directory.count("alice"), count, "{mode:o}");
            let found = keys(&directory.path("%u"), "alice", StrictModes::No, |_| Some(()));
            assert_eq!(found, Some(()), "{mode:o}, not looked at");
        }
        // Where root runs it: another user's file, and the user's own.
        const NOBODY: u32 = 65534;
        if std::os::unix::fs::chown(directory.path("alice"), Some(NOBODY), None).is_ok() {
            assert_eq!(directory.count("alice"), 0);
            fs::rename(directory.path("alice"), directory.path("nobody")).unwrap();
            assert_eq!(directory.count("nobody"), 1);
        }
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_read() {
        let directory = Directory::new("long", vec![b'\n'; LONGEST as usize]);
        assert!(read(&directory.path("alice"), LONGEST).is_ok());
        fs::write(directory.path("alice"), vec![b'\n'; LONGEST as usize + 1]).unwrap();
        assert_eq!(read(&directory.path("alice"), LONGEST).unwrap_err().to_string(), "longer than 1048576 bytes");
        assert_eq!(read(&directory.0, LONGEST).unwrap_err().to_string(), "not a regular file");
        let pipe = directory.path("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read(&pipe, LONGEST).unwrap_err().to_string(), "not a regular file");
        assert!(read(Path::new("/dev/null"), LONGEST).unwrap().is_empty());
        assert_eq!(read(Path::new("/dev/zero"), LONGEST).unwrap_err().to_string(), "not a regular file");
    }

    #[test]
    fn only_a_name_stands_for_the_users_name() {
        assert_eq!(expand(Path::new("/keys/%u/%u.pub"), "al.ice").unwrap(), Path::new("/keys/al.ice/al.ice.pub"));
        assert_eq!(expand(Path::new("/%%u/%u"), "%u").unwrap(), Path::new("/%u/%u"));
        for user in ["", ".", "..", ".ssh", "a/b", "/", "a\0b"] {
            assert!(expand(Path::new("/keys/%u"), user).is_err(), "{user:?}");
            assert_eq!(expand(Path::new("/keys/all"), user).unwrap(), Path::new("/keys/all"));
        }
    }
}
