//! The Docker backend: a container per connection or session, by the Engine API.
//!
//! A start is: see that the image is here, create the container with the agent as its entry point, start it, and get hold
//! of the agent's stream. With a local daemon that is a connection to a unix socket that is mounted into the container
//! (`socket`), otherwise the container's standard input and output (`attached`). The agent is there a little before
//! the start call answers, so both are waited for together and the first to come decides (`link`).
//!
//! Whatever is created is owned by a lease from before its creation, and carries the instance's label: what a lease
//! could not remove, [`Backend::reap`] does.

mod agent;
mod api;
mod archive;
mod attached;
mod body;
mod daemons;
mod error;
mod image;
mod kept;
mod lease;
mod limits;
mod link;
mod multiplex;
mod native;
mod persistent;
mod personal;
mod sidecars;
mod sign;
mod socket;

pub use daemons::Daemons;
pub use error::Error;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::backend::{self, Backend, Container, InUse, Request, Scope, Stream, Waiter, removal};
use crate::config;
use crate::config::{AgentTransport, ExecutionMode, ImagePullPolicy};
use crate::fuzzing::Target;
use crate::http::Deadline;
use crate::metadata::Metadata;
use agent::{Agent, Volume};
use api::{Api, encode};
use attached::Attached;
use lease::{Lease, Shared};
use link::{Link, Starting, present};
use sign::{Others, SERVER_LABEL, Signs};
use socket::Socket;

pub(crate) const FUZZ_TARGETS: &[Target] = &[("multiplex", multiplex::fuzz), ("pull", image::fuzz)];

