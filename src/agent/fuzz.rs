//! The agent's parsers, and the whole of its end of a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::termios::Winsize;

use super::channel::Ends;
use super::connection::Connection;
use super::forward::{x11, xauthority};
use super::host::{Exit, Host, Requested, Started};
use super::process::Start;
use super::{modes, passwd, scp, sftp, words};
use crate::connection::hello::Hello;
use crate::connection::wire::Malformed;
use crate::fuzzing::{Target, pieces};

pub(crate) const FUZZ_TARGETS: &[Target] = &[
    ("agent", connection),
    ("modes", modes::fuzz),
    ("passwd", passwd::fuzz),
    ("accounts", sftp::fuzz_accounts),
    ("sftp", sftp::fuzz),
    ("scp", scp::fuzz),
    ("words", words::fuzz),
    ("x11", x11::fuzz),
    ("xauthority", xauthority::fuzz),
];

/// Where programs read nothing, and write nothing.
#[derive(Debug)]
struct Nowhere(Rc<OwnedFd>);

impl Host for Nowhere {
    type Terminal = ();
    type Process = ();

    const FORWARDS: bool = false;

    fn open_terminal(&mut self, _size: Winsize, _modes: &[u8]) -> Result<Option<()>, Malformed> {
        Ok(Some(()))
    }

    fn resize(&mut self, _terminal: &mut (), _process: Option<&()>, _size: Winsize) {}

    fn send_break(&mut self, _terminal: &()) -> bool {
        true
    }

    fn start(&mut self, _start: &Start, _requested: Requested<'_, ()>) -> io::Result<(Started<()>, Ends)> {
        let end = || Rc::clone(&self.0);
        Ok((Started::Running(()), Ends { input: end(), output: end(), error: Some(end()) }))
    }

    fn signal(&mut self, _process: &(), _signal: Signal) -> bool {
        true
    }
}

/// A server's messages; the first piece of `data` tells whether its hello is among them.
fn connection(data: &[u8]) {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("/dev/null");
    let null = Rc::new(null);
    let mut connection = Connection::new(Nowhere(Rc::clone(&null))).expect("a descriptor");
    let mut messages = pieces(data);
    if messages.next().is_some_and(<[u8]>::is_empty) {
        connection.message(&Hello::default().encode()).expect("a hello");
    }
    for message in messages {
        if connection.message(message).is_err() {
            return;
        }
        let ready: Vec<_> = connection.interests().map(|(source, ..)| source).collect();
        ready.into_iter().for_each(|source| connection.ready(source));
        connection.drain();
        connection.out.flush(&null).expect("/dev/null takes everything");
    }
    connection.stop();
    connection.ended(&(), Exit::Status(0));
}
