//! Why a session ended.

use std::collections::TryReserveError;
use std::fmt;
use std::io;

use crate::hybrid;
pub use crate::packet::PacketError;

/// Why a session ended.
#[derive(Debug)]
pub enum Error {
    /// The other side closed the connection, without SSH_MSG_DISCONNECT.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// The other side's identification is not one of SSH 2.0: what OpenSSH's server says then, which the other side is told.
    Identification(&'static str),
    /// A packet is not what it has to be.
    Packet(PacketError),
    /// The hybrid key exchange failed.
    Hybrid(hybrid::Error),
    /// The other side broke the protocol, offered no algorithm in common, or disconnected with a reason: in words.
    Protocol(String),
    /// No memory for a session.
    Memory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the client closed the connection"),
            Error::Io(error) => write!(f, "the connection failed: {error}"),
            Error::Identification(reason) => f.write_str(reason),
            Error::Packet(error) => error.fmt(f),
            Error::Hybrid(error) => error.fmt(f),
            // In quotes: the words may be the peer's.
            Error::Protocol(reason) => write!(f, "{reason:?}"),
            Error::Memory => f.write_str("out of memory"),
        }
    }
}

impl std::error::Error for Error {}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Error::Memory
    }
}

impl From<PacketError> for Error {
    fn from(error: PacketError) -> Self {
        Error::Packet(error)
    }
}

impl From<hybrid::Error> for Error {
    fn from(error: hybrid::Error) -> Self {
        Error::Hybrid(error)
    }
}