/// A Docker daemon as a [`Backend`].
#[derive(Clone, Debug)]
pub struct Docker {
    settings: Arc<config::Docker>,
    instance: String,
    run_directory: PathBuf,
    agent: Arc<Agent>,
    /// Whether agents are reached by sockets, and not by their standard input and output.
    sockets: Arc<AtomicBool>,
    /// Whether one was.
    sockets_work: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Docker {
    /// A backend with these settings; talks to no one yet. `instance` tells this berth's containers from those of
    /// others on the same daemon. `run_directory` is this instance's own, and made with mode 0700 when it is needed; the
    /// daemon must see it at the same path. What is `in_use` is not reaped. `agent` is the agent's file.
    pub fn new(
        settings: config::Docker,
        instance: String,
        run_directory: PathBuf,
        in_use: InUse,
        agent: PathBuf,
    ) -> Result<Docker, Error> {
        body::check(&settings)?;
        // The daemon mounts from it, and has another working directory.
        let run_directory = std::path::absolute(&run_directory)
            .map_err(|source| Error::Socket { path: run_directory.clone(), source })?;
        let api = Api::new(&settings.connection, settings.http);
        let sockets = settings.uses_sockets();
        let signs = Signs::new(instance.clone(), run_directory.clone());
        let shared = Arc::new(Shared::new(api, settings.container_stop, in_use, signs));
        Ok(Docker {
            settings: Arc::new(settings),
            instance,
            run_directory,
            agent: Arc::new(Agent::new(agent)),
            sockets: Arc::new(AtomicBool::new(sockets)),
            sockets_work: Arc::default(),
            shared,
        })
    }

    /// Sees whether the daemon answers, and returns the API version that will be spoken. For a word in the log at
    /// start: a daemon that is down may come later, so a failure is no reason not to serve.
    pub fn check(&self) -> Result<String, Error> {
        self.shared.api.ping().map(|version| version.to_string())
    }

    /// The labels on everything that is created for a request.
    fn labels(&self, request: &Request) -> Map<String, Value> {
        body::labels(&self.instance, self.shared.signs.server(), request)
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Failed> {
        if self.settings.disable_agent {
            return native::start(self, request, waiter);
        }
        if self.settings.mode == ExecutionMode::Persistent {
            return Ok(persistent::start(self, request, waiter)?);
        }
        let sockets = self.sockets.load(Ordering::Relaxed);
        match self.try_start(request, waiter, sockets) {
            // The agent's volume was removed behind our back, and the daemon has made an empty one in its place.
            Err(Failed { error: Error::Api { message, .. }, rest })
                if message.contains(agent::PATH) && message.contains("no such file") =>
            {
                drop(rest);
                log::warn!("docker: the agent is missing in its volume, which is filled again: {message}");
                self.agent.forget();
                self.try_start(request, waiter, sockets)
            }
            // It has another root directory: berth is in a container, or the daemon in a virtual machine.
            Err(Failed { error, rest }) if sockets && self.may_do_without_sockets(&error) => {
                drop(rest);
                let result = self.try_start(request, waiter, false);
                // An agent may have ended for another reason: then the other way does not help.
                let is_certain = !matches!(error, Error::Exited { .. });
                if is_certain || result.is_ok() {
                    log::info!(
                        "docker: the daemon does not see berth's run directory; agents use standard input and output"
                    );
                    self.sockets.store(false, Ordering::Relaxed);
                }
                result.map_err(|other| if is_certain { other } else { Failed { error, ..other } })
            }
            result => {
                self.sockets_work.fetch_or(sockets && result.is_ok(), Ordering::Relaxed);
                result
            }
        }
    }

    /// Whether there may be no run directory where the daemon is, which nobody has asked for.
    fn may_do_without_sockets(&self, error: &Error) -> bool {
        self.settings.connection.agent_transport == AgentTransport::Auto
            && match error {
                // Docker and Podman have their own words for that.
                Error::Api { message, .. } => {
                    message.contains(&*self.run_directory.to_string_lossy())
                        && ["does not exist", "no such file or directory"].iter().any(|words| message.contains(words))
                }
                // Or Podman has made an empty one, in which the agent has found no socket.
                Error::Exited { .. } => !self.sockets_work.load(Ordering::Relaxed),
                _ => false,
            }
    }

    /// Starts a container whose agent is reached by a socket, or by its standard input and output.
    fn try_start(&self, request: &Request, waiter: &dyn Waiter, by_socket: bool) -> Result<Container, Failed> {
        // From here on, reaping leaves alone what carries this connection's label.
        let mut lease = Lease::new(&self.shared, request);
        match self.run(&mut lease, request, waiter, by_socket) {
            Ok(stream) => Ok(Container { stream, lease: Box::new(lease.kept()) }),
            Err(error) => Err(Failed { error, rest: Some(Box::new(lease)) }),
        }
    }

    /// Makes and starts the lease's container; gives its agent's stream.
    fn run(
        &self,
        lease: &mut Lease,
        request: &Request,
        waiter: &dyn Waiter,
        by_socket: bool,
    ) -> Result<Box<dyn Stream>, Error> {
        const START: &str = "start the container";
        let api = &self.shared.api;
        let settings = &sidecars::start(self, lease, request, waiter)?;
        let socket = match by_socket {
            true => Some(Socket::listen(&self.run_directory, &request.id())?),
            false => None,
        };
        let deadline = self.create(lease, settings, request, socket.as_ref(), waiter)?;
        self.put_files(&lease.container, &request.metadata, deadline)?;
        present(waiter)?;
        let container = format!("/containers/{}", lease.container);
        // Before it starts, so that nothing is lost of what the agent says.
        let mut link: Box<dyn Link> = match socket {
            Some(socket) => Box::new(socket),
            None => {
                let path = format!("{container}/attach?stream=1&stdin=1&stdout=1&stderr=1");
                let stream = api.hijack("attach to the container", &path, None, deadline)?;
                Box::new(Some(Attached::new(stream, &lease.container)))
            }
        };
        let starting = Starting {
            api,
            step: START,
            call: Some(api.begin(START, "POST", &format!("{container}/start"), &[], deadline)?),
            exited: &|| exited(api, &container),
            waiter,
            deadline,
            patience: settings.container_start,
        };
        starting.accept(&mut *link)
    }

    /// Creates the lease's container. Gives the time by which its agent has to be there.
    fn create(
        &self,
        lease: &mut Lease,
        settings: &config::Docker,
        request: &Request,
        socket: Option<&Socket>,
        waiter: &dyn Waiter,
    ) -> Result<Deadline, Error> {
        let api = &self.shared.api;
        let (name, platform) = (body::image(settings), settings.platform.as_deref());
        let mut image = image::resolve(api, settings, settings.image_pull_policy, waiter)?;
        present(waiter)?;
        let labels = self.labels(request);
        let platform_query = platform.map_or_else(String::new, |p| format!("&platform={}", encode(p)));
        let path = format!("/containers/create?name={}{platform_query}", lease.container);
        let mut pulled = settings.image_pull_policy != ImagePullPolicy::IfNotPresent;
        loop {
            let volume = self.deliver(settings, name, &platform_query, &labels);
            present(waiter)?;
            let deadline = Deadline::after(settings.container_start);
            let created = volume.and_then(|volume| {
                let directory = socket.map(Socket::directory);
                let labels = body::of_user(labels.clone(), request);
                let body = body::create(settings, &image, labels, &volume, directory);
                lease.created = true;
                api.create_container(&lease.container, &path, &body, deadline)?;
                self.fill(&volume, &lease.container, deadline)
            });
            match created {
                // The image is here for another platform than the one that is asked for.
                Err(e) if e.is_status(404) && platform.is_some() && !pulled => {
                    log::info!("{e}; pulling it");
                    pulled = true;
                    image = image::resolve(api, settings, ImagePullPolicy::Always, waiter)?;
                }
                Err(e) => return Err(e),
                Ok(()) => return Ok(deadline),
            }
        }
    }

    /// What a container of these settings is to have the agent in. The one that all share is filled.
    fn deliver(
        &self,
        settings: &config::Docker,
        image: &str,
        platform: &str,
        labels: &Map<String, Value>,
    ) -> Result<Volume, Error> {
        if config::can_remount(&settings.host_config) {
            return Ok(Volume::Own);
        }
        self.agent.deliver(&self.shared.api, image, platform, &Value::Object(labels.clone())).map(Volume::Shared)
    }

    /// Puts the agent into a container that has been created, where it has a volume of its own for it.
    fn fill(&self, volume: &Volume, container: &str, deadline: Deadline) -> Result<(), Error> {
        match volume {
            Volume::Own => self.agent.fill_own(&self.shared.api, container, deadline),
            Volume::Shared(_) => Ok(()),
        }
    }
}

/// Why there is no container, and what there may be of it.
#[derive(Debug)]
struct Failed {
    error: Error,
    rest: Option<Box<Lease>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, rest: None }
    }
}

