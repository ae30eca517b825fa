//! The channel type `session`, RFC 4254 section 6: its requests, and the process behind it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::process::Signal;

use super::channel::Ends;
use super::environment::Variables;
use super::forward::{Forwarded, Listeners};
use super::host::{Exit, Host, Requested, Started};
use super::process::Start;
use super::{pty, signal};
use crate::connection::message::{ChannelRequest, exit_signal, exit_status};
use crate::connection::start::{self, What};
use crate::connection::wire::{Malformed, Reader};

/// One session.
#[derive(Debug)]
pub struct Session<H: Host> {
    requested: Variables,
    terminal: Option<Terminal<H::Terminal>>,
    forwarded: Forwarded,
    state: State<H::Process>,
}

/// What is around a session.
#[derive(Debug)]
pub struct Surroundings<'a, H> {
    /// Where programs run.
    pub host: &'a mut H,
    /// Where its forwarding is registered,
    pub listeners: &'a mut Listeners,
    /// under the number of its channel.
    pub channel: u32,
}

#[derive(Debug)]
struct Terminal<T> {
    /// The TERM of the client.
    term: OsString,
    terminal: T,
}

/// How far a session's process has come.
#[derive(Debug)]
enum State<P> {
    /// Nothing was asked for yet. The only state in which anything may be.
    Larval,
    /// It runs; whether the client may send it signals.
    Running(P, bool),
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

impl<H: Host> Session<H> {
    /// One for which nothing was asked yet.
    pub fn new() -> Self {
        Session {
            requested: Variables::default(),
            terminal: None,
            forwarded: Forwarded::default(),
            state: State::Larval,
        }
    }

    /// Whether nothing has run yet.
    pub fn is_larval(&self) -> bool {
        matches!(self.state, State::Larval)
    }

    /// Whether its program has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether there is a terminal.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Serves one channel request. Unknown ones fail, as do all that ask for something to run, or prepare it, when
    /// something does already.
    pub fn request(&mut self, request: &ChannelRequest, around: &mut Surroundings<'_, H>) -> Result<Answer, Malformed> {
        let mut fields = Reader::new(request.specific);
        let larval = self.is_larval();
        Ok(match request.name {
            b"pty-req" if larval => self.open_terminal(&mut fields, around.host)?.into(),
            b"env" if larval => self.requested.add_limited(fields.string()?, fields.string()?).into(),
            b"auth-agent-req@openssh.com" if larval && H::FORWARDS => {
                self.forwarded.authentication_agent(around.listeners, around.channel).into()
            }
            b"x11-req" if larval && H::FORWARDS => {
                self.forwarded.x11(&mut fields, around.listeners, around.channel)?.into()
            }
            name if larval && start::starts(name) => self.start(&start::Start::decode(request)?, around),
            b"window-change" => {
                let size = pty::read_size(&mut fields)?;
                let process = match &self.state {
                    State::Running(process, _) => Some(process),
                    State::Larval | State::Ended => None,
                };
                let resize = |terminal: &mut Terminal<_>| around.host.resize(&mut terminal.terminal, process, size);
                self.terminal.as_mut().map(resize).is_some().into()
            }
            b"break" => {
                let _milliseconds = fields.u32()?;
                self.terminal.as_ref().is_some_and(|terminal| around.host.send_break(&terminal.terminal)).into()
            }
            b"signal" => self.signal(fields.string()?, around.host).into(),
            _ => Answer::Failure,
        })
    }

    fn open_terminal(&mut self, fields: &mut Reader, host: &mut H) -> Result<bool, Malformed> {
        let term = fields.string()?;
        let size = pty::read_size(fields)?;
        let modes = fields.string()?;
        if self.terminal.is_some() || term.contains(&0) {
            return Ok(false);
        }
        let terminal = host.open_terminal(size, modes)?;
        self.terminal = terminal.map(|terminal| Terminal { term: OsStr::from_bytes(term).into(), terminal });
        Ok(self.terminal.is_some())
    }

    fn start(&mut self, request: &start::Start<'_>, around: &mut Surroundings<'_, H>) -> Answer {
        let start = match request.what {
            What::Shell => Start::Shell,
            What::Exec(command) | What::Subsystem(command) if command.contains(&0) => return Answer::Failure,
            What::Exec(command) => Start::Exec(OsString::from_vec(command.to_vec())),
            What::Subsystem(command) => Start::Subsystem(OsString::from_vec(command.to_vec())),
        };
        let mut server = Variables::default();
        if !request.variables.iter().all(|(name, value)| server.add(name, value)) {
            log::warn!("cannot start a process: a variable that the server sets cannot be set");
            return Answer::Failure;
        }
        let requested = Requested {
            variables: &self.requested,
            server: &server,
            terminal: self.terminal.as_ref().map(|terminal| (terminal.term.as_os_str(), &terminal.terminal)),
            forwarded: &self.forwarded,
        };
        match around.host.start(&start, requested) {
            Ok((Started::Running(process), ends)) => {
                // A client may not signal a subsystem: sshd's rule.
                self.state = State::Running(process, !matches!(start, Start::Subsystem(_)));
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

    fn signal(&self, name: &[u8], host: &mut H) -> bool {
        match (&self.state, signal::by_name(name)) {
            (State::Running(process, true), Some(signal)) => host.signal(process, signal),
            _ => false,
        }
    }

    /// Sends `signal` to the program, whatever it is.
    pub fn kill(&self, signal: Signal, host: &mut H) {
        if let State::Running(process, _) = &self.state {
            // It fails where nobody is left.
            let _ = host.signal(process, signal);
        }
    }

    /// Takes note that `process` has ended, if that is the one of this session.
    pub fn ended(&mut self, process: &H::Process) -> bool {
        let ours = matches!(&self.state, State::Running(running, _) if running == process);
        if ours {
            self.state = State::Ended;
        }
        ours
    }

    /// Lets go of the terminal: with the channel's descriptors closed too, the kernel hangs it up.
    pub fn release_terminal(&mut self) {
        self.terminal = None;
    }
}

/// The message `exit-status` or `exit-signal`, RFC 4254 section 6.10.
pub fn exit_message(recipient: u32, exit: Exit) -> Vec<u8> {
    match exit {
        Exit::Status(status) => exit_status(recipient, status),
        Exit::Signal { number, core_dumped } => exit_signal(recipient, signal::name(number), core_dumped),
    }
}
