//! Programs that run through the API.

use std::ffi::{OsStr, OsString};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::termios::Winsize;
use serde_json::{Map, Value, json};

use super::STACK;
use super::pump::{self, Streams};
use crate::agent::{Ends, Exit, Host, Requested, Start, Started, signal_name};
use crate::backend::docker::personal::put_files;
use crate::backend::docker::{Error, Lease, Shared, body, encode};
use crate::config;
use crate::connection::message::INTERNAL_SFTP;
use crate::connection::wire::Malformed;
use crate::http::{Deadline, Upgraded};
use crate::metadata::Metadata;
use crate::waker::Waker;

/// What runs commands.
const SHELL: &str = "/bin/sh";

/// The exit status of what could not be executed, of what is not there, and of what could not be started at all.
const NOT_EXECUTABLE: u32 = 126;
/// See [`NOT_EXECUTABLE`].
const NOT_FOUND: u32 = 127;
/// See [`NOT_EXECUTABLE`].
const FAILED: u32 = 255;

/// How often it is looked whether an executed program has an exit status, once its output has ended.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

/// SIGHUP and SIGKILL, as an exit's number.
const HUP: i32 = 1;
const KILL: i32 = 9;

/// Where programs run.
#[derive(Debug)]
pub(super) enum Target {
    /// In this container, which runs.
    Running(String),
    /// In one that is made for the program, by this call, with these labels. Whether it has a command of its own.
    #[allow(missing_docs)]
    New { create: String, labels: Map<String, Value>, has_command: bool, metadata: Arc<Metadata> },
}

/// A program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// `/exec/ID` or `/containers/NAME`: what is done with either has the same names.
    path: String,
    /// Whether it is a container of its own.
    is_container: bool,
}

/// How a program's end looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Status(u32),
    /// The client has let go of it.
    Abandoned,
    /// Its container is gone.
    Lost,
}

impl End {
    pub(super) fn is_lost(self) -> bool {
        self == End::Lost
    }

    pub(super) fn exit(self) -> Exit {
        match self {
            End::Status(status) => Exit::Status(status),
            End::Abandoned => Exit::Signal { number: HUP, core_dumped: false },
            End::Lost => Exit::Signal { number: KILL, core_dumped: false },
        }
    }
}

/// Docker as a host of programs.
#[derive(Debug)]
pub(super) struct Native {
    shared: Arc<Shared>,
    settings: Arc<config::Docker>,
    target: Target,
    lease: Lease,
    ends: Sender<(Arc<Program>, End)>,
    waker: Waker,
    /// Whether it was logged that signals are refused.
    has_refused: bool,
}

/// What a program is started with.
struct Command {
    words: Vec<OsString>,
    environment: Vec<String>,
    /// The rows and columns of its terminal, where it has one.
    size: Option<[u16; 2]>,
}