impl From<Failed> for backend::Error {
    fn from(Failed { error, rest }: Failed) -> backend::Error {
        let rest = rest.map(|lease| -> Box<dyn backend::Lease> { Box::new(lease.kept()) });
        backend::Error { rest, ..error.into() }
    }
}

/// Whether a container that was started has ended. `path` is its own in the API.
fn exited(api: &Api, path: &str) -> Result<Option<Error>, Error> {
    match api.call("inspect the container", "GET", &format!("{path}/json"), None, api.deadline()) {
        Ok(answer) => {
            let state = answer.get("State");
            let field = |name| state.and_then(|state| state.get(name));
            let ended = field("Running") == Some(&Value::Bool(false));
            Ok(ended.then(|| Error::Exited { status: field("ExitCode").and_then(Value::as_i64) }))
        }
        Err(e) if e.is_status(404) => Ok(Some(Error::Exited { status: None })),
        Err(e) => Err(e),
    }
}

impl Backend for Docker {
    fn scope(&self) -> Scope {
        match self.settings.mode {
            ExecutionMode::Connection | ExecutionMode::Persistent => Scope::Connection,
            ExecutionMode::Session => Scope::Session,
        }
    }

    fn offers_choice(&self) -> bool {
        !self.settings.persistent.selectable.is_empty()
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        Some(self.settings.all_subsystems())
    }

    fn variables(&self, _metadata: &Metadata) -> Vec<(String, String)> {
        // The container has them, or what is executed in one that was there before.
        Vec::new()
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, backend::Error> {
        Ok(Docker::start(&self.personal(&request.metadata), request, waiter)?)
    }

    fn reap(&self) -> Result<usize, backend::Error> {
        let api = &self.shared.api;
        let live = &self.shared.in_use.connections;
        socket::reap(&self.run_directory, |connection| live.contains(connection));
        // Before the list: who comes later gives a sign first, too.
        let is_alone = self.shared.signs.look(api)? == Others::None;
        let filters = json!({ "label": [format!("{}={}", body::INSTANCE_LABEL, self.instance)] }).to_string();
        let path = format!("/containers/json?all=true&filters={}", encode(&filters));
        let list = api.call("list this instance's containers", "GET", &path, None, api.deadline())?;
        let (mut strays, mut result) = (Vec::new(), Ok(()));
        for container in list.as_array().into_iter().flatten() {
            let Some(id) = container.get("Id").and_then(Value::as_str) else { continue };
            let labels = container.get("Labels").unwrap_or(&Value::Null);
            if !is_alone && labels.get(SERVER_LABEL).and_then(Value::as_str) != Some(self.shared.signs.server()) {
                continue;
            }
            if labels.get(kept::KEEP_LABEL).is_some() {
                if let Err(e) = kept::reap(self, id, labels) {
                    result = Err(e);
                }
                continue;
            }
            let connection = labels.get(body::CONNECTION_LABEL).and_then(Value::as_str);
            if connection.is_none_or(|connection| !live.contains(connection)) {
                strays.push(id);
            }
        }
        let count = strays.len();
        // Podman removes no container whose network another one still has: so it is tried again as long as that helps.
        loop {
            let before = strays.len();
            let (stay, failure) = removal::all(strays, |id| self.shared.remove(id));
            strays = stay;
            if strays.is_empty() {
                break;
            }
            if strays.len() == before {
                result = failure;
                break;
            }
        }
        result?;
        self.agent.recheck(api)?;
        Ok(count)
    }
}
