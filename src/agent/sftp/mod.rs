//! The SFTP server: `berth agent sftp`, a child of the agent, as `sftp-server` is of `sshd`.
//!
//! It speaks protocol version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions, on standard input and output.
//! What OpenSSH's server does and a client can see, this one does too: codes, messages, the order of things.
//!
//! One thread reads a large piece of input, answers every whole request in it from one reply buffer, and writes the
//! answers when the input is used up or the buffer is large enough. File data goes straight between the kernel and
//! these two buffers, and no request allocates on that path. A client that does not read its answers stops the server
//! in a write; it then reads no further requests, so nothing grows.
//!
//! The order of things is the protocol's: requests are done, and answered, one after another. Whoever started the
//! process ends it with the session: a request may wait in the kernel for longer than the client stays (a FIFO without
//! a writer, a network file system).

mod accounts;
mod attributes;
mod copy;
mod handles;
mod listing;
mod packet;
mod path;
mod reply;
mod session;
mod settings;
mod sys;

pub(crate) use accounts::fuzz as fuzz_accounts;
pub(crate) use packet::fuzz;
pub use settings::run;

use packet::{MAX_PACKET, Packet, Request};
use session::Session;
use std::io::{self, Read, Write};

use crate::connection::hello::SymlinkOrder;
use crate::connection::sftp_server::Options;

/// A packet and the length before it.
const MAX_FRAME: usize = 4 + MAX_PACKET;

/// The option of `berth agent sftp` for a client that sends the paths of a symbolic link in the draft's order.
pub const DRAFT_SYMLINKS: &str = "--draft-symlinks";

/// What `berth agent` is called with, to be this server for such a client.
pub fn arguments(symlinks: SymlinkOrder) -> &'static [&'static str] {
    match symlinks {
        SymlinkOrder::OpenSsh => &["sftp"],
        SymlinkOrder::Draft => &["sftp", DRAFT_SYMLINKS],
    }
}

/// Room for a whole packet wherever in the front half another one ends.
const INPUT_BUFFER: usize = 2 * MAX_FRAME;

/// Answers are written once there are this many bytes of them, even if more requests wait.
const FLUSH_AT: usize = 64 * 1024;

/// Why a session ended before its input did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The input cannot be read.
    Read(io::Error),
    /// The output cannot be written: mostly, the client is gone.
    Write(io::Error),
    /// The client sent a packet of this length, in bytes, which is over the limit.
    TooLong(u32),
    /// The client sent a packet too short to be one.
    Malformed,
    /// The client sent a request before INIT.
    NotInitialised,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Read(error) => write!(f, "sftp: cannot read requests: {error}"),
            Error::Write(error) => write!(f, "sftp: cannot write answers: {error}"),
            Error::TooLong(length) => {
                write!(f, "sftp: the client sent a packet of {length} bytes, more than {MAX_PACKET}")
            }
            Error::Malformed => f.write_str("sftp: the client sent a packet without type or request id"),
            Error::NotInitialised => f.write_str("sftp: the client sent a request before INIT"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Read(error) | Error::Write(error) => Some(error),
            Error::TooLong(_) | Error::Malformed | Error::NotInitialised => None,
        }
    }
}

/// Serves on the process's standard input and output. See [`serve`].
///
/// # Errors
/// Those of [`serve`].
pub fn serve_stdio(options: Options, symlinks: SymlinkOrder) -> Result<(), Error> {
    let (input, output) = super::streams().map_err(Error::Read)?;
    serve(input, output, options, symlinks)
}

/// Serves one session until its input ends. Files are opened as the process's own user, with its umask, and relative
/// paths start in its working directory. Neither side should have a buffer of its own.
///
/// # Errors
/// See [`Error`]. After any of them the session is over; a request that merely fails is answered, and is no error.
pub fn serve(
    mut input: impl Read,
    mut output: impl Write,
    options: Options,
    symlinks: SymlinkOrder,
) -> Result<(), Error> {
    let mut session = Session::new(options, symlinks);
    let mut buffer = vec![0; INPUT_BUFFER];
    // Invariant: start <= end <= buffer.len(). What lies between has been read and not yet been answered.
    let (mut start, mut end) = (0, 0);
    loop {
        let answered = answer_all(&buffer[start..end], &mut session, &mut output);
        // What was done before an error is still answered.
        flush(&mut session, &mut output)?;
        start += answered?;
        if start == end || buffer.len() - start < MAX_FRAME {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        match input.read(&mut buffer[end..]) {
            Ok(0) => return Ok(()),
            Ok(count) => end += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Read(error)),
        }
    }
}

