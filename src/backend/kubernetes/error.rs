//! What goes wrong with Kubernetes, told to the operator in full and to the user in a few words.

use std::path::PathBuf;
use std::time::Duration;

use crate::http::websocket;
use crate::{backend, http};

/// Why the Kubernetes backend failed.
#[derive(Debug)]
pub enum Error {
    /// A setting, or a file that it names; the text says which and what to do.
    Settings(String),
    /// A credential plugin.
    Plugin {
        /// The program.
        command: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// The API server is down, or may not be reached.
    Unavailable {
        /// Where it should be.
        server: String,
        /// What connecting said.
        source: http::Error,
    },
    /// A call that got no whole answer.
    Http {
        /// What was being done.
        step: &'static str,
        /// Why there is no answer.
        source: http::Error,
    },
    /// A call that the API server refused.
    Api {
        /// What was being done.
        step: &'static str,
        /// The HTTP status.
        status: u16,
        /// The reason in one word, as in `metav1.Status`; may be empty.
        reason: String,
        /// The message.
        message: String,
    },
    /// A call whose answer does not have the form that the API promises.
    Answer {
        /// What was being done.
        step: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A stream to a container.
    Stream {
        /// What was being done.
        step: &'static str,
        /// What happened to it.
        source: websocket::Error,
    },
    /// A program in a container that was to prepare something.
    Command {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        detail: String,
    },
    /// The image cannot be pulled, or is not there.
    Image {
        /// The image.
        image: String,
        /// The kubelet's reason, such as ErrImagePull.
        reason: String,
        /// The kubelet's message.
        message: String,
    },
    /// The pod cannot start, and that will not change by waiting.
    NotStarting {
        /// A word of Kubernetes', such as CreateContainerConfigError.
        reason: String,
        /// Its message.
        message: String,
    },
    /// The pod ended before its agent was there.
    Ended {
        /// What Kubernetes says of it.
        message: String,
    },
    /// No running pod for the user.
    NoPod {
        /// Its name or labels, or else the user's name.
        name: String,
    },
    /// More than one.
    ManyPods {
        /// The labels that they have.
        labels: String,
    },
    /// The pod is not ready in time.
    TimedOut {
        /// How long it had.
        after: Duration,
        /// What was last heard of it; may be empty.
        last: String,
    },
    /// The agent's binary cannot be read.
    Agent {
        /// The binary.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another server serves as the same instance.
    Instance {
        /// The instance.
        instance: String,
        /// The lease that says so.
        lease: String,
        /// Who has it.
        holder: String,
    },
    /// Native mode's own end of a connection.
    Native {
        /// What the system said.
        source: std::io::Error,
    },
    /// The user went away while the pod was being made.
    Gone,
}

impl Error {
    /// Whether it is the API server's answer with this status.
    pub(super) fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Error::Api { status, .. } if *status == wanted)
    }

    /// Whether the API server has said no.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Error::Api { status: 400..=499, .. })
    }

    /// Whether the API server says nothing.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Http { source: http::Error::TimedOut(_), .. })
    }

    /// What the SSH user is told.
    fn user(&self) -> String {
        match self {
            Error::Settings(_) | Error::Plugin { .. } | Error::Instance { .. } => {
                "the container service is misconfigured".into()
            }
            Error::Unavailable { .. } => "the container service is unavailable".into(),
            Error::Http { source: http::Error::TimedOut(_), .. } => "the container service does not answer".into(),
            Error::Api { status: 401 | 403, message, .. } if !message.contains("exceeded quota") => {
                "the container service refuses to start containers".into()
            }
            Error::Api { status: 403, .. } => "no room: the quota is used up".into(),
            Error::Image { image, .. } => format!("image {image} cannot be pulled"),
            Error::NotStarting { reason, .. } => format!("the container cannot be started ({reason})"),
            Error::Ended { .. } => "the container ended before it was ready".into(),
            Error::NoPod { name } => format!("there is no container for {}", name.escape_debug()),
            Error::ManyPods { .. } => "there is more than one container for you".into(),
            Error::TimedOut { .. } => "the container was not ready in time".into(),
            Error::Gone => "cancelled".into(),
            Error::Http { .. }
            | Error::Api { .. }
            | Error::Answer { .. }
            | Error::Stream { .. }
            | Error::Command { .. }
            | Error::Native { .. }
            | Error::Agent { .. } => "the container cannot be started".into(),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("kubernetes: ")?;
        match self {
            Error::Settings(detail) => f.write_str(detail),
            Error::Plugin { command, detail } => {
                write!(f, "the credential plugin {} failed: {detail}", command.display())
            }
            Error::Unavailable { server, source } => write!(f, "the API server at {server} is unavailable: {source}"),
            Error::Http { step, source } => write!(f, "cannot {step}: {source}"),
            Error::Api { step, status, reason, message } => {
                write!(f, "cannot {step}: {message} (status {status}")?;
                if !reason.is_empty() {
                    write!(f, ", {reason}")?;
                }
                f.write_str(")")
            }
            Error::Answer { step, detail } => write!(f, "cannot {step}: unexpected answer: {detail}"),
            Error::Stream { step, source } => write!(f, "cannot {step}: {source}"),
            Error::Command { step, detail } => write!(f, "cannot {step}: {detail}"),
            Error::Image { image, reason, message } => write!(f, "image {image}: {reason}: {message}"),
            Error::NotStarting { reason, message } => write!(f, "the pod cannot start: {reason}: {message}"),
            Error::Ended { message } => write!(f, "the pod ended before its agent was there: {message}"),
            Error::NoPod { name } => write!(f, "no pod is running for {name:?}"),
            Error::ManyPods { labels } => write!(f, "more than one pod with the labels {labels} is running"),
            Error::TimedOut { after, last } => {
                write!(f, "the pod was not ready within {} s", after.as_secs_f32())?;
                if !last.is_empty() {
                    write!(f, ", and the last that was heard of it is: {last}")?;
                }
                f.write_str("; raise kubernetes.timeouts.podStart if it is slow")
            }
            Error::Agent { path, source } => write!(f, "cannot read the agent's binary {}: {source}", path.display()),
            Error::Instance { instance, lease, holder } => write!(
                f,
                "another berth serves as instance {instance:?} (lease {lease}, held by {holder}), and each would remove the \
                 other's pods; give one of them another name (instance)"
            ),
            Error::Native { source } => write!(f, "cannot serve without an agent: {source}"),
            Error::Gone => f.write_str("the user went away while the pod was being made"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for backend::Error {
    fn from(error: Error) -> backend::Error {
        backend::Error::new(error.user(), error.to_string())
    }
}
