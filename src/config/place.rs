//! Where a berth runs: what the configuration takes from its surroundings, and where its own files are.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::docker_connection::DockerEnvironment;
use super::kubernetes::KubernetesEnvironment;

/// The longest path of a unix socket, in bytes: unix(7).
const LONGEST_SOCKET: usize = 107;

/// A socket's path in the run directory: a connection's directory, and the socket.
const SOCKET: &str = "/0123456789abcdef0123456789abcdef/agent.sock";

/// The longest name of an instance.
const LONGEST_INSTANCE: usize = 128;

/// The longest name of an instance's directory that is not shortened.
const LONGEST_DIRECTORY: usize = 32;

/// What a configuration takes from outside of its text.
#[derive(Clone, Debug)]
pub struct Place {
    /// The configuration file, as messages name it.
    pub file: PathBuf,
    /// What relative paths are relative to.
    pub directory: PathBuf,
    /// The host's name.
    pub host_name: String,
    /// Where run directories are, unless the configuration says something else.
    pub run_directory: PathBuf,
    /// What Docker's client would take from the environment.
    pub docker: DockerEnvironment,
    /// What kubectl would take from its environment.
    pub kubernetes: KubernetesEnvironment,
}

impl Place {
    /// This process's surroundings, for a configuration in `file`.
    pub fn of(file: &Path) -> io::Result<Place> {
        let absolute = std::path::absolute(file)?;
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let uid = rustix::process::geteuid();
        let directory = |name| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let run_directory = match directory("XDG_RUNTIME_DIR") {
            _ if uid.is_root() => "/run/berth".into(),
            Some(directory) => directory.join("berth"),
            // That of a systemd unit with User= and RuntimeDirectory=. Without it, one that whoever comes first can keep
            // berth from using, and no more: see `run_directory`.
            None => match env::var("RUNTIME_DIRECTORY").ok().as_deref().and_then(|list| list.split(':').next()) {
                Some(directory) if directory.starts_with('/') => directory.into(),
                _ => format!("/tmp/berth-{}", uid.as_raw()).into(),
            },
        };
        Ok(Place {
            file: file.to_owned(),
            directory: absolute.parent().unwrap_or(Path::new("/")).to_owned(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            run_directory,
            docker: DockerEnvironment::of_process(),
            kubernetes: KubernetesEnvironment::of_process(),
        })
    }

    /// The instance's name where none is given: two that run on one host have different addresses.
    pub(super) fn instance(&self, listen: &[SocketAddr]) -> String {
        let host: String = self.host_name.chars().filter(char::is_ascii_graphic).collect();
        match listen.first() {
            Some(address) => format!("{host}-{address}"),
            None => host,
        }
    }
}

/// A name that can be the value of a label and be filtered by.
pub(super) fn parse_instance(text: &str) -> Result<String, String> {
    if (1..=LONGEST_INSTANCE).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("must be a name of 1 to {LONGEST_INSTANCE} ASCII characters without spaces"))
}

/// The instance's own directory in `parent`. Its name is short, since a socket's path has to be.
pub(super) fn run_directory(parent: &Path, instance: &str) -> Result<PathBuf, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let fits = instance.len() <= LONGEST_DIRECTORY && instance.chars().all(safe) && !instance.starts_with('.');
    let name = if fits {
        instance.to_owned()
    } else {
        // A hash of all of it keeps apart what is the same in the rest.
        let hash = format!("{:08x}", fnv1a(instance.as_bytes()));
        let rest = instance.chars().filter(|c| safe(*c) && *c != '.').take(LONGEST_DIRECTORY - hash.len() - 1);
        rest.chain("-".chars()).chain(hash.chars()).collect()
    };
    let directory = parent.join(name);
    let longest = LONGEST_SOCKET - SOCKET.len();
    match directory.as_os_str().as_bytes().len() {
        length if length > longest => Err(format!(
            "too long: with the instance in it {} has {length} bytes and may have {longest}, for the sockets in it",
            directory.display()
        )),
        _ => Ok(directory),
    }
}

/// The hash function FNV-1a: the same in every version of berth, so that it finds what an earlier one left.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