/// Answers every whole packet in `bytes`, and returns how many bytes those were.
fn answer_all(bytes: &[u8], session: &mut Session, output: &mut impl Write) -> Result<usize, Error> {
    let mut rest = bytes;
    while let Some(payload) = packet::split(rest)? {
        rest = rest.get(4 + payload.len()..).unwrap_or_default();
        let packet = packet::parse(payload).map_err(|_| Error::Malformed)?;
        if session.replies.len() >= FLUSH_AT || may_wait(&packet) {
            flush(session, output)?;
        }
        session.answer(packet)?;
    }
    Ok(bytes.len() - rest.len())
}

/// Whether a request can take so long that the answers to those before it should not wait for it.
fn may_wait(packet: &Packet<'_>) -> bool {
    let Packet::Request { request: Ok(request), .. } = packet else { return false };
    matches!(request, Request::Open { .. } | Request::Fsync { .. } | Request::CopyData(_))
}

fn flush(session: &mut Session, output: &mut impl Write) -> Result<(), Error> {
    if !session.replies.is_empty() {
        output.write_all(&session.replies).and_then(|()| output.flush()).map_err(Error::Write)?;
        session.replies.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::packet::{Packet, parse, split};
    use super::{Error, MAX_PACKET, serve};
    use crate::connection::hello::SymlinkOrder;
    use crate::connection::sftp_server::Options;
    use crate::connection::wire::Write as _;
    use proptest::prelude::*;
    use std::io::{self, Read};

    /// Gives `bytes` away in pieces of the given sizes, over and over.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.next().copied().unwrap_or(1).min(buffer.len());
            self.bytes.read(&mut buffer[..size])
        }
    }

    /// A request that touches no file, made longer by what a server passes over.
    fn limits(id: u32, padding: usize) -> Vec<u8> {
        let mut payload = vec![200];
        payload.put_u32(id);
        payload.put_string("limits@openssh.com");
        payload.resize((payload.len() + padding).min(MAX_PACKET), 0);
        let mut packet = Vec::new();
        packet.put_string(payload);
        packet
    }

    fn ids(mut answers: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(payload) = split(answers).unwrap() {
            if let Packet::Request { id, .. } = parse(payload).unwrap() {
                ids.push(id);
            }
            answers = &answers[4 + payload.len()..];
        }
        ids
    }

    const INIT: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn packets_are_answered_in_order_however_they_arrive(
            paddings in prop::collection::vec(prop_oneof![0..100_usize, 0..MAX_PACKET], 1..12),
            sizes in prop::collection::vec(prop_oneof![1..100_000_usize, 100_000..600_000_usize], 1..5),
        ) {
            let mut input = INIT.to_vec();
            for (id, padding) in (0..).zip(&paddings) {
                input.extend(limits(id, *padding));
            }
            let mut output = Vec::new();
            let input = Pieces { bytes: &input, sizes: sizes.iter().cycle() };
            serve(input, &mut output, Options::default(), SymlinkOrder::OpenSsh).unwrap();
            // The first answer is VERSION, whose number is the protocol's.
            prop_assert_eq!(&ids(&output)[1..], (0..paddings.len() as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_asked_before_an_error_is_answered() {
        let input = [&INIT[..], &limits(7, 0), &[0xff; 4]].concat();
        let mut output = Vec::new();
        let result = serve(&input[..], &mut output, Options::default(), SymlinkOrder::OpenSsh);
        assert!(matches!(result, Err(Error::TooLong(u32::MAX))));
        assert_eq!(ids(&output), [3, 7]);
    }
}
