//! Native mode: programs that the API executes in the pod's container, which is kept running by a command for that.
//!
//! The API knows no variables for them: the image's `env` sets these. It has no signals either.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use rustix::process::Signal;

use super::exec::{self, Executed, Place, Streams};
use super::lease::{Lease, Shared};
use super::{Error, Kubernetes};
use crate::backend::native::{self, Attached, Command, End, Executor, Failure, KILLED, Output, Running, SHELL};
use crate::backend::{Container, Lease as _, Request};
use crate::config;
use crate::http::Deadline;

const STEP: &str = "start a program in the pod";

/// Runs the words that follow, and stays for as long as they do. containerd ends the input of what it executes as soon as
/// nobody has one of the outputs any more, and a shell gives its place to the command that it ends with: so `cat >file`
/// would lose most of its input. This shell keeps both outputs open. What it would say of a signal that has ended the
/// command is not the command's, and not for the user.
const HOLD: &str = "exec 3>&2 2>/dev/null; (exec \"$@\" 2>&3 3>&-); exit $?";

/// Kubernetes as an executor.
#[derive(Debug)]
struct Native {
    shared: Arc<Shared>,
    settings: Arc<config::Kubernetes>,
    place: Place,
    lease: Lease,
    /// Whether a program has found its container gone.
    lost: Arc<AtomicBool>,
}

impl Drop for Native {
    fn drop(&mut self) {
        if self.lost.load(Ordering::Relaxed) {
            self.lease.ended();
        }
    }
}

/// Makes the endpoint that serves a client by programs in this place.
pub(super) fn start(cluster: &Kubernetes, request: &Request, place: Place, lease: Lease) -> Result<Container, Error> {
    let (shared, settings) = (Arc::clone(&cluster.shared), Arc::clone(&cluster.settings));
    let executor = Native { shared, settings, place, lease, lost: Arc::default() };
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
            let (shared, place, lost) = (Arc::clone(&self.shared), self.place.clone(), Arc::clone(&self.lost));
            Ok((Arc::new(Program { streams: Mutex::new(streams), shared, place, lost }), fd))
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
        None if command.has_shell() => [SHELL, "-c", HOLD, "sh"].map(str::to_owned).into(),
        _ => command.sizing(),
    };
    let command = command.environment.iter().chain(&command.words).cloned();
    // A variable's name is the client's, and may begin like an option.
    prepared.into_iter().chain(["env", "--"].map(str::to_owned)).chain(command).collect()
}

/// A program. Its streams are shared by the thread that carries them and the one that serves the client: nobody waits for
/// the network while he has them.
#[derive(Debug)]
struct Program {
    streams: Mutex<Streams>,
    shared: Arc<Shared>,
    place: Place,
    /// See [`Native::lost`].
    lost: Arc<AtomicBool>,
}

impl Program {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its status says.
    fn status(&self) -> End {
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

    /// Whether nothing can be executed any more where it was. What the API says of the pod is up to a second late.
    fn is_gone(&self) -> bool {
        let deadline = self.shared.api.deadline();
        let step = "see whether the pod still runs";
        let Ok(mut probe) = Executed::start(&self.shared.api, step, &self.place, &["env"], deadline) else {
            return true;
        };
        loop {
            match probe.listen() {
                Ok(true) => return false,
                Ok(false) => {
                    log::debug!("kubernetes: {}: {:?}", self.place.pod, probe.end());
                    return !matches!(probe.end(), Some(exec::End::Exit(_)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !deadline.has_passed() => {
                    if deadline.poll([(probe.as_fd(), PollFlags::IN)]).is_err() {
                        return true;
                    }
                }
                Err(_) => return true,
            }
        }
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
        let mut end = self.status();
        // A container's end kills all that is in it.
        if end == End::Status(KILLED) && self.is_gone() {
            end = End::Lost;
        }
        self.lost.fetch_or(end == End::Lost, Ordering::Relaxed);
        end
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
    use super::{Command, Failure, HOLD, failure, words};

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
        let sized = command(&own, Some([24, 80]));
        let (sizing, expected) = (sized.sizing(), ["env", "--", "A=1", "/bin/sh", "-c", "cat >file"]);
        assert_eq!(
            (words(&sized).as_slice(), sizing[4..].to_vec()),
            ([&sizing[..], &expected.map(str::to_owned)].concat().as_slice(), vec!["24".to_owned(), "80".to_owned()])
        );
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
