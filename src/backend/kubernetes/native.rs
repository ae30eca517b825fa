//! Native mode: programs that the API executes in the pod's container, which is kept running by a command for that.
//!
//! The API knows no variables for them: the image's `env` sets these. It has no signals either.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use super::exec::{self, Place, Streams};
use super::lease::{Lease, Shared};
use super::{Error, Kubernetes};
use crate::backend::native::{self, Attached, Command, End, Executor, Failure, Output, Running};
use crate::backend::{Container, Request};
use crate::config;
use crate::http::Deadline;

const STEP: &str = "start a program in the pod";

/// What runs commands, and prepares for them.
const SHELL: &str = "/bin/sh";

/// Runs the words that follow, and stays for as long as they do. containerd ends the input of what it executes as soon as
/// nobody has one of the outputs any more, and a shell gives its place to the command that it ends with: so `cat >file`
/// would lose most of its input. This shell keeps both outputs open. What it would say of a signal that has ended the
/// command is not the command's, and not for the user.
const HOLD: &str = "exec 3>&2 2>/dev/null; (exec \"$@\" 2>&3 3>&-); exit $?";

/// Runs the words that follow two numbers on a terminal of so many rows and columns. The API sets a size only once the
/// program runs, which may have looked before.
const SET_SIZE: &str = "stty rows \"$1\" cols \"$2\" 2>/dev/null; shift 2; exec \"$@\"";

/// Kubernetes as an executor.
#[derive(Debug)]
struct Native {
    shared: Arc<Shared>,
    settings: Arc<config::Kubernetes>,
    place: Place,
    _lease: Lease,
}

/// Makes the endpoint that serves a client by programs in this place.
pub(super) fn start(cluster: &Kubernetes, request: &Request, place: Place, lease: Lease) -> Result<Container, Error> {
    let (shared, settings) = (Arc::clone(&cluster.shared), Arc::clone(&cluster.settings));
    let executor = Native { shared, settings, place, _lease: lease };
    native::start(&request.connection, Box::new(executor)).map_err(|source| Error::Native { source })
}

impl Executor for Native {
    fn shell(&self) -> Vec<String> {
        match self.settings.shell_command.as_slice() {
            [] => vec![SHELL.into()],
            command => command.to_vec(),
        }
    }

    fn sftp(&self) -> String {
        self.settings.all_subsystems().remove("sftp").unwrap_or_default()
    }

    fn run(&mut self, command: &Command) -> Result<Running, Failure> {
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let deadline = Deadline::after(self.settings.http);
        let streams = Streams::start(&self.shared.api, STEP, &self.place, &words, command.size.is_some(), deadline);
        let program = streams.map_err(|error| error.to_string()).and_then(|streams| {
            let fd = streams.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
            Ok((Arc::new(Program(Mutex::new(streams))), fd))
        });
        match program {
            Ok((program, fd)) => {
                let connection = Connection { program: program.clone(), fd, is_sftp: command.is_sftp };
                Ok(Running { program, connection: Box::new(connection) })
            }
            Err(error) => {
                log::error!("{error}");
                Err(Failure::Other)
            }
        }
    }
}

/// What the API is to execute.
fn words(command: &Command) -> Vec<String> {
    let prepared = match command.size {
        // What has its own shell may be in an image without this one.
        _ if command.words.first().is_none_or(|word| word != SHELL) => Vec::new(),
        Some([rows, columns]) => {
            [SHELL, "-c", SET_SIZE, "sh", &rows.to_string(), &columns.to_string()].map(str::to_owned).into()
        }
        None => [SHELL, "-c", HOLD, "sh"].map(str::to_owned).into(),
    };
    let command = command.environment.iter().chain(&command.words).cloned();
    // A variable's name is the client's, and may begin like an option.
    prepared.into_iter().chain(["env", "--"].map(str::to_owned)).chain(command).collect()
}

/// A program. Its streams are shared by the thread that carries them and the one that serves the client: nobody waits for
/// the network while he has them.
#[derive(Debug)]
struct Program(Mutex<Streams>);

