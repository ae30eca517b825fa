//! The SSH server: listener, connection threads, authentication, and the bridge to the agent.
//!
//! One thread owns one connection (`connection`): its SSH session, its poll loop, and everything that belongs to
//! it. What blocks for long (a password's hash, the making of a container) runs in a `worker` that wakes the loop
//! when it is done. Connections share nothing but the read-only `Server`.

mod agent;
mod authentication;
mod bridge;
mod channels;
mod connection;
mod early;
mod forwards;
mod guest;
mod habits;
mod hostkey;
mod interactive;
mod listener;
mod monitor;
mod penalties;
mod policy;
mod quota;
mod rotation;
mod server;
mod services;
mod stack;
mod startups;
mod throttle;
mod userauth;
mod worker;

use crate::fuzzing::Target;

pub use hostkey::{KeyFileError, keygen};
pub use libssh_server::{HostKey, KeyKind};
pub use listener::serve;
pub use server::{ServeError, Server, check_host_keys};
pub use services::Services;

pub(crate) const FUZZ_TARGETS: &[Target] =
    &[("authentication", userauth::fuzz), ("policy", policy::fuzz), ("forwards", forwards::fuzz)];

/// Reasons of SSH_MSG_DISCONNECT, RFC 4253 section 11.1.
mod reason {
    pub const PROTOCOL_ERROR: u32 = 2;
    pub const KEY_EXCHANGE_FAILED: u32 = 3;
    pub const SERVICE_NOT_AVAILABLE: u32 = 7;
    pub const CONNECTION_LOST: u32 = 10;
    pub const BY_APPLICATION: u32 = 11;
    pub const TOO_MANY_CONNECTIONS: u32 = 12;
}
