//! An agent that is reached by its standard input and output, to which the daemon attaches: a container's, or those of a
//! program that was executed in one. What it says on standard error goes to the log.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use super::multiplex::{Demultiplexer, Kind, Malformed};
use crate::backend::stderr::StandardError;
use crate::http::{Transport, Upgraded};

/// How often a read goes on that has found nothing but standard error.
const ATTEMPTS: usize = 16;

/// An agent's stream.
#[derive(Debug)]
pub(super) struct Attached {
    stream: Upgraded,
    demultiplexer: Demultiplexer,
    /// What was read to see whether the agent is there.
    early: Vec<u8>,
    start: usize,
    log: StandardError,
}

impl Attached {
    /// `name` is the container's, for the log.
    pub(super) fn new(stream: Upgraded, name: &str) -> Self {
        let log = StandardError::new(format!("docker: {name}"));
        Attached { stream, demultiplexer: Demultiplexer::default(), early: Vec::new(), start: 0, log }
    }

    /// Whether the agent has said something, which is kept; false where the stream has ended.
    pub(super) fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; Transport::WHOLE_READ];
        let count = self.read(&mut buffer)?;
        buffer.truncate(count);
        (self.early, self.start) = (buffer, 0);
        Ok(count > 0)
    }

    /// Moves what is output in what was read to its beginning; returns how much that is.
    fn extract(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut rest, mut pieces) = (&*bytes, Vec::new());
        let malformed = |Malformed| io::Error::other("the daemon's stream is malformed");
        while let Some((kind, piece)) = self.demultiplexer.next(&mut rest).map_err(malformed)? {
            match kind {
                Kind::Output => {
                    let end = bytes.len() - rest.len();
                    pieces.push(end - piece.len()..end);
                }
                Kind::Error => self.log.take(piece),
            }
        }
        let mut kept = 0;
        for piece in pieces {
            let length = piece.len();
            bytes.copy_within(piece, kept);
            kept += length;
        }
        Ok(kept)
    }
}

impl Read for Attached {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let count = self.early.get(self.start..).unwrap_or_default().read(buffer)?;
            self.start += count;
            if self.start >= self.early.len() {
                (self.early, self.start) = (Vec::new(), 0);
            }
            return Ok(count);
        }
        for _ in 0..ATTEMPTS {
            let count = self.stream.read(buffer)?;
            let output = self.extract(buffer.get_mut(..count).unwrap_or_default())?;
            if output > 0 || count == 0 {
                return Ok(output);
            }
        }
        // The rest is in the socket still.
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Attached {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
