//! The client at the other end of the streams.

use crate::agent::buffer::Buffer;
use crate::agent::error::words;
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest line, in bytes: a path in a complaint fits.
const LINE: usize = 8 * 1024;

/// How much is read at once, in bytes: what a pipe holds.
const READ: usize = 64 * 1024;

/// Why a copy ended early. Either way the exit status is 1.
#[derive(Debug)]
pub(super) enum End {
    /// The client is gone, or has had enough.
    Lost,
    /// Nothing sensible can follow: what the client is still to be told.
    Fatal(Vec<u8>),
}

impl End {
    /// The client broke the protocol: how.
    pub(super) fn protocol(problem: &str) -> Self {
        End::Fatal(format!("protocol error: {problem}").into())
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        End::Lost
    }
}

/// The client, and whether either side has complained.
#[derive(Debug)]
pub(super) struct Peer<R, W> {
    input: R,
    output: W,
    /// What was read and not used yet.
    held: Buffer,
    complained: bool,
}

impl<R: Read, W: Write> Peer<R, W> {
    pub(super) fn new(input: R, output: W) -> Self {
        Peer { input, output, held: Buffer::default(), complained: false }
    }

    /// Whether a complaint has gone either way.
    pub(super) fn complained(&self) -> bool {
        self.complained
    }

    /// Takes note of a complaint that was heard, or is still to be made.
    pub(super) fn note_complaint(&mut self) {
        self.complained = true;
    }

    /// Reads more, and says whether there was any.
    fn fill(&mut self) -> Result<bool, End> {
        loop {
            match self.input.read(self.held.space(READ)) {
                Ok(count) => {
                    self.held.commit(count);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next line, without its end. `None` where the input ends before it.
    pub(super) fn line(&mut self) -> Result<Option<Vec<u8>>, End> {
        loop {
            let bytes = self.held.bytes();
            let bytes = &bytes[..bytes.len().min(LINE)];
            if let Some(length) = bytes.iter().position(|byte| *byte == b'\n') {
                let line = bytes[..length].to_vec();
                self.held.consume(length + 1);
                return Ok(Some(line));
            }
            if bytes.len() == LINE {
                return Err(End::protocol("line too long"));
            }
            if !self.fill()? {
                return if self.held.is_empty() { Ok(None) } else { Err(End::protocol("lost connection")) };
            }
        }
    }

    /// Some bytes of a file's content, at least one and `most` at most. What is taken of it is to be [`consume`]d.
    ///
    /// [`consume`]: Peer::consume
    pub(super) fn content(&mut self, most: u64) -> Result<&[u8], End> {
        if self.held.is_empty() && !self.fill()? {
            return Err(End::Fatal(words(Errno::PIPE).into()));
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.held.len());
        Ok(&self.held.bytes()[..count])
    }

    /// Forgets `count` bytes of content.
    pub(super) fn consume(&mut self, count: usize) {
        self.held.consume(count);
    }

    /// Waits for the client's answer, and says whether it is content.
    pub(super) fn response(&mut self) -> Result<bool, End> {
        if self.held.is_empty() && !self.fill()? {
            return Err(End::Lost);
        }
        let response = self.held.bytes()[0];
        self.held.consume(1);
        if response == 0 {
            return Ok(true);
        }
        self.note_complaint();
        // Its user has read what this says.
        match self.line() {
            Ok(Some(_)) if response == 1 => Ok(false),
            _ => Err(End::Lost),
        }
    }

    /// Sends a record or content.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        Ok(self.output.write_all(bytes)?)
    }

    /// Answers that all is well.
    pub(super) fn acknowledge(&mut self) -> Result<(), End> {
        self.send(b"\0")
    }

    /// Complains. A line break in the text would end it early.
    pub(super) fn complain(&mut self, problem: &[u8]) -> Result<(), End> {
        self.note_complaint();
        let mut complaint = b"\x01scp: ".to_vec();
        complaint.extend(problem.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\\^J"[..]));
        complaint.push(b'\n');
        self.send(&complaint)
    }
}

/// What is wrong with a path, as `perror` would put it.
pub(super) fn on(path: &Path, problem: &str) -> Vec<u8> {
    [path.as_os_str().as_bytes(), b": ", problem.as_bytes()].concat()
}

/// As [`on`], for a failed system call.
pub(super) fn failed(path: &Path, errno: Errno) -> Vec<u8> {
    on(path, &words(errno))
}

/// The system's number for what went wrong in reading or writing a file.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::{End, LINE, Peer};

    #[test]
    fn a_line_is_bounded() {
        let long = [vec![b'x'; LINE - 1], vec![b'\n']].concat();
        assert_eq!(Peer::new(&long[..], Vec::new()).line().unwrap().unwrap().len(), LINE - 1);
        let longer = vec![b'x'; LINE];
        assert!(matches!(Peer::new(&longer[..], Vec::new()).line(), Err(End::Fatal(_))));
    }

    #[test]
    fn a_complaint_is_one_line() {
        let mut peer = Peer::new(&b""[..], Vec::new());
        peer.complain(b"a\nb: Permission denied").unwrap();
        assert_eq!(peer.output, b"\x01scp: a\\^Jb: Permission denied\n");
        assert!(peer.complained());
    }
}
