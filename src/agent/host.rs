//! Where the programs of sessions run.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::io;

use rustix::process::{Signal, WaitStatus};
use rustix::termios::Winsize;

use super::channel::Ends;
use super::environment::Variables;
use super::forward::Forwarded;
use super::process::Start;
use crate::connection::hello::Hello;
use crate::connection::wire::Malformed;

/// Where the programs of sessions run: for an agent its own container, or what a backend makes of it.
pub trait Host: Debug {
    /// A terminal that a client has asked for.
    type Terminal: Debug;
    /// A program that runs.
    type Process: Debug + PartialEq;

    /// Whether sockets there can be reached, so that anything can be forwarded.
    const FORWARDS: bool;

    /// Takes from the server's hello what is for it, if anything is.
    fn greeted(&mut self, _hello: &Hello) {}

    /// Opens a terminal with these encoded modes (RFC 4254 section 8). `None` where there can be none.
    fn open_terminal(&mut self, size: Winsize, modes: &[u8]) -> Result<Option<Self::Terminal>, Malformed>;

    /// Sets a terminal's size, in characters and pixels. `process` is what runs on it.
    fn resize(&mut self, terminal: &mut Self::Terminal, process: Option<&Self::Process>, size: Winsize);

    /// Sends a break (RFC 4335). Whether that could be.
    fn send_break(&mut self, terminal: &Self::Terminal) -> bool;

    /// Starts what `start` says, on a terminal if one was requested, and on pipes otherwise. An error means that there
    /// is not enough of something: processes, descriptors, memory.
    fn start(
        &mut self,
        start: &Start,
        requested: Requested<'_, Self::Terminal>,
    ) -> io::Result<(Started<Self::Process>, Ends)>;

    /// Sends a signal to a program and what it has started. Whether that could be.
    fn signal(&mut self, process: &Self::Process, signal: Signal) -> bool;
}

/// What a client asked for before it asked for something to run, and what is around it.
#[derive(Debug)]
pub struct Requested<'a, T> {
    /// Its `env` requests.
    pub variables: &'a Variables,
    /// What the server sets for this program.
    pub server: &'a Variables,
    /// The terminal's type, and the terminal.
    pub terminal: Option<(&'a OsStr, &'a T)>,
    /// The sockets that lead to the client.
    pub forwarded: &'a Forwarded,
}

/// How a start went.
#[derive(Debug)]
pub enum Started<P> {
    /// It runs.
    Running(P),
    /// There was nothing to run. The reason waits to be read like a program's standard error; this is the exit status.
    NotRunning(u32),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(u32),
    /// By a signal.
    #[allow(missing_docs)]
    Signal { number: i32, core_dumped: bool },
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        match status.terminating_signal() {
            Some(number) => Exit::Signal { number, core_dumped: status.as_raw() & 0x80 != 0 },
            None => Exit::Status(status.exit_status().unwrap_or_default() as u32),
        }
    }
}
