//! RFC 4254 messages: encode, decode, windows.
//!
//! Both ends of the agent stream use this: the server ([`crate::ssh`]) and the agent ([`crate::agent`]). `PROTOCOL.md`
//! in `docs/` describes the stream.

pub mod forward;
pub mod frame;
pub mod hello;
pub mod message;
pub mod sftp_server;
pub mod start;
pub mod wire;

use crate::fuzzing::Target;

pub(crate) const FUZZ_TARGETS: &[Target] =
    &[("frame", frame::fuzz), ("hello", hello::fuzz), ("message", message::fuzz), ("sftp_server", sftp_server::fuzz)];
