//! Message numbers, reason codes and the shapes of the messages that both ends handle.

use super::forward::HostPort;
use super::hello::Hello;
use super::wire::{Malformed, Reader, Write};

/// Message numbers, RFC 4254 section 9.
pub mod number {
    #![allow(missing_docs)]
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
}

/// Why a channel did not open, RFC 4254 section 5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum OpenFailure {
    AdministrativelyProhibited = 1,
    ConnectFailed = 2,
    UnknownChannelType = 3,
    ResourceShortage = 4,
}

/// `SSH_EXTENDED_DATA_STDERR`, RFC 4254 section 5.2.
pub const STDERR: u32 = 1;

/// The largest payload that berth takes in one data message; RFC 4254 leaves the choice, and OpenSSH takes the same.
pub const MAXIMUM_PACKET: u32 = 32768;

/// The window that berth gives a channel at its opening: OpenSSH's own, so transfers are as fast.
pub const WINDOW: u32 = 64 * MAXIMUM_PACKET;

/// SSH_MSG_CHANNEL_OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Open<'a> {
    pub channel_type: &'a [u8],
    pub sender: u32,
    pub window: u32,
    pub maximum_packet: u32,
    /// What the channel type adds.
    pub specific: &'a [u8],
}

impl<'a> Open<'a> {
    /// Decodes the body, after the message number.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let (channel_type, sender, window, maximum_packet) = (r.string()?, r.u32()?, r.u32()?, r.u32()?);
        Ok(Open { channel_type, sender, window, maximum_packet, specific: r.rest() })
    }

    /// Encodes the whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = vec![number::CHANNEL_OPEN];
        message.put_string(self.channel_type);
        message.put_u32(self.sender);
        message.put_u32(self.window);
        message.put_u32(self.maximum_packet);
        message.extend_from_slice(self.specific);
        message
    }
}

/// SSH_MSG_CHANNEL_REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ChannelRequest<'a> {
    pub recipient: u32,
    pub name: &'a [u8],
    pub want_reply: bool,
    /// What the request adds.
    pub specific: &'a [u8],
}

impl<'a> ChannelRequest<'a> {
    /// Decodes the body, after the message number.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let (recipient, name, want_reply) = (r.u32()?, r.string()?, r.boolean()?);
        Ok(ChannelRequest { recipient, name, want_reply, specific: r.rest() })
    }

    /// Encodes the whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = vec![number::CHANNEL_REQUEST];
        message.put_u32(self.recipient);
        message.put_string(self.name);
        message.put_boolean(self.want_reply);
        message.extend_from_slice(self.specific);
        message
    }
}

/// SSH_MSG_GLOBAL_REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GlobalRequest<'a> {
    pub name: &'a [u8],
    pub want_reply: bool,
    /// What the request adds.
    pub specific: &'a [u8],
}

impl<'a> GlobalRequest<'a> {
    /// Decodes the body, after the message number.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let (name, want_reply) = (r.string()?, r.boolean()?);
        Ok(GlobalRequest { name, want_reply, specific: r.rest() })
    }

    /// Encodes the whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = vec![number::GLOBAL_REQUEST];
        message.put_string(self.name);
        message.put_boolean(self.want_reply);
        message.extend_from_slice(self.specific);
        message
    }
}

/// A message whose body is the recipient's channel number alone: EOF, CLOSE, SUCCESS, FAILURE.
pub fn bare(number: u8, recipient: u32) -> Vec<u8> {
    let mut message = vec![number];
    message.put_u32(recipient);
    message
}

/// SSH_MSG_CHANNEL_OPEN_CONFIRMATION.
pub fn open_confirmation(recipient: u32, sender: u32, window: u32) -> Vec<u8> {
    let mut message = bare(number::CHANNEL_OPEN_CONFIRMATION, recipient);
    message.put_u32(sender);
    message.put_u32(window);
    message.put_u32(MAXIMUM_PACKET);
    message
}

/// SSH_MSG_CHANNEL_OPEN_FAILURE.
pub fn open_failure(recipient: u32, reason: OpenFailure, description: &str) -> Vec<u8> {
    let mut message = bare(number::CHANNEL_OPEN_FAILURE, recipient);
    message.put_u32(reason as u32);
    message.put_string(description);
    message.put_string("");
    message
}

/// SSH_MSG_CHANNEL_WINDOW_ADJUST.
pub fn window_adjust(recipient: u32, bytes: u32) -> Vec<u8> {
    let mut message = bare(number::CHANNEL_WINDOW_ADJUST, recipient);
    message.put_u32(bytes);
    message
}

/// SSH_MSG_CHANNEL_EXTENDED_DATA of the kind [`STDERR`].
pub fn stderr(recipient: u32, data: &[u8]) -> Vec<u8> {
    let mut message = bare(number::CHANNEL_EXTENDED_DATA, recipient);
    message.put_u32(STDERR);
    message.put_string(data);
    message
}

/// A line of berth's own for a user, who has a terminal or not.
pub fn line(text: &str, has_terminal: bool) -> String {
    format!("berth: {text}{}", if has_terminal { "\r\n" } else { "\n" })
}

/// A [`line()`] for a session's user, on standard error: as much of it as the client takes in one message, and
/// has window for, which that is taken from. `None` where that is nothing.
pub fn notice(
    recipient: u32,
    text: &str,
    has_terminal: bool,
    window: &mut u32,
    maximum_packet: u32,
) -> Option<Vec<u8>> {
    let line = line(text, has_terminal);
    let length = line.len().min(*window as usize).min(maximum_packet as usize);
    *window -= length as u32;
    (length > 0).then(|| stderr(recipient, &line.as_bytes()[..length]))
}

/// The channel request `exit-signal`, RFC 4254 section 6.10, with an empty message: `name` is the signal's, without
/// `SIG`.
pub fn exit_signal(recipient: u32, name: &str, core_dumped: bool) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_string(name);
    specific.put_boolean(core_dumped);
    // The message, and its language.
    specific.put_string("");
    specific.put_string("");
    ChannelRequest { recipient, name: b"exit-signal", want_reply: false, specific: &specific }.encode()
}

/// The channel request `exit-status`, RFC 4254 section 6.10.
pub fn exit_status(recipient: u32, status: u32) -> Vec<u8> {
    ChannelRequest { recipient, name: b"exit-status", want_reply: false, specific: &status.to_be_bytes() }.encode()
}

/// Whatever can be decoded is encoded into what is decoded as the same.
pub(crate) fn fuzz(body: &[u8]) {
    if let Ok(open) = Open::decode(body) {
        assert_eq!(Open::decode(&open.encode()[1..]), Ok(open));
    }
    if let Ok(request) = ChannelRequest::decode(body) {
        assert_eq!(ChannelRequest::decode(&request.encode()[1..]), Ok(request));
        super::start::fuzz(&request);
    }
    if let Ok(request) = GlobalRequest::decode(body) {
        assert_eq!(GlobalRequest::decode(&request.encode()[1..]), Ok(request));
    }
    let mut encoded = Vec::new();
    if let Ok(address) = HostPort::decode(&mut Reader::new(body)) {
        address.encode(&mut encoded);
        assert_eq!(HostPort::decode(&mut Reader::new(&encoded)), Ok(address));
    }
    if let Ok(hello) = Hello::decode(body) {
        assert_eq!(Hello::decode(&hello.encode()[1..]), Ok(hello));
    }
}
