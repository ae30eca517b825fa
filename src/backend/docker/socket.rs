//! The unix socket on which an agent reports, in a directory of its own that is mounted into its container.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::Error;
use crate::run_directory;

/// The socket's name in its directory.
const NAME: &str = "agent.sock";

/// A listening socket. Dropping it removes it and its directory.
///
/// Invariant: the directory's parent is closed to all but berth's own user, so only the container that the directory is
/// mounted into reaches the socket. In it, any uid must: the directory may be searched and the socket written by all.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    directory: PathBuf,
}

impl Socket {
    /// Makes `parent` if need be, `parent/name`, and listens in it. A `parent` that is open to others, or that others could
    /// put something else in the place of, is refused.
    pub(super) fn listen(parent: &Path, name: &str) -> Result<Socket, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Socket { path, source }
        };
        run_directory::prepare(parent).map_err(|error| failed(parent)(io::Error::other(error)))?;
        let directory = parent.join(name);
        fs::create_dir(&directory).map_err(failed(&directory))?;
        let path = directory.join(NAME);
        let listen = || {
            // Set afterwards, since a umask would take bits away.
            fs::set_permissions(&directory, Permissions::from_mode(0o711))?;
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Socket { listener, directory }),
            Err(source) => {
                remove(&directory);
                Err(Error::Socket { path, source })
            }
        }
    }

    /// The directory, for the mount.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The agent's connection if it has connected.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes the directories in `parent` that an earlier process left: those that are named like a request and do not
/// belong to a connection for which `is_live`.
pub(super) fn reap(parent: &Path, is_live: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(connection) = name.to_str().and_then(|name| name.split('-').next())
            && connection.len() == 32
            && connection.bytes().all(|b| b.is_ascii_hexdigit())
            && !is_live(connection)
        {
            remove(&entry.path());
        }
    }
}

/// Removes a socket directory, and nothing that berth has not put there.
fn remove(directory: &Path) {
    let socket = match fs::remove_file(directory.join(NAME)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    if let Err(e) = socket.and_then(|()| fs::remove_dir(directory)) {
        log::warn!("docker: cannot remove the socket directory {}: {e}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("berth-socket-{test}-{}", std::process::id()))
    }

    #[test]
    fn any_uid_may_connect_but_only_through_a_closed_parent() {
        let parent = parent("modes");
        let socket = Socket::listen(&parent, "a").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&parent), 0o700);
        assert_eq!(mode(socket.directory()), 0o711);
        assert_eq!(mode(&socket.directory().join(NAME)), 0o666);
        drop(socket);
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn a_parent_that_is_open_to_others_is_refused_and_left_as_it_is() {
        let parent = parent("open");
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(0o755)).unwrap();
        let error = Socket::listen(&parent, "a").unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        // Gone at once: nothing was made in it.
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn dropping_a_socket_removes_its_directory() {
        let parent = parent("drop");
        let socket = Socket::listen(&parent, "a").unwrap();
        let directory = socket.directory().to_owned();
        assert!(directory.join(NAME).exists());
        drop(socket);
        assert!(!directory.exists());
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn reaping_takes_dead_connections_only() {
        let parent = parent("reap");
        let (dead, live) = ("0".repeat(32), "1".repeat(32));
        for name in [&dead, &live, "other"] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        reap(&parent, |name| name == live);
        assert!(!parent.join(&dead).exists() && parent.join(&live).exists() && parent.join("other").exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}
