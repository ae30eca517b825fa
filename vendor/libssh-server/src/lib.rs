//! SSH's transport, as a server and as another server's client.
//!
//! Of what RFC 4253 describes, libssh does the negotiation and the key exchanges; identification and packets are this
//! crate's own. Everything above is raw: user authentication requests (RFC 4252) and connection messages (RFC 4254) come
//! out of a [`Session`] as bytes, and answers go in as bytes. A session has no poll loop: its owner polls the socket, and
//! calls [`Session::receive`] when it is readable and [`Session::flush`] when it is writable.
//!
//! This is the only crate of berth that calls C.

mod algorithms;
mod error;
mod ffi;
mod hybrid;
mod identification;
mod key;
mod message;
mod negotiation;
mod packet;
mod phase;
mod secret;
mod session;

pub use algorithms::Algorithms;
pub use error::{Error, PacketError};
pub use hybrid::Error as HybridError;
pub use key::{HostKey, HostKeys, KeyError, KeyKind};
pub use session::Session;

/// A parser's name, and its way in, for berth's fuzz targets.
#[doc(hidden)]
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// The parsers of what peers say.
#[doc(hidden)]
pub const FUZZ_TARGETS: &[FuzzTarget] = &[("hybrid", hybrid::fuzz), ("packet", packet::fuzz)];

/// Numbers of the messages that are not RFC 4254's, from RFC 4253 section 12, RFC 4252 section 6, and OpenSSH.
pub mod number {
    #![allow(missing_docs)]
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const KEX_HYBRID_INIT: u8 = 30;
    pub const KEX_HYBRID_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const USERAUTH_BANNER: u8 = 53;
    pub const USERAUTH_PK_OK: u8 = 60;
    pub const USERAUTH_INFO_REQUEST: u8 = 60;
    pub const USERAUTH_INFO_RESPONSE: u8 = 61;
    /// OpenSSH's PROTOCOL, section 1.8.
    pub const PING: u8 = 192;
    /// See [`PING`].
    pub const PONG: u8 = 193;
}
