//! Why an agent ends, and what users are told of a failed system call.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::connection::frame::{BadLength, VERSION};
use crate::connection::wire::Malformed;

/// What ends the agent, and with it the container. All of it is for the container's log.
#[derive(Debug)]
pub enum Error {
    /// The server is not there, or does not accept.
    Connect(PathBuf, io::Error),
    /// Nobody has come to the agent's own socket.
    Listen(PathBuf, io::Error),
    /// The stream broke.
    Stream(io::Error),
    /// A frame that is empty or too long.
    Frame(BadLength),
    /// A message of this number could not be decoded.
    Malformed(u8),
    /// The client broke RFC 4254: what it did.
    Protocol(&'static str),
    /// The server speaks this other version of the stream's protocol.
    Version(u32),
    /// A system call failed that must not: what it was for.
    System(&'static str, io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Connect(path, error) => {
                write!(
                    f,
                    "cannot connect to {}: {error}; is the server running, and its socket mounted?",
                    path.display()
                )
            }
            Error::Listen(path, error) => write!(f, "no stream has come by {}: {error}", path.display()),
            Error::Stream(error) => write!(f, "the stream to the server broke: {error}"),
            Error::Frame(error) => write!(f, "the server sent {error}"),
            Error::Malformed(number) => write!(f, "a malformed message of number {number}"),
            Error::Protocol(what) => write!(f, "the client broke the protocol: {what}"),
            Error::Version(version) => write!(
                f,
                "the server speaks version {version} of the agent protocol, this agent version {VERSION}: \
                 install the agent that came with the server"
            ),
            Error::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Names the message in which something was malformed.
pub fn in_message(number: u8) -> impl Fn(Malformed) -> Error {
    move |Malformed| Error::Malformed(number)
}

/// What is wrong, in the words of glibc, which users of `sshd` know, where musl has others.
pub fn words(errno: Errno) -> String {
    match errno {
        Errno::ADDRNOTAVAIL => "Cannot assign requested address".into(),
        Errno::TIMEDOUT => "Connection timed out".into(),
        Errno::HOSTUNREACH => "No route to host".into(),
        Errno::NETUNREACH => "Network is unreachable".into(),
        Errno::LOOP => "Too many levels of symbolic links".into(),
        Errno::NAMETOOLONG => "File name too long".into(),
        Errno::DQUOT => "Disk quota exceeded".into(),
        _ => {
            let text = io::Error::from(errno).to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}
