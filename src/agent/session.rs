//! The channel type `session`, RFC 4254 section 6: its requests, and the process behind it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

use super::channel::Ends;
use super::environment::Variables;
use super::forward::{Forwarded, Listeners};
use super::process::{self, Container, Requested, Start, Started};
use super::pty::{self, Pty};
use super::signal;
use crate::connection::message::{ChannelRequest, exit_status};
use crate::connection::wire::{Malformed, Reader, Write};

/// One session.
#[derive(Debug, Default)]
pub struct Session {
    requested: Variables,
    pty: Option<Terminal>,
    forwarded: Forwarded,
    state: State,
}

/// What is around a session.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// What all sessions share.
    pub container: &'a Container,
    /// Where its forwarding is registered,
    pub listeners: &'a mut Listeners,
    /// under the number of its channel.
    pub channel: u32,
}

#[derive(Debug)]
struct Terminal {
    /// The TERM of the client.
    term: OsString,
    pty: Pty,
}

/// How far a session's process has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing was asked for yet. The only state in which anything may be.
    #[default]
    Larval,
    /// The leader of its own session and process group; whether the client may send it signals.
    Running(Pid, bool),
    /// It was reaped, and its exit status sent.
    Ended,
}

/// What a request came to.
#[derive(Debug)]
pub enum Answer {
    /// CHANNEL_SUCCESS.
    Success,
    /// CHANNEL_FAILURE.
    Failure,
    /// CHANNEL_SUCCESS, and from now on bytes flow. The exit status is there already if nothing could run.
    Started(Ends, Option<u32>),
}

impl From<bool> for Answer {
    fn from(success: bool) -> Self {
        if success { Answer::Success } else { Answer::Failure }
    }
}

impl Session {
    /// How far the process has come.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether there is a terminal.
    pub fn has_terminal(&self) -> bool {
        self.pty.is_some()
    }

    /// Serves one channel request. Unknown ones fail, as do all that ask for something to run, or prepare it, when
    /// something does already.
    pub fn request(&mut self, request: &ChannelRequest, around: &mut Surroundings) -> Result<Answer, Malformed> {
        let container = around.container;
        let mut fields = Reader::new(request.specific);
        let larval = self.state == State::Larval;
        Ok(match request.name {
            b"pty-req" if larval => self.allocate_terminal(&mut fields)?.into(),
            b"env" if larval => self.requested.add_limited(fields.string()?, fields.string()?).into(),
            b"auth-agent-req@openssh.com" if larval => {
                self.forwarded.authentication_agent(around.listeners, around.channel).into()
            }
            b"x11-req" if larval => self.forwarded.x11(&mut fields, around.listeners, around.channel)?.into(),
            b"shell" if larval => self.start(Start::Shell, container),
            b"exec" if larval => match fields.string()? {
                command if command.contains(&0) => Answer::Failure,
                command => self.start(Start::Exec(OsString::from_vec(command.to_vec())), container),
            },
            b"subsystem" if larval => match fields.string()? {
                b"sftp" => self.start(Start::Sftp, container),
                _ => Answer::Failure,
            },
            b"window-change" => {
                let size = pty::read_size(&mut fields)?;
                self.pty.as_ref().map(|terminal| terminal.pty.set_size(size)).is_some().into()
            }
            b"break" => {
                let _milliseconds = fields.u32()?;
                self.pty.as_ref().is_some_and(|terminal| terminal.pty.send_break()).into()
            }
            b"signal" => self.signal(fields.string()?).into(),
            _ => Answer::Failure,
        })
    }

    fn allocate_terminal(&mut self, fields: &mut Reader) -> Result<bool, Malformed> {
        let term = fields.string()?;
        let size = pty::read_size(fields)?;
        let modes = fields.string()?;
        if self.pty.is_some() || term.contains(&0) {
            return Ok(false);
        }
        let pty = match Pty::open() {
            Ok(pty) => pty,
            Err(error) => {
                log::warn!("no pseudo-terminal: {error}; is /dev/pts mounted in the container?");
                return Ok(false);
            }
        };
        pty.set_modes(modes)?;
        pty.set_size(size);
        self.pty = Some(Terminal { term: OsStr::from_bytes(term).into(), pty });
        Ok(true)
    }

    fn start(&mut self, start: Start, container: &Container) -> Answer {
        let requested = Requested {
            variables: &self.requested,
            pty: self.pty.as_ref().map(|terminal| (terminal.term.as_os_str(), &terminal.pty)),
            forwarded: &self.forwarded,
        };
        match process::start(&start, container, requested) {
            Ok((Started::Running(pid), ends)) => {
                // A client may not signal a subsystem: sshd's rule.
                self.state = State::Running(pid, !matches!(start, Start::Sftp));
                Answer::Started(ends, None)
            }
            Ok((Started::NotRunning(status), ends)) => {
                self.state = State::Ended;
                Answer::Started(ends, Some(status))
            }
            Err(error) => {
                log::warn!("cannot start a process: {error}");
                Answer::Failure
            }
        }
    }

    fn signal(&self, name: &[u8]) -> bool {
        match (&self.state, signal::by_name(name)) {
            (State::Running(pid, true), Some(signal)) => kill_process_group(*pid, signal).is_ok(),
            _ => false,
        }
    }

    /// Sends `signal` to the process group, whatever runs.
    pub fn kill(&self, signal: Signal) {
        if let State::Running(pid, _) = self.state {
            // It fails where nobody is left.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Takes note that `pid` was reaped, if that is the process of this session.
    pub fn reaped(&mut self, pid: Pid) -> bool {
        let ours = matches!(self.state, State::Running(running, _) if running == pid);
        if ours {
            self.state = State::Ended;
        }
        ours
    }

    /// Lets go of the terminal: with the channel's descriptors closed too, the kernel hangs it up.
    pub fn release_terminal(&mut self) {
        self.pty = None;
    }
}

/// The message `exit-status` or `exit-signal`, RFC 4254 section 6.10.
pub fn exit_message(recipient: u32, status: WaitStatus) -> Vec<u8> {
    let Some(signal) = status.terminating_signal() else {
        return exit_status(recipient, status.exit_status().unwrap_or_default() as u32);
    };
    let core_dumped = status.as_raw() & 0x80 != 0;
    let mut specific = Vec::new();
    specific.put_string(signal::name(signal));
    specific.put_boolean(core_dumped);
    specific.put_string(""); // message
    specific.put_string(""); // language tag
    ChannelRequest { recipient, name: b"exit-signal", want_reply: false, specific: &specific }.encode()
}
