//! Paths made absolute, as REALPATH and `expand-path@openssh.com` answer them.

use super::reply::Status;
use crate::agent::passwd;
use rustix::fs::{FileType, lstat, readlink};
use rustix::io::Errno;
use std::os::unix::ffi::OsStringExt;

/// The kernel's `PATH_MAX`, in bytes, the final NUL included.
const PATH_MAX: usize = 4096;

/// How many symbolic links one path may go through.
const SYMLINK_MAX: usize = 32;

/// The directory that relative paths start in.
fn current_directory() -> Result<Vec<u8>, Errno> {
    let path = std::env::current_dir().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
    Ok(path.into_os_string().into_vec())
}

/// Resolves every `.`, `..` and symbolic link. The last component need not exist, so that a client can ask about a
/// file that it is about to create; with a slash after it, it must.
pub(super) fn real(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let (mut resolved, mut left) = match path.strip_prefix(b"/") {
        Some(rest) => (b"/".to_vec(), rest.to_vec()),
        None => (current_directory()?, path.to_vec()),
    };
    if left.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut done = 0;
    let mut symlinks = 0;
    while let Some(rest) = left.get(done..).filter(|rest| !rest.is_empty()) {
        let slash = rest.iter().position(|byte| *byte == b'/');
        let component = &rest[..slash.unwrap_or(rest.len())];
        done += component.len() + usize::from(slash.is_some());
        match component {
            b"" | b"." => continue,
            b".." => {
                drop_last(&mut resolved);
                continue;
            }
            _ => {}
        }
        let parent = resolved.len();
        if !resolved.ends_with(b"/") {
            resolved.push(b'/');
        }
        resolved.extend_from_slice(component);
        if resolved.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let stat = match lstat(&*resolved) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if slash.is_none() => return Ok(resolved),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            continue;
        }
        symlinks += 1;
        if symlinks > SYMLINK_MAX + 1 {
            return Err(Errno::LOOP);
        }
        let mut next = readlink(&*resolved, Vec::new())?.into_bytes();
        if next.starts_with(b"/") {
            resolved.truncate(1);
        } else {
            resolved.truncate(parent);
        }
        if slash.is_some() {
            next.push(b'/');
            next.extend_from_slice(&left[done..]);
        }
        if next.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        left = next;
        done = 0;
    }
    Ok(resolved)
}

/// Goes up one directory; the root is its own parent.
fn drop_last(path: &mut Vec<u8>) {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.truncate(slash.max(1));
}

/// Expands `~` and `~user` as a shell does, and resolves the rest. The session starts at home, so `~` is where
/// relative paths start: OpenSSH's rule, and it holds without an account too.
pub(super) fn expand(path: &[u8]) -> Result<Vec<u8>, Status> {
    let Some(tilde) = path.strip_prefix(b"~") else { return Ok(real(path)?) };
    let end = tilde.iter().position(|byte| *byte == b'/').unwrap_or(tilde.len());
    let (user, rest) = tilde.split_at(end);
    let mut expanded = match user {
        b"" => current_directory()?,
        user => passwd::by_name(user).ok_or(Status::NoSuchUser)?.home.into_vec(),
    };
    expanded.extend_from_slice(rest);
    Ok(real(&expanded)?)
}

#[cfg(test)]
mod tests {
    use super::{Status, current_directory, expand, real};
    use rustix::io::Errno;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    /// A directory that goes away with the value.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-sftp-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path.canonicalize().unwrap())
        }

        fn path(&self, rest: &str) -> Vec<u8> {
            [self.0.as_os_str().as_bytes(), rest.as_bytes()].concat()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn dots_and_slashes_are_resolved() {
        assert_eq!(real(b"/"), Ok(b"/".to_vec()));
        assert_eq!(real(b"//../.././"), Ok(b"/".to_vec()));
        assert_eq!(real(b"/proc/../proc//sys/./"), Ok(b"/proc/sys".to_vec()));
        assert_eq!(real(b""), current_directory());
        assert_eq!(real(b"."), current_directory());
    }

    #[test]
    fn only_the_last_component_may_be_missing() {
        let scratch = Scratch::new("missing");
        assert_eq!(real(&scratch.path("/new")), Ok(scratch.path("/new")));
        assert_eq!(real(&scratch.path("/new/")), Err(Errno::NOENT));
        assert_eq!(real(&scratch.path("/new/x")), Err(Errno::NOENT));
    }

    #[test]
    fn symbolic_links_are_followed() {
        let scratch = Scratch::new("links");
        std::fs::create_dir(scratch.0.join("d")).unwrap();
        symlink("d", scratch.0.join("relative")).unwrap();
        symlink("/proc", scratch.0.join("absolute")).unwrap();
        symlink("loop", scratch.0.join("loop")).unwrap();
        assert_eq!(real(&scratch.path("/relative")), Ok(scratch.path("/d")));
        assert_eq!(real(&scratch.path("/relative/../relative/x")), Ok(scratch.path("/d/x")));
        assert_eq!(real(&scratch.path("/absolute/sys")), Ok(b"/proc/sys".to_vec()));
        assert_eq!(real(&scratch.path("/loop")), Err(Errno::LOOP));
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_refused() {
        assert_eq!(real(&[b'/'; 4097]), Err(Errno::NAMETOOLONG));
        assert_eq!(real(&[b'/'; 4096]), Ok(b"/".to_vec()));
        assert_eq!(real(&b"/../x".repeat(1000)), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let home = current_directory().unwrap();
        assert_eq!(expand(b"~"), Ok(home.clone()));
        assert_eq!(expand(b"~/new-file"), Ok([&home[..], b"/new-file"].concat()));
        assert_eq!(expand(b"~root/new-file"), Ok(b"/root/new-file".to_vec()));
        assert_eq!(expand(b"~no-such-user/x"), Err(Status::NoSuchUser));
    }
}