impl Native {
    /// `lease` owns the target. Programs that have ended are told to `ends`, and then `waker` is woken.
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: Arc<config::Docker>,
        target: Target,
        lease: Lease,
        ends: Sender<(Arc<Program>, End)>,
        waker: Waker,
    ) -> Self {
        Native { shared, settings, target, lease, ends, waker, has_refused: false }
    }

    /// What runs for this request. No words are the container's own command.
    fn words(&self, start: &Start) -> Vec<OsString> {
        match (start, &self.target) {
            // A key's forced command.
            (Start::Subsystem(command), _) if command == INTERNAL_SFTP => {
                let command = self.settings.all_subsystems().remove("sftp").unwrap_or_default();
                vec![SHELL.into(), "-c".into(), command.into()]
            }
            (Start::Exec(command) | Start::Subsystem(command), _) => {
                vec![SHELL.into(), "-c".into(), command.clone()]
            }
            (Start::Shell, target) => match (self.settings.shell_command.as_slice(), target) {
                ([], Target::New { has_command: true, .. }) => Vec::new(),
                ([], _) => vec![SHELL.into()],
                (command, _) => command.iter().map(OsString::from).collect(),
            },
        }
    }

    /// Starts a program: what it is, and the connection to its streams.
    fn run(&mut self, command: &Command) -> Result<(Program, Upgraded), Error> {
        let (api, deadline) = (&self.shared.api, Deadline::after(self.settings.container_start));
        let stream = |path: &str| format!("{path}?stream=true&stdin=true&stdout=true&stderr=true");
        match &self.target {
            Target::Running(container) => {
                let create = format!("/containers/{}/exec", encode(container));
                let body = json!({
                    "AttachStdin": true,
                    "AttachStdout": true,
                    "AttachStderr": true,
                    "Tty": command.size.is_some(),
                    // From API 1.42 on; else it is set once the program runs.
                    "ConsoleSize": command.size,
                    "Env": command.environment,
                    "Cmd": texts(&command.words),
                });
                let answer = api.call("make a program ready", "POST", &create, Some(&body), deadline)?;
                let id = answer.get("Id").and_then(Value::as_str).unwrap_or_default();
                let path = format!("/exec/{}", encode(id));
                let body = json!({ "Detach": false, "Tty": command.size.is_some(), "ConsoleSize": command.size });
                let connection = api.hijack("start a program", &format!("{path}/start"), Some(&body), deadline)?;
                Ok((Program { path, is_container: false }, connection))
            }
            Target::New { create, labels, metadata, .. } => {
                let words = texts(&command.words);
                let body = body::program(&self.settings, labels.clone(), words, &command.environment, command.size);
                self.lease.created = true;
                api.call("create the container", "POST", create, Some(&body), deadline)?;
                put_files(api, &self.settings.container, &self.lease.container, metadata, deadline)?;
                let path = format!("/containers/{}", self.lease.container);
                let attach = stream(&format!("{path}/attach"));
                let connection = api.hijack("attach to the container", &attach, None, deadline)?;
                api.call("start the container", "POST", &format!("{path}/start"), None, deadline)?;
                Ok((Program { path, is_container: true }, connection))
            }
        }
    }

    /// Starts the thread that carries a program's streams, and tells how it ended.
    fn attend(&self, program: &Arc<Program>, connection: Upgraded, streams: Streams) -> io::Result<()> {
        let (shared, program) = (Arc::clone(&self.shared), Arc::clone(program));
        let (ends, waker) = (self.ends.clone(), self.waker.clone());
        let work = move || {
            let end = match pump::run(connection, streams) {
                Ok(true) => program.end(&shared),
                Ok(false) => End::Abandoned,
                Err(error) => {
                    log::warn!("docker: a program's streams: {error}");
                    End::Lost
                }
            };
            // Nobody hears it where the connection has ended.
            let _ = ends.send((program, end));
            waker.wake();
        };
        std::thread::Builder::new().name("program".into()).stack_size(STACK).spawn(work).map(drop)
    }

    fn refuse(&mut self, what: &str) {
        if !self.has_refused {
            log::info!("refused: {what} takes an agent, which docker.execution.disableAgent keeps out");
        }
        self.has_refused = true;
    }
}

impl Program {
    /// How it has ended, now that its output has.
    fn end(&self, shared: &Shared) -> End {
        let (api, deadline) = (&shared.api, shared.api.deadline());
        let status = |answer: &Value, name: &str| {
            answer.get(name).and_then(Value::as_u64).and_then(|status| status.try_into().ok()).map(End::Status)
        };
        loop {
            let result = if self.is_container {
                let wait = format!("{}/wait?condition=not-running", self.path);
                api.call("learn how the container ended", "POST", &wait, None, deadline)
                    .map(|answer| status(&answer, "StatusCode"))
            } else {
                let inspect = format!("{}/json", self.path);
                api.call("learn how the program ended", "GET", &inspect, None, deadline).map(|answer| {
                    if answer.get("Running") == Some(&Value::Bool(true)) { None } else { status(&answer, "ExitCode") }
                })
            };
            match result {
                Ok(Some(end)) => return end,
                // The output ends a little before that is known.
                Ok(None) if !deadline.has_passed() => std::thread::sleep(STATUS_INTERVAL),
                Ok(None) => return End::Abandoned,
                Err(error) => {
                    if !error.is_status(404) {
                        log::warn!("{error}");
                    }
                    return End::Lost;
                }
            }
        }
    }
}

