//! Messages on their way to the server.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::buffer::Buffer;
use crate::connection::message::{STDERR, number};

/// While this much or more waits to be sent, no program is read: a slow client slows the programs down, not the agent
/// up. In bytes.
const PROGRAMS_PAUSE: usize = 256 * 1024;

/// While this much or more waits, the server is not read either. Replies alone, which no window bounds, get this far.
/// In bytes.
const SERVER_PAUSE: usize = 2 * 1024 * 1024;

/// Frames that wait to be written to the server.
#[derive(Debug, Default)]
pub struct Outbound {
    buffer: Buffer,
}

impl Outbound {
    /// Whether programs may be read.
    pub fn takes_data(&self) -> bool {
        self.buffer.len() < PROGRAMS_PAUSE
    }

    /// Whether the server may be read.
    pub fn takes_replies(&self) -> bool {
        self.buffer.len() < SERVER_PAUSE
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Queues one message.
    pub fn send(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.buffer.push(&length.to_be_bytes());
        self.buffer.push(message);
    }

    /// Reads up to `limit` bytes of `source` and queues them as one data message, without copying them again. Returns
    /// how many there were; with 0, end of file, nothing is queued.
    pub fn send_from(&mut self, source: &OwnedFd, recipient: u32, stderr: bool, limit: usize) -> Result<usize, Errno> {
        let header = if stderr { 17 } else { 13 };
        let space = &mut self.buffer.space(header + limit)[..header + limit];
        let count = rustix::io::read(source, &mut space[header..])?;
        if count == 0 {
            return Ok(0);
        }
        let (length, rest) = space.split_at_mut(4);
        length.copy_from_slice(&((header - 4 + count) as u32).to_be_bytes());
        rest[0] = if stderr { number::CHANNEL_EXTENDED_DATA } else { number::CHANNEL_DATA };
        rest[1..5].copy_from_slice(&recipient.to_be_bytes());
        if stderr {
            rest[5..9].copy_from_slice(&STDERR.to_be_bytes());
        }
        rest[header - 8..header - 4].copy_from_slice(&(count as u32).to_be_bytes());
        self.buffer.commit(header + count);
        Ok(count)
    }

    /// Writes what the socket takes now.
    pub fn flush(&mut self, socket: impl AsFd) -> Result<(), Errno> {
        while !self.buffer.is_empty() {
            match rustix::io::write(&socket, self.buffer.bytes()) {
                Ok(count) => self.buffer.consume(count),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The messages that wait, taken out of their frames.
    #[cfg(test)]
    pub fn take_messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some((message, _)) = crate::connection::frame::split(self.buffer.bytes()).unwrap() {
            messages.push(message.to_vec());
            self.buffer.consume(4 + messages.last().unwrap().len());
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::Outbound;
    use crate::connection::message::stderr;

    #[test]
    fn data_read_in_place_is_framed_like_an_encoded_message() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        std::fs::File::from(writer).write_all(b"hello").unwrap();
        let mut out = Outbound::default();
        assert_eq!(out.send_from(&reader, 7, true, 100), Ok(5));
        assert_eq!(out.send_from(&reader, 7, false, 100), Ok(0));
        assert_eq!(out.take_messages(), [stderr(7, b"hello")]);
    }
}
