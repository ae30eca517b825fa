//! Native mode: programs that Docker executes in the container or, where each session has one, the container's own
//! command.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::multiplex::{Demultiplexer, Kind};
use super::personal::{put_files, user};
use super::{Docker, Error, Lease, Shared, body, encode, image, present, sidecars};
use crate::agent::signal_name;
use crate::backend::native::{self, Attached, Command, End, Executor, Failure, Output, Running};
use crate::backend::{Backend, Container, Request, Scope, Waiter, removal};
use crate::config;
use crate::http::{Deadline, Transport, Upgraded};
use crate::metadata::Metadata;

/// How often it is looked whether an executed program has an exit status, once its output has ended.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

/// Where programs run.
#[derive(Debug)]
enum Target {
    /// In this container, which runs.
    Running(String),
    /// In one that is made for the program, by this call, with these labels. Whether it has a command of its own.
    New { create: String, labels: Map<String, Value>, has_command: bool, metadata: Arc<Metadata> },
}

/// A program.
#[derive(Debug)]
struct Program {
    shared: Arc<Shared>,
    /// `/exec/ID` or `/containers/NAME`: what is done with either has the same names.
    path: String,
    /// Whether it is a container of its own.
    is_container: bool,
}

/// Docker as an executor.
#[derive(Debug)]
struct Native {
    shared: Arc<Shared>,
    settings: Arc<config::Docker>,
    target: Target,
    lease: Lease,
}

/// Makes a container, unless each session has its own, and the endpoint that serves its client.
pub(super) fn start(docker: &Docker, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
    let (api, settings) = (&docker.shared.api, &docker.settings);
    let platform = settings.platform.as_deref();
    let image = image::resolve(api, settings, settings.image_pull_policy, waiter)?;
    present(waiter)?;
    let mut lease = Lease::new(&docker.shared, request);
    let settings = &Arc::new(sidecars::start(docker, &mut lease, request, waiter)?);
    let labels = docker.labels(request);
    let create = format!(
        "/containers/create?name={}{}",
        lease.container,
        platform.map_or_else(String::new, |platform| format!("&platform={}", encode(platform)))
    );
    let target = match docker.scope() {
        Scope::Connection => {
            lease.created = true;
            let deadline = Deadline::after(settings.container_start);
            api.create_container(&lease.container, &create, &body::idle(settings, labels), deadline)?;
            docker.put_files(&lease.container, &request.metadata, deadline)?;
            present(waiter)?;
            let start = format!("/containers/{}/start", lease.container);
            api.call("start the container (docker.execution.idleCommand)", "POST", &start, None, deadline)?;
            Target::Running(lease.container.clone())
        }
        Scope::Session => Target::New {
            create,
            labels,
            has_command: body::has_command(settings, &image),
            metadata: Arc::clone(&request.metadata),
        },
    };
    lease.attempts = removal::ATTEMPTS;
    let (shared, settings) = (Arc::clone(&docker.shared), Arc::clone(settings));
    let executor = Native { shared, settings, target, lease };
    native::start(&request.connection, Box::new(executor)).map_err(|source| Error::Native { source })
}

impl Native {
    /// Starts a program: what it is, and the connection to its streams.
    fn try_run(&mut self, command: &Command) -> Result<(Program, Upgraded), Error> {
        let (api, deadline) = (&self.shared.api, Deadline::after(self.settings.container_start));
        let stream = |path: &str| format!("{path}?stream=true&stdin=true&stdout=true&stderr=true");
        let program = |path, is_container| Program { shared: Arc::clone(&self.shared), path, is_container };
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
                    "Cmd": command.words,
                });
                let answer = api.call("make a program ready", "POST", &create, Some(&body), deadline)?;
                let id = answer.get("Id").and_then(Value::as_str).unwrap_or_default();
                let path = format!("/exec/{}", encode(id));
                let body = json!({ "Detach": false, "Tty": command.size.is_some(), "ConsoleSize": command.size });
                let connection = api.hijack("start a program", &format!("{path}/start"), Some(&body), deadline)?;
                Ok((program(path, false), connection))
            }
            Target::New { create, labels, metadata, .. } => {
                let words = command.words.clone();
                let body = body::program(&self.settings, labels.clone(), words, &command.environment, command.size);
                self.lease.created = true;
                api.create_container(&self.lease.container, create, &body, deadline)?;
                put_files(api, user(&self.settings.container), &self.lease.container, metadata, deadline)?;
                let path = format!("/containers/{}", self.lease.container);
                let attach = stream(&format!("{path}/attach"));
                let connection = api.hijack("attach to the container", &attach, None, deadline)?;
                api.call("start the container", "POST", &format!("{path}/start"), None, deadline)?;
                Ok((program(path, true), connection))
            }
        }
    }
}