impl Host for Native {
    /// Its size.
    type Terminal = Winsize;
    type Process = Arc<Program>;

    const FORWARDS: bool = false;

    fn open_terminal(&mut self, size: Winsize, _modes: &[u8]) -> Result<Option<Winsize>, Malformed> {
        Ok(Some(size))
    }

    fn resize(&mut self, terminal: &mut Winsize, program: Option<&Arc<Program>>, size: Winsize) {
        *terminal = size;
        let Some(program) = program else { return };
        let path = format!("{}/resize?h={}&w={}", program.path, size.ws_row, size.ws_col);
        let api = &self.shared.api;
        // A program that has just ended has no terminal any more.
        if let Err(error) = api.call("resize a terminal", "POST", &path, None, api.deadline()) {
            log::debug!("{error}");
        }
    }

    fn send_break(&mut self, _terminal: &Winsize) -> bool {
        self.refuse("a break");
        false
    }

    fn start(&mut self, start: &Start, requested: Requested<'_, Winsize>) -> io::Result<(Started<Arc<Program>>, Ends)> {
        let terminal = requested.terminal;
        let variables = requested.variables.iter().chain(requested.server.iter());
        let pairs = variables.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let term = terminal.map(|(term, _)| (OsStr::new("TERM"), term)).filter(|(_, term)| !term.is_empty());
        let text = |(name, value): (&OsStr, &OsStr)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
        let command = Command {
            words: self.words(start),
            environment: pairs.chain(term).map(text).collect(),
            size: terminal.map(|(_, size)| [size.ws_row, size.ws_col]),
        };
        let (ends, streams) = if terminal.is_some() { terminal_ends()? } else { pipe_ends()? };
        match self.run(&command) {
            Ok((program, connection)) => {
                let program = Arc::new(program);
                if let Some((_, size)) = terminal {
                    self.resize(&mut size.to_owned(), Some(&program), *size);
                }
                self.attend(&program, connection, streams)?;
                Ok((Started::Running(program), ends))
            }
            Err(error) => {
                log::error!("{error}");
                let (status, text) = match &error {
                    Error::Api { status: 400, message, .. } if message.contains("permission denied") => {
                        (NOT_EXECUTABLE, "the program cannot be executed")
                    }
                    Error::Api { status: 400, .. } => (NOT_FOUND, "no such program in the container"),
                    _ => (FAILED, "the program cannot be started"),
                };
                let line_end = if terminal.is_some() { "\r\n" } else { "\n" };
                // A few words fit into an empty pipe.
                let complaint = streams.error.as_ref().unwrap_or(&streams.output);
                let _ = rustix::io::write(complaint, format!("berth: {text}{line_end}").as_bytes());
                Ok((Started::NotRunning(status), ends))
            }
        }
    }

    fn signal(&mut self, program: &Arc<Program>, signal: Signal) -> bool {
        if !program.is_container {
            self.refuse("a signal");
            return false;
        }
        let path = format!("{}/kill?signal=SIG{}", program.path, signal_name(signal.as_raw()));
        let api = &self.shared.api;
        api.call("signal the container", "POST", &path, None, api.deadline()).is_ok()
    }
}

/// For JSON, which has no bytes.
fn texts(words: &[OsString]) -> Vec<String> {
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// A client's end of a terminal, where input and output are one, and that of its streams.
fn terminal_ends() -> io::Result<(Ends, Streams)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let ours = Rc::new(ours);
    let ends = Ends { input: Rc::clone(&ours), output: ours, error: None };
    Ok((ends, Streams { input: theirs.try_clone()?, output: theirs, error: None, is_terminal: true }))
}

fn pipe_ends() -> io::Result<(Ends, Streams)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (their_input, input) = pipe_with(flags)?;
    let (output, their_output) = pipe_with(flags)?;
    let (error, their_error) = pipe_with(flags)?;
    let ends = Ends { input: Rc::new(input), output: Rc::new(output), error: Some(Rc::new(error)) };
    let streams = Streams { input: their_input, output: their_output, error: Some(their_error), is_terminal: false };
    Ok((ends, streams))
}
