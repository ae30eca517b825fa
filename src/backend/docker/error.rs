//! What goes wrong with Docker, told to the operator in full and to the user in a few words.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::{backend, http};

/// Why the Docker backend failed.
#[derive(Debug)]
pub enum Error {
    /// A setting that cannot work; the text says which and what to do.
    Settings(String),
    /// The daemon is down, or may not be reached.
    Unavailable {
        /// Where it should be.
        host: String,
        /// What connecting said.
        source: http::Error,
    },
    /// The daemon's API is older than berth can use.
    Version {
        /// The daemon's newest version.
        daemon: String,
    },
    /// A call that got no whole answer.
    Http {
        /// What was being done.
        step: &'static str,
        /// Why there is no answer.
        source: http::Error,
    },
    /// A call that the daemon refused.
    Api {
        /// What was being done.
        step: &'static str,
        /// The answer's status.
        status: u16,
        /// The daemon's message.
        message: String,
    },
    /// A call whose answer does not have the form that the API promises.
    Answer {
        /// What was being done.
        step: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// No such image here, or in its registry if it was pulled.
    ImageNotFound {
        /// The image.
        image: String,
        /// The daemon's message.
        message: String,
    },
    /// The image exists, and pulling it failed.
    Pull {
        /// The image.
        image: String,
        /// What the daemon, or its registry, said.
        message: String,
    },
    /// No such container for the user.
    NoContainer {
        /// Its name, or else the user's.
        name: String,
    },
    /// More than one container for the user.
    ManyContainers {
        /// The labels that they have.
        labels: String,
    },
    /// The container does not run.
    NotRunning {
        /// Its name.
        name: String,
        /// What it does: the daemon's word.
        status: String,
    },
    /// The agent cannot be copied into the container.
    ReadOnly {
        /// Its name.
        name: String,
        /// What the daemon says.
        reason: String,
    },
    /// A sidecar does not start, or does not get ready.
    Sidecar {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The container ended before its agent connected.
    Exited {
        /// Its exit status; unknown if the daemon had removed it already.
        status: Option<i64>,
    },
    /// The container runs, and its agent did not connect in time.
    NotConnected(Duration),
    /// The run directory, or the agent's socket in it.
    Socket {
        /// The directory or socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent's binary cannot be read.
    Agent {
        /// The binary.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Native mode's own end of a connection.
    Native {
        /// What the system said.
        source: io::Error,
    },
    /// The user went away while the container was being made.
    Gone,
}

impl Error {
    /// Whether it is the daemon's answer with this status.
    pub(super) fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Error::Api { status, .. } if *status == wanted)
    }

    /// What the SSH user is told.
    fn user(&self) -> String {
        match self {
            Error::Settings(_) | Error::Version { .. } => "the container service is misconfigured".into(),
            Error::Unavailable { .. } => "the container service is unavailable".into(),
            Error::Http { source: http::Error::TimedOut(_), .. } => "the container service does not answer".into(),
            Error::ImageNotFound { image, .. } => format!("image {image} not found"),
            Error::Pull { image, .. } => format!("image {image} cannot be pulled"),
            Error::NoContainer { name } => format!("there is no container for {}", name.escape_debug()),
            Error::ManyContainers { .. } => "there is more than one container for you".into(),
            Error::NotRunning { name, .. } => format!("container {name} is not running"),
            Error::ReadOnly { name, .. } => format!("container {name} is read-only, and cannot be entered"),
            Error::Sidecar { .. } => "what the container needs beside it cannot be started".into(),
            Error::Exited { .. } => "the container ended before it was ready".into(),
            Error::NotConnected(_) => "the container was not ready in time".into(),
            Error::Gone => "cancelled".into(),
            Error::Http { .. }
            | Error::Api { .. }
            | Error::Answer { .. }
            | Error::Socket { .. }
            | Error::Native { .. }
            | Error::Agent { .. } => "the container cannot be started".into(),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("docker: ")?;
        match self {
            Error::Settings(detail) => f.write_str(detail),
            Error::Unavailable { host, source } => {
                write!(f, "the daemon at {host} is unavailable: {source}")?;
                match source {
                    http::Error::Connect(_) if host.starts_with("unix:") => {
                        f.write_str("; is it running, and may berth open its socket?")
                    }
                    http::Error::Connect(_) => f.write_str("; is it running, and does it listen there?"),
                    _ => Ok(()),
                }
            }
            Error::Version { daemon } => {
                write!(f, "the daemon's API version {daemon} is too old: berth needs 1.25 (Docker 1.13) or newer")
            }
            Error::Http { step, source } => write!(f, "cannot {step}: {source}"),
            Error::Api { step, status, message } => write!(f, "cannot {step}: {message} (status {status})"),
            Error::Answer { step, detail } => write!(f, "cannot {step}: unexpected answer: {detail}"),
            Error::ImageNotFound { image, message } => {
                write!(f, "image {image} not found; pull it or set imagePullPolicy ({message})")
            }
            Error::Pull { image, message } => write!(f, "cannot pull image {image}: {message}"),
            Error::NoContainer { name } => write!(f, "there is no container for {name:?}, or none that it may have"),
            Error::ManyContainers { labels } => write!(f, "more than one container has the labels {labels}"),
            Error::NotRunning { name, status } => write!(f, "container {name} is not running: it is {status}"),
            Error::ReadOnly { name, reason } => write!(
                f,
                "the agent cannot be copied into container {name}; give it a writable /tmp, as a volume: {reason}"
            ),
            Error::Sidecar { name, problem } => write!(f, "sidecar {name}: {problem}"),
            Error::Exited { status: Some(status) } => {
                write!(f, "the container exited with status {status} before its agent connected")
            }
            Error::Exited { status: None } => f.write_str("the container ended before its agent connected"),
            Error::NotConnected(time) => write!(
                f,
                "the container's agent did not connect within {} s; raise docker.timeouts.containerStart if it is slow",
                time.as_secs_f32()
            ),
            Error::Socket { path, source } => write!(f, "cannot use {}: {source}", path.display()),
            Error::Agent { path, source } => write!(f, "cannot read the agent's binary {}: {source}", path.display()),
            Error::Native { source } => write!(f, "cannot serve without an agent: {source}"),
            Error::Gone => f.write_str("the user went away while the container was being made"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for backend::Error {
    fn from(error: Error) -> backend::Error {
        backend::Error::new(error.user(), error.to_string())
    }
}
