//! The server's first message to the agent: what the agent has to know before it serves the client.

use super::forward::Listening;
use super::frame::{HELLO, VERSION};
use super::message::GlobalRequest;
use super::wire::{Malformed, Reader, Write};

/// The server's hello, version [`VERSION`]. See PROTOCOL.md, section 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// How to listen for the client.
    pub listening: Listening,
    /// In which order the client's SFTP puts the paths of a symbolic link.
    pub symlinks: SymlinkOrder,
}

/// The order of paths in SSH_FXP_SYMLINK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SymlinkOrder {
    /// First what the link points to, then the link: OpenSSH's (its PROTOCOL, section 4.1), and so almost everybody's.
    #[default]
    OpenSsh,
    /// First the link, then what it points to: draft-ietf-secsh-filexfer-02, section 6.10.
    Draft,
}

/// Why a hello is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is another message.
    None,
    /// It is of this version, which the agent does not speak.
    Version(u32),
    /// It cannot be decoded.
    Malformed,
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Error::Malformed
    }
}

impl Hello {
    /// The whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut specific = Vec::new();
        specific.put_u32(VERSION);
        self.listening.encode(&mut specific);
        specific.put_boolean(self.symlinks == SymlinkOrder::Draft);
        GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode()
    }

    /// Takes apart a message without its number, which was that of a global request.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let request = GlobalRequest::decode(body).ok().filter(|request| request.name == HELLO).ok_or(Error::None)?;
        let mut fields = Reader::new(request.specific);
        let version = fields.u32()?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let listening = Listening::decode(&mut fields)?;
        let symlinks = if fields.boolean()? { SymlinkOrder::Draft } else { SymlinkOrder::OpenSsh };
        fields.end()?;
        Ok(Hello { listening, symlinks })
    }
}

/// A hello is encoded into what is decoded as the same.
pub(crate) fn fuzz(body: &[u8]) {
    if let Ok(hello) = Hello::decode(body) {
        assert_eq!(Hello::decode(&hello.encode()[1..]), Ok(hello));
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Hello, SymlinkOrder};
    use crate::connection::forward::{GatewayPorts, Listening};

    #[test]
    fn a_hello_is_decoded_as_it_was_encoded_and_a_cut_one_is_malformed() {
        let hello = Hello {
            listening: Listening { gateway_ports: GatewayPorts::Yes, unlink: true },
            symlinks: SymlinkOrder::Draft,
        };
        let encoded = hello.encode();
        assert_eq!(Hello::decode(&encoded[1..]), Ok(hello));
        for end in 1..encoded.len() {
            let error = Hello::decode(&encoded[1..end]).unwrap_err();
            assert!(matches!(error, Error::Malformed | Error::None), "cut at {end}: {error:?}");
        }
        let longer = [&encoded[1..], b"x"].concat();
        assert_eq!(Hello::decode(&longer), Err(Error::Malformed));
    }
}