impl Executor for Native {
    fn shell(&self) -> Vec<String> {
        match (self.settings.shell_command.as_slice(), &self.target) {
            ([], Target::New { has_command: true, .. }) => Vec::new(),
            ([], _) => vec!["/bin/sh".into()],
            (command, _) => command.to_vec(),
        }
    }

    fn sftp(&self) -> String {
        self.settings.all_subsystems().remove("sftp").unwrap_or_default()
    }

    fn run(&mut self, command: &Command) -> Result<Running, Failure> {
        match self.try_run(command) {
            Ok((program, stream)) => {
                let demultiplexer = command.size.is_none().then(Demultiplexer::default);
                let connection = Connection { stream, demultiplexer };
                Ok(Running { program: Arc::new(program), connection: Box::new(connection) })
            }
            Err(error) => {
                log::error!("{error}");
                Err(match &error {
                    Error::Api { status: 400, message, .. } if message.contains("permission denied") => {
                        Failure::NotExecutable
                    }
                    Error::Api { status: 400, .. } => Failure::NotFound,
                    _ => Failure::Other,
                })
            }
        }
    }
}

impl native::Program for Program {
    fn resize(&self, [rows, columns]: [u16; 2]) {
        let (api, path) = (&self.shared.api, format!("{}/resize?h={rows}&w={columns}", self.path));
        // A program that has just ended has no terminal any more.
        if let Err(error) = api.call("resize a terminal", "POST", &path, None, api.deadline()) {
            log::debug!("{error}");
        }
    }

    fn signal(&self, signal: Signal) -> bool {
        let path = format!("{}/kill?signal=SIG{}", self.path, signal_name(signal.as_raw()));
        let api = &self.shared.api;
        self.is_container && api.call("signal the container", "POST", &path, None, api.deadline()).is_ok()
    }

    fn end(&self) -> End {
        let (api, deadline) = (&self.shared.api, self.shared.api.deadline());
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

/// The connection to a program. What has a terminal comes as it is, and else in pieces.
struct Connection {
    stream: Upgraded,
    demultiplexer: Option<Demultiplexer>,
}

impl Attached for Connection {
    fn read(&mut self, take: &mut dyn FnMut(Output, &[u8])) -> io::Result<bool> {
        let mut buffer = [0; Transport::WHOLE_READ];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            // A container that is removed may end so.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(again(error)),
        };
        let mut bytes = buffer.get(..count).unwrap_or_default();
        let Some(demultiplexer) = &mut self.demultiplexer else {
            take(Output::Standard, bytes);
            return Ok(true);
        };
        let malformed = |_| io::Error::other("the daemon's stream is malformed");
        while let Some((kind, part)) = demultiplexer.next(&mut bytes).map_err(malformed)? {
            take(if kind == Kind::Output { Output::Standard } else { Output::Error }, part);
        }
        Ok(true)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(bytes.len())
            }
            result => result.map_err(again),
        }
    }

    fn end_input(&mut self) {
        // It fails where the program has ended.
        let _ = self.stream.shutdown_write();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What was interrupted is done again by whoever polls.
fn again(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::Interrupted { io::ErrorKind::WouldBlock.into() } else { error }
}
