//! Where containers come from.
//!
//! A backend has one job: start a container whose init is `berth agent`, hand back the agent's byte stream, and remove
//! the container afterwards. Everything that a user sees is the agent's doing.

mod choice;
pub mod docker;
mod in_use;
pub mod kubernetes;
mod mark;
mod native;
mod removal;
mod selection;
pub(crate) mod sshproxy;
mod stderr;
mod told;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::metadata::Metadata;

pub use choice::Backends;
pub(crate) use docker::FUZZ_TARGETS;
pub use in_use::{InUse, Names};

/// The byte stream to an agent, non-blocking. Its beginning may have been read ahead: read once before polling
/// [`AsFd`]. From then on, a read with room for 16 kB leaves nothing behind of which poll does not tell; with less room,
/// go on until [`std::io::ErrorKind::WouldBlock`].
pub trait Stream: Read + Write + AsFd + Send {}

impl<T: Read + Write + AsFd + Send> Stream for T {}

/// Whom a container is for. Connection, user and client become labels on whatever is created.
#[derive(Clone, Debug)]
pub struct Request {
    /// The connection's id, unique over all berth processes: 32 lower-case hexadecimal digits.
    pub connection: String,
    /// How many containers the connection had before this one.
    pub number: u32,
    /// The user name that was authenticated: as the client sent it, so hostile.
    pub user: String,
    /// The client's address.
    pub client: SocketAddr,
    /// The container or pod that the user has chosen, as in `ssh alice+web@host`: as the client sent it, so hostile.
    pub container: Option<String>,
    /// What else is known of the user, and meant for the container.
    pub metadata: Arc<Metadata>,
}

/// The user who waits while a container is being made.
pub trait Waiter {
    /// One line of progress for the user's eyes, without line end ("Pulling alpine:3: 12 MB of 40 MB"): it takes long.
    fn progress(&self, line: &str);
    /// One line for people at a terminal: it may take long. What a command without one says on its standard error is often
    /// a program's to judge.
    fn announce(&self, line: &str);
    /// Whether the user has gone: the backend stops at the next step, and leaves nothing behind.
    fn is_gone(&self) -> bool;
}

/// A running container and the stream of its agent.
pub struct Container {
    /// Dropped before the stream is: an agent ends its container with its stream, and this may have to wait for its turn.
    pub lease: Box<dyn Lease>,
    /// The agent's stream, connected. No byte has been read from it.
    pub stream: Box<dyn Stream>,
}

/// Owns a container. Removes it when it is dropped, unless it is to stay, which takes a round trip to the daemon.
pub trait Lease: Send {
    /// The container ends, and not because its client has gone: whoever knows the reason when this is dropped tells it to
    /// the log.
    fn ended(&mut self) {}
}

impl Lease for () {}

impl Request {
    /// A name that no other container's request has: the connection's id, and for a further container its number.
    pub fn id(&self) -> String {
        match self.number {
            0 => self.connection.clone(),
            number => format!("{}-{number}", self.connection),
        }
    }
}

/// What has a container of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// An SSH connection.
    #[default]
    Connection,
    /// A session channel.
    Session,
}

/// Docker, Kubernetes, or another SSH server.
pub trait Backend: Send + Sync {
    /// What has a container of its own.
    fn scope(&self) -> Scope;

    /// Whether users may choose their container or pod.
    fn offers_choice(&self) -> bool;

    /// The commands of subsystems, by their names. [`INTERNAL`] is the agent's own. Without a table they are
    /// asked for by their names.
    ///
    /// [`INTERNAL`]: crate::connection::sftp_server::INTERNAL
    fn subsystems(&self) -> Option<BTreeMap<String, String>>;

    /// What each program is to have of a user's metadata, since its container was made without: names and values. These
    /// are the only ones that a backend does not see to by itself.
    fn variables(&self, metadata: &Metadata) -> Vec<(String, String)>;

    /// Makes a container and connects to its agent. Blocks, with deadlines, for as long as that takes; called in a
    /// worker thread. On any error nothing that was created stays once that is dropped.
    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error>;

    /// Removes what an earlier, killed process of this instance left; returns how many containers that were.
    fn reap(&self) -> Result<usize, Error>;
}

/// Why there is no container.
pub struct Error {
    /// One short line for the SSH user: names the thing, reveals nothing internal.
    pub user: String,
    /// The whole story, for the log: what failed, and the way out.
    pub log: String,
    /// What there may be of the container all the same. Its removal takes its time, before which the user is to be told.
    pub rest: Option<Box<dyn Lease>>,
}

impl Error {
    /// Of which nothing is left.
    pub fn new(user: impl Into<String>, log: impl Into<String>) -> Self {
        Error { user: user.into(), log: log.into(), rest: None }
    }
}

impl Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Error").field("user", &self.user).field("log", &self.log).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.log)
    }
}

impl std::error::Error for Error {}
