//! A host of programs that an executor runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::termios::Winsize;

use super::pump::{self, Streams};
use super::{Attached, Command, End, Executor, Failure, Program, Running, SHELL, STACK};
use crate::agent::{Ends, Host, Requested, Start, Started};
use crate::connection::message;
use crate::connection::sftp_server::{self, Call};
use crate::connection::wire::Malformed;
use crate::waker::Waker;

/// The exit status of what cannot be started: as of a failed `ssh`.
const UNABLE: u32 = 255;

/// An executor as a host of programs.
#[derive(Debug)]
pub(super) struct Native {
    executor: Box<dyn Executor>,
    ends: Sender<(Process, End)>,
    waker: Waker,
    /// Whether it was logged that something was refused.
    has_refused: bool,
}

/// A program that was started.
#[derive(Clone, Debug)]
pub(super) struct Process(Arc<dyn Program>);

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

impl Native {
    /// Programs that have ended are told to `ends`, and then `waker` is woken.
    pub(super) fn new(executor: Box<dyn Executor>, ends: Sender<(Process, End)>, waker: Waker) -> Self {
        Native { executor, ends, waker, has_refused: false }
    }

    /// What runs for this request, and whether it is SFTP's server. Or why none can.
    fn words(&self, start: &Start) -> Result<(Vec<String>, bool), String> {
        let sftp = self.executor.sftp();
        let command = match start {
            Start::Shell => return Ok((self.executor.shell(), false)),
            // For JSON, which has no bytes.
            Start::Exec(command) | Start::Subsystem(command) => command.to_string_lossy().into_owned(),
        };
        let is_subsystem = matches!(start, Start::Subsystem(_));
        // A forced command: the image's server takes the options of the agent's.
        let options = if is_subsystem { sftp_server::internal(command.as_bytes()) } else { None };
        let (command, is_sftp) = match options.as_deref() {
            None => {
                let is_sftp = is_subsystem && command == sftp;
                (command, is_sftp)
            }
            Some([]) => (sftp, true),
            Some(options) => {
                Call::parse(options).map_err(|error| format!("{}: {error}", sftp_server::INTERNAL))?;
                let program = sftp.split_ascii_whitespace().next().unwrap_or_default();
                let quoted = |option: &&[u8]| format!(" '{}'", String::from_utf8_lossy(option).replace('\'', "'\\''"));
                (program.to_owned() + &options.iter().map(quoted).collect::<String>(), true)
            }
        };
        Ok((vec![SHELL.into(), "-c".into(), command], is_sftp))
    }

    /// Starts the thread that carries a program's streams, and tells how it ended.
    fn attend(&self, process: &Process, connection: Box<dyn Attached>, streams: Streams) -> io::Result<()> {
        let (process, ends, waker) = (process.clone(), self.ends.clone(), self.waker.clone());
        let complaint = streams.complaint().try_clone()?;
        let has_terminal = streams.error.is_none();
        let work = move || {
            let end = match pump::run(connection, streams) {
                Ok(true) => process.0.end(),
                Ok(false) => End::Abandoned,
                Err(error) => {
                    log::warn!("a program's streams: {error}");
                    End::Lost
                }
            };
            if end == End::Lost {
                complain(&complaint, "the container has ended", has_terminal);
            }
            drop(complaint);
            // Nobody hears it where the connection has ended.
            let _ = ends.send((process, end));
            waker.wake();
        };
        std::thread::Builder::new().name("program".into()).stack_size(STACK).spawn(work).map(drop)
    }

    fn refuse(&mut self, what: &str) -> bool {
        if !self.has_refused {
            log::info!("refused: {what} takes an agent, which disableAgent keeps out");
        }
        self.has_refused = true;
        false
    }
}

impl Host for Native {
    /// Its size.
    type Terminal = Winsize;
    type Process = Process;

    const FORWARDS: bool = false;

    fn open_terminal(&mut self, size: Winsize, _modes: &[u8]) -> Result<Option<Winsize>, Malformed> {
        Ok(Some(size))
    }

    fn resize(&mut self, terminal: &mut Winsize, process: Option<&Process>, size: Winsize) {
        *terminal = size;
        if let Some(process) = process {
            process.0.resize([size.ws_row, size.ws_col]);
        }
    }

    fn send_break(&mut self, _terminal: &Winsize) -> bool {
        self.refuse("a break")
    }

    fn start(&mut self, start: &Start, requested: Requested<'_, Winsize>) -> io::Result<(Started<Process>, Ends)> {
        let terminal = requested.terminal;
        let variables = requested.variables.iter().chain(requested.server.iter());
        let variables = variables.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let term = terminal.map(|(term, _)| (OsStr::new("TERM"), term)).filter(|(_, term)| !term.is_empty());
        // Of two of a name, the last counts: not every runtime has it so.
        let variables: BTreeMap<_, _> = variables.chain(term).collect();
        let text = |(name, value): (&OsStr, &OsStr)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
        let (ends, streams) = if terminal.is_some() { terminal_ends()? } else { pipe_ends()? };
        let (words, is_sftp) = match self.words(start) {
            Ok(words) => words,
            Err(reason) => {
                complain(streams.complaint(), &reason, terminal.is_some());
                return Ok((Started::NotRunning(UNABLE), ends));
            }
        };
        let command = Command {
            words,
            is_sftp,
            environment: variables.into_iter().map(text).collect(),
            size: terminal.map(|(_, size)| [size.ws_row, size.ws_col]),
        };
        match self.executor.run(&command) {
            Ok(Running { program, connection }) => {
                if let Some(size) = command.size {
                    program.resize(size);
                }
                let process = Process(program);
                self.attend(&process, connection, streams)?;
                Ok((Started::Running(process), ends))
            }
            Err(failure) => {
                // As of a shell, or else of a failed ssh.
                let (status, text) = match failure {
                    Failure::NotExecutable => (126, "the program cannot be executed"),
                    Failure::NotFound => (127, "no such program in the container"),
                    Failure::Other => (UNABLE, "the program cannot be started"),
                };
                complain(streams.complaint(), text, terminal.is_some());
                Ok((Started::NotRunning(status), ends))
            }
        }
    }

    fn signal(&mut self, process: &Process, signal: Signal) -> bool {
        process.0.signal(signal) || self.refuse("a signal")
    }
}

/// Tells the user a line, as far as there is room: an empty pipe has enough.
fn complain(pipe: &OwnedFd, text: &str, has_terminal: bool) {
    let _ = rustix::io::write(pipe, message::line(text, has_terminal).as_bytes());
}

/// A client's end of a terminal, where input and output are one, and that of its streams.
fn terminal_ends() -> io::Result<(Ends, Streams)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let ours = Rc::new(ours);
    let ends = Ends { input: Rc::clone(&ours), output: ours, error: None };
    Ok((ends, Streams { input: theirs.try_clone()?, output: theirs, error: None }))
}

fn pipe_ends() -> io::Result<(Ends, Streams)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (their_input, input) = pipe_with(flags)?;
    let (output, their_output) = pipe_with(flags)?;
    let (error, their_error) = pipe_with(flags)?;
    let ends = Ends { input: Rc::new(input), output: Rc::new(output), error: Some(Rc::new(error)) };
    let streams = Streams { input: their_input, output: their_output, error: Some(their_error) };
    Ok((ends, streams))
}
