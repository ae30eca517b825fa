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
use super::{Docker, Error, Failed, Lease, Shared, body, encode, image, present, sidecars};
use crate::agent::signal_name;
use crate::backend::native::{self, Attached, Command, End, Executor, Failure, KILLED, Output, Running};
use crate::backend::{Backend, Container, Request, Scope, Waiter};
use crate::config;
use crate::http::{Deadline, Transport, Upgraded};
use crate::metadata::Metadata;

/// How often it is looked whether an executed program has an exit status, once its output has ended.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

/// How long is waited after a look that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How long a container's end may take to be known after that of what was killed by it.
const LAST_BREATH: Duration = Duration::from_millis(250);

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
    /// The container that it is executed in; none where it is one itself.
    container: Option<String>,
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
pub(super) fn start(docker: &Docker, request: &Request, waiter: &dyn Waiter) -> Result<Container, Failed> {
    let mut lease = Lease::new(&docker.shared, request);
    match prepare(docker, &mut lease, request, waiter) {
        Ok((target, settings)) => {
            let executor = Native { shared: Arc::clone(&docker.shared), settings, target, lease: lease.kept() };
            let container = native::start(&request.connection, Box::new(executor));
            Ok(container.map_err(|source| Error::Native { source })?)
        }
        Err(error) => Err(Failed { error, rest: Some(Box::new(lease)) }),
    }
}

/// Makes the container in which programs are to run, unless each has its own.
fn prepare(
    docker: &Docker,
    lease: &mut Lease,
    request: &Request,
    waiter: &dyn Waiter,
) -> Result<(Target, Arc<config::Docker>), Error> {
    let (api, settings) = (&docker.shared.api, &docker.settings);
    let platform = settings.platform.as_deref();
    let image = image::resolve(api, settings, settings.image_pull_policy, waiter)?;
    present(waiter)?;
    let settings = Arc::new(sidecars::start(docker, lease, request, waiter)?);
    let labels = body::of_user(docker.labels(request), request);
    let create = format!(
        "/containers/create?name={}{}",
        lease.container,
        platform.map_or_else(String::new, |platform| format!("&platform={}", encode(platform)))
    );
    let target = match docker.scope() {
        Scope::Connection => {
            lease.created = true;
            let deadline = Deadline::after(settings.container_start);
            api.create_container(&lease.container, &create, &body::idle(&settings, labels), deadline)?;
            docker.put_files(&lease.container, &request.metadata, deadline)?;
            present(waiter)?;
            let start = format!("/containers/{}/start", lease.container);
            api.call("start the container (docker.execution.idleCommand)", "POST", &start, None, deadline)?;
            Target::Running(lease.container.clone())
        }
        Scope::Session => Target::New {
            create,
            labels,
            has_command: body::has_command(&settings, &image),
            metadata: Arc::clone(&request.metadata),
        },
    };
    Ok((target, settings))
}

impl Native {
    /// Starts a program: what it is, and the connection to its streams.
    fn try_run(&mut self, command: &Command) -> Result<(Program, Upgraded), Error> {
        let (api, deadline) = (&self.shared.api, Deadline::after(self.settings.container_start));
        let stream = |path: &str| format!("{path}?stream=true&stdin=true&stdout=true&stderr=true");
        let program = |path, container| Program { shared: Arc::clone(&self.shared), path, container };
        let sizing = if api.sets_size_first()? { Vec::new() } else { command.sizing() };
        let words = [sizing.as_slice(), &command.words].concat();
        match &self.target {
            Target::Running(container) => {
                let create = format!("/containers/{}/exec", encode(container));
                let body = json!({
                    "AttachStdin": true,
                    "AttachStdout": true,
                    "AttachStderr": true,
                    "Tty": command.size.is_some(),
                    "ConsoleSize": command.size,
                    "Env": command.environment,
                    "Cmd": words,
                });
                let answer = api.call("make a program ready", "POST", &create, Some(&body), deadline)?;
                let id = answer.get("Id").and_then(Value::as_str).unwrap_or_default();
                let path = format!("/exec/{}", encode(id));
                let body = json!({ "Detach": false, "Tty": command.size.is_some(), "ConsoleSize": command.size });
                let connection = api.hijack("start a program", &format!("{path}/start"), Some(&body), deadline)?;
                Ok((program(path, Some(container.clone())), connection))
            }
            Target::New { create, labels, metadata, .. } => {
                let body =
                    body::program(&self.settings, labels.clone(), words.clone(), &command.environment, command.size);
                self.lease.created = true;
                api.create_container(&self.lease.container, create, &body, deadline)?;
                put_files(api, user(&self.settings.container), &self.lease.container, metadata, deadline)?;
                let path = format!("/containers/{}", self.lease.container);
                let attach = stream(&format!("{path}/attach"));
                let connection = api.hijack("attach to the container", &attach, None, deadline)?;
                api.call("start the container", "POST", &format!("{path}/start"), None, deadline)?;
                Ok((program(path, None), connection))
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
        self.container.is_none() && api.call("signal the container", "POST", &path, None, api.deadline()).is_ok()
    }

    fn end(&self) -> End {
        let (api, deadline) = (&self.shared.api, self.shared.api.deadline());
        let status = |answer: &Value, name: &str| {
            answer.get(name).and_then(Value::as_u64).and_then(|status| status.try_into().ok()).map(End::Status)
        };
        loop {
            let result = match &self.container {
                None => {
                    let wait = format!("{}/wait?condition=not-running", self.path);
                    api.call("learn how the container ended", "POST", &wait, None, deadline)
                        .map(|answer| status(&answer, "StatusCode"))
                }
                Some(_) => {
                    let inspect = format!("{}/json", self.path);
                    api.call("learn how the program ended", "GET", &inspect, None, deadline).map(|answer| {
                        let runs = answer.get("Running") == Some(&Value::Bool(true));
                        if runs { None } else { status(&answer, "ExitCode") }
                    })
                }
            };
            match result {
                Ok(Some(End::Status(KILLED))) if self.has_lost_its_container() => return End::Lost,
                Ok(Some(end)) => return end,
                // The output ends a little before that is known.
                Ok(None) if !deadline.has_passed() => std::thread::sleep(STATUS_INTERVAL),
                Ok(None) => return End::Abandoned,
                Err(error) if error.is_status(404) => return End::Lost,
                // The program has ended well all the same, and the daemon may be there again.
                Err(error) if RETRY_INTERVAL < deadline.remaining() => {
                    log::debug!("{error}; trying again");
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => {
                    log::warn!("{error}");
                    return End::Lost;
                }
            }
        }
    }
}

impl Program {
    /// Whether the container has ended that it was executed in: that kills all that is in it.
    fn has_lost_its_container(&self) -> bool {
        let Some(container) = &self.container else { return false };
        let wait = format!("/containers/{}/wait?condition=not-running", encode(container));
        let (api, deadline) = (&self.shared.api, Deadline::after(LAST_BREATH));
        match api.call("see whether the container still runs", "POST", &wait, None, deadline) {
            Ok(_) => true,
            Err(error) => error.is_status(404),
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
