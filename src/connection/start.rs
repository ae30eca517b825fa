//! The requests that start a session's program, as the server sends them to the agent: what a client has asked for, or
//! what policy makes of it, with the variables that the server sets for this program.
//!
//! These travel in the same message, so that nothing which a client does can come between: see PROTOCOL.md, section 7.

use super::message::ChannelRequest;
use super::wire::{Malformed, Reader, Write};

/// The longest variable that Linux gives a program, in bytes: `NAME=VALUE` and a NUL.
const LONGEST: usize = 128 * 1024;

/// What is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// `shell`: a login shell.
    Shell,
    /// `exec`: this command.
    Exec(&'a [u8]),
    /// `subsystem`: the command that stands for it.
    Subsystem(&'a [u8]),
}

/// A request that starts a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// What is to be started.
    pub what: What<'a>,
    /// The variables that the server sets: names and values, later ones winning.
    pub variables: Vec<(&'a [u8], &'a [u8])>,
}

/// Whether a channel request of this name starts something.
pub fn starts(name: &[u8]) -> bool {
    matches!(name, b"shell" | b"exec" | b"subsystem")
}

/// Whether a program can have such a variable.
pub fn can_be_set(name: &[u8], value: &[u8]) -> bool {
    let is_name = !name.is_empty() && !name.contains(&b'=') && !name.contains(&0);
    is_name && !value.contains(&0) && name.len().saturating_add(value.len()) <= LONGEST - 2
}

impl What<'_> {
    /// The name of RFC 4254's request for it, and the fields that follow there.
    pub fn request(self) -> (&'static [u8], Vec<u8>) {
        let mut specific = Vec::new();
        let name: &[u8] = match self {
            What::Shell => b"shell",
            What::Exec(command) => {
                specific.put_string(command);
                b"exec"
            }
            What::Subsystem(command) => {
                specific.put_string(command);
                b"subsystem"
            }
        };
        (name, specific)
    }
}

impl<'a> Start<'a> {
    /// Takes apart a request for which [`starts`] holds; any other is malformed.
    ///
    /// # Errors
    /// It is cut short, or goes on behind its end.
    pub fn decode(request: &ChannelRequest<'a>) -> Result<Self, Malformed> {
        let mut fields = Reader::new(request.specific);
        let what = match request.name {
            b"shell" => What::Shell,
            b"exec" => What::Exec(fields.string()?),
            b"subsystem" => What::Subsystem(fields.string()?),
            _ => return Err(Malformed),
        };
        let mut variables = Vec::new();
        for _ in 0..fields.u32()? {
            variables.push((fields.string()?, fields.string()?));
        }
        fields.end()?;
        Ok(Start { what, variables })
    }

    /// The whole message, for this channel.
    pub fn encode(&self, recipient: u32, want_reply: bool) -> Vec<u8> {
        let (name, mut specific) = self.what.request();
        specific.put_u32(self.variables.len() as u32);
        for (name, value) in &self.variables {
            specific.put_string(name);
            specific.put_string(value);
        }
        ChannelRequest { recipient, name, want_reply, specific: &specific }.encode()
    }
}

/// Whatever can be decoded is encoded into what is decoded as the same.
pub(super) fn fuzz(request: &ChannelRequest<'_>) {
    if let Ok(start) = Start::decode(request) {
        let encoded = start.encode(request.recipient, request.want_reply);
        let request = ChannelRequest::decode(&encoded[1..]);
        assert_eq!(request.and_then(|request| Start::decode(&request)), Ok(start));
    }
}

#[cfg(test)]
mod tests {
    use super::{Start, What, can_be_set};
    use crate::connection::message::ChannelRequest;
    use crate::connection::wire::Malformed;

    #[test]
    fn a_start_is_decoded_as_it_was_encoded_and_a_cut_or_longer_one_is_malformed() {
        for what in [What::Shell, What::Exec(b"id"), What::Subsystem(b"internal-sftp")] {
            let start = Start { what, variables: vec![(b"A", b"1"), (b"B", b"")] };
            let encoded = start.encode(7, true);
            let request = ChannelRequest::decode(&encoded[1..]).unwrap();
            assert_eq!((request.recipient, request.want_reply), (7, true));
            assert_eq!(Start::decode(&request), Ok(start));
            for end in 0..request.specific.len() {
                let cut = ChannelRequest { specific: &request.specific[..end], ..request };
                assert_eq!(Start::decode(&cut), Err(Malformed), "cut at {end}");
            }
            let longer = [request.specific, b"x"].concat();
            assert_eq!(Start::decode(&ChannelRequest { specific: &longer, ..request }), Err(Malformed));
        }
        // As a client sends it: what it adds is never taken for the server's.
        let clients = ChannelRequest { recipient: 7, name: b"shell", want_reply: true, specific: b"" };
        assert_eq!(Start::decode(&clients), Err(Malformed));
    }

    #[test]
    fn what_no_program_can_have_is_known() {
        let long = vec![b'x'; 128 * 1024 - 3];
        assert!(can_be_set(b"A", b"") && can_be_set(b"A", &long) && !can_be_set(b"AB", &long));
        for (name, value) in [(&b""[..], &b"x"[..]), (b"A=B", b""), (b"A\0", b""), (b"A", b"\0")] {
            assert!(!can_be_set(name, value));
        }
    }
}