impl Program {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl native::Program for Program {
    fn resize(&self, size: [u16; 2]) {
        // A program that has just ended has no terminal any more.
        if let Err(error) = self.streams().resize(size) {
            log::debug!("kubernetes: cannot resize a terminal: {error}");
        }
    }

    fn signal(&self, _signal: Signal) -> bool {
        false
    }

    fn end(&self) -> End {
        match self.streams().end() {
            Some(exec::End::Exit(status)) => End::Status(u32::try_from(*status).unwrap_or(255)),
            Some(exec::End::Failed(message)) => {
                log::warn!("kubernetes: a program in a pod: {message}");
                match failure(message) {
                    Failure::NotFound => End::Status(127),
                    Failure::NotExecutable => End::Status(126),
                    Failure::Other => End::Lost,
                }
            }
            None => End::Lost,
        }
    }
}

/// Why a program was not started, by a runtime's words.
fn failure(message: &str) -> Failure {
    if message.contains("not found") && !message.contains("container not found") || message.contains("no such file") {
        Failure::NotFound
    } else if message.contains("permission denied") {
        Failure::NotExecutable
    } else {
        Failure::Other
    }
}

/// The connection to a program.
struct Connection {
    program: Arc<Program>,
    fd: OwnedFd,
    is_sftp: bool,
}

impl Attached for Connection {
    fn read(&mut self, take: &mut dyn FnMut(Output, &[u8])) -> io::Result<bool> {
        self.program.streams().read(take)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.program.streams().write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(bytes.len()),
            result => result,
        }
    }

    fn end_input(&mut self) {
        let mut streams = self.program.streams();
        // It fails where the program has ended.
        match streams.end_input() {
            Ok(false) if self.is_sftp => drop(streams.close()),
            Ok(false) => {
                log::info!("kubernetes: a program cannot be told that its input has ended; Kubernetes 1.30 can")
            }
            Ok(true) | Err(_) => {}
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Failure, HOLD, SET_SIZE, failure, words};

    #[test]
    fn a_shell_prepares_for_commands_but_not_where_there_may_be_none() {
        let command = |words: &[&str], size| Command {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            is_sftp: false,
            environment: vec!["A=1".into()],
            size,
        };
        let own = ["/bin/sh", "-c", "cat >file"];
        let expected = ["/bin/sh", "-c", HOLD, "sh", "env", "--", "A=1", "/bin/sh", "-c", "cat >file"];
        assert_eq!(words(&command(&own, None)), expected);
        let expected = ["/bin/sh", "-c", SET_SIZE, "sh", "24", "80", "env", "--", "A=1", "/bin/sh", "-c", "cat >file"];
        assert_eq!(words(&command(&own, Some([24, 80]))), expected);
        assert_eq!(words(&command(&["/bin/bash"], None)), ["env", "--", "A=1", "/bin/bash"]);
    }

    #[test]
    fn no_name_of_a_variable_is_an_option() {
        for name in ["-Sfalse", "--ignore-environment", "-", "-u"] {
            let command = ["/bin/sh", "-c", "echo started"].map(str::to_owned).into();
            let command =
                Command { words: command, is_sftp: false, environment: vec![format!("{name}=1")], size: None };
            let words = words(&command);
            let output = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
            assert_eq!(output.stdout, b"started\n", "{name}");
        }
    }

    #[test]
    fn a_runtimes_words_tell_what_was_wrong() {
        let failed = |words: &str| failure(&format!("failed to exec in container: {words}"));
        assert_eq!(failed("exec: \"env\": executable file not found in $PATH"), Failure::NotFound);
        assert_eq!(failed("exec: \"/env\": stat /env: no such file or directory"), Failure::NotFound);
        assert_eq!(failed("exec: \"/env\": permission denied"), Failure::NotExecutable);
        assert_eq!(failure("container not found (\"shell\")"), Failure::Other);
        assert_eq!(failure("the connection was closed"), Failure::Other);
    }
}
