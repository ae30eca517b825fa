//! The Docker backend: a container per connection or session, over the Engine API on a local unix socket.
//!
//! A start is: see that the image is here, create the container with the agent as its entry point, start it, and accept
//! the agent's connection on a unix socket that is mounted into the container. The agent connects a little before the
//! start call answers, so both are waited for together and the first to come decides.
//!
//! Whatever is created is owned by a lease from before its creation, and carries the instance's label: what a lease
//! could not remove, [`Backend::reap`] does.

mod agent;
mod api;
mod body;
mod daemons;
mod error;
mod image;
mod multiplex;
mod native;
mod socket;

pub use daemons::Daemons;
pub use error::Error;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;
use serde_json::{Value, json};

use crate::backend::{self, Backend, Container, Request, Scope, Waiter};
use crate::config;
use crate::config::{ExecutionMode, ImagePullPolicy};
use crate::fuzzing::Target;
use crate::http::Deadline;
use crate::turn::Turns;
use agent::Agent;
use api::{Api, encode};
use socket::Socket;

pub(crate) const FUZZ_TARGETS: &[Target] = &[("multiplex", multiplex::fuzz), ("pull", image::fuzz)];

/// How often it is looked whether the user is still there.
const WAITER_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether a container has ended whose agent has not connected, though it was started.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);
/// How often a removal is tried, and how long is waited after the first failure; each further wait is twice as long.
const REMOVE_ATTEMPTS: u32 = 5;
const REMOVE_INTERVAL: Duration = Duration::from_millis(500);
/// How many containers are removed at once. Where a class of a hundred goes home together, a daemon does it no faster
/// all at once, and Docker 20.10 can block its own network code for ever over it.
const REMOVALS: usize = 4;

/// A Docker daemon as a [`Backend`].
#[derive(Clone, Debug)]
pub struct Docker {
    settings: Arc<config::Docker>,
    instance: String,
    run_directory: PathBuf,
    agent: Arc<Agent>,
    shared: Arc<Shared>,
}

/// What leases need, too.
#[derive(Debug)]
struct Shared {
    api: Api,
    stop: Duration,
    removals: Turns,
    /// How many leases each connection has that has any: not to be reaped.
    live: Mutex<HashMap<String, usize>>,
}

impl Docker {
    /// A backend with these settings; talks to no one yet. `instance` tells this berth's containers from those of
    /// others on the same daemon. `run_directory` is this instance's own, and made with mode 0700 when it is needed; the
    /// daemon must see it at the same path. The agent is this program's own file.
    pub fn new(settings: config::Docker, instance: String, run_directory: PathBuf) -> Result<Docker, Error> {
        Docker::with_agent(settings, instance, run_directory, "/proc/self/exe".into())
    }

    /// As [`Docker::new`], with another file as the agent.
    pub fn with_agent(
        settings: config::Docker,
        instance: String,
        run_directory: PathBuf,
        agent: PathBuf,
    ) -> Result<Docker, Error> {
        body::check(&settings)?;
        // The daemon mounts from it, and has another working directory.
        let run_directory = std::path::absolute(&run_directory)
            .map_err(|source| Error::Socket { path: run_directory.clone(), source })?;
        let api = Api::new(&settings.connection, settings.http);
        let shared = Arc::new(Shared {
            api,
            stop: settings.container_stop,
            removals: Turns::new(REMOVALS, 0),
            live: Mutex::default(),
        });
        Ok(Docker { settings: Arc::new(settings), instance, run_directory, agent: Arc::new(Agent::new(agent)), shared })
    }

    /// Sees whether the daemon answers, and returns the API version that will be spoken. For a word in the log at
    /// start: a daemon that is down may come later, so a failure is no reason not to serve.
    pub fn check(&self) -> Result<String, Error> {
        self.shared.api.ping()
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
        if self.settings.disable_agent {
            return native::start(self, request, waiter);
        }
        match self.try_start(request, waiter) {
            // The agent's volume was removed behind our back, and the daemon has made an empty one in its place.
            Err(Error::Api { message, .. }) if message.contains(agent::PATH) && message.contains("no such file") => {
                log::warn!("docker: the agent is missing in its volume, which is filled again: {message}");
                self.agent.forget();
                self.try_start(request, waiter)
            }
            result => result,
        }
    }

    fn try_start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
        let (api, settings) = (&self.shared.api, &self.settings);
        let (name, platform) = (body::image(settings), settings.platform.as_deref());
        let mut image = image::resolve(api, name, platform, settings.image_pull_policy, waiter)?;
        present(waiter)?;

        let labels = body::labels(&self.instance, request);
        let platform_query = platform.map_or_else(String::new, |p| format!("&platform={}", encode(p)));
        // From here on, reaping leaves alone what carries this connection's label.
        let mut lease = Lease::new(&self.shared, request);
        let socket = Socket::listen(&self.run_directory, &request.id())?;
        let path = format!("/containers/create?name={}{platform_query}", lease.container);
        let mut pulled = settings.image_pull_policy != ImagePullPolicy::IfNotPresent;
        let deadline = loop {
            let volume = self.agent.deliver(api, name, &platform_query, &Value::Object(labels.clone()));
            present(waiter)?;
            let deadline = Deadline::after(settings.container_start);
            let created = volume.and_then(|volume| {
                let body = body::create(settings, &image, labels.clone(), &volume, socket.directory());
                lease.created = true;
                api.call("create the container", "POST", &path, Some(&body), deadline)
            });
            match created {
                // The image is here for another platform than the one that is asked for.
                Err(e) if e.is_status(404) && platform.is_some() && !pulled => {
                    log::info!("{e}; pulling it");
                    pulled = true;
                    image = image::resolve(api, name, platform, ImagePullPolicy::Always, waiter)?;
                }
                Err(e) => return Err(e),
                Ok(_) => break deadline,
            }
        };
        present(waiter)?;
        let stream = self.connect(&lease.container, &socket, deadline, waiter)?;
        lease.attempts = REMOVE_ATTEMPTS;
        Ok(Container { stream: Box::new(stream), lease: Box::new(lease) })
    }

    /// Starts a created container and accepts its agent's connection.
    fn connect(
        &self,
        container: &str,
        socket: &Socket,
        deadline: Deadline,
        waiter: &dyn Waiter,
    ) -> Result<UnixStream, Error> {
        const START: &str = "start the container";
        let api = &self.shared.api;
        let failed = |source| Error::Socket { path: socket.directory().to_owned(), source };
        let mut start = Some(api.begin(START, "POST", &format!("/containers/{container}/start"), deadline)?);
        loop {
            let listener = (socket.as_fd(), PollFlags::IN);
            let answered = match &start {
                Some(exchange) => {
                    let soon = deadline.min(Deadline::after(WAITER_INTERVAL));
                    let [_, answered] = soon.poll([listener, (exchange.as_fd(), PollFlags::IN)]).map_err(failed)?;
                    answered
                }
                None => {
                    deadline.min(Deadline::after(EXIT_INTERVAL)).poll([listener]).map_err(failed)?;
                    false
                }
            };
            if let Some(stream) = socket.accept().map_err(failed)? {
                // The call takes its own time to be answered, which nobody waits for.
                if let Some(exchange) = start {
                    exchange.abandon();
                }
                return Ok(stream);
            }
            if let Some(exchange) = start.take_if(|_| answered) {
                api.finish(START, exchange, deadline)?;
            }
            if start.is_none()
                && let Some(exited) = self.exited(container)?
            {
                // It may have connected at the last moment: then its stream tells more.
                return socket.accept().map_err(failed)?.ok_or(exited);
            }
            if deadline.has_passed() {
                return Err(Error::NotConnected(self.settings.container_start));
            }
            present(waiter)?;
        }
    }

    /// Whether a container that was started has ended.
    fn exited(&self, container: &str) -> Result<Option<Error>, Error> {
        let (api, path) = (&self.shared.api, format!("/containers/{container}/json"));
        match api.call("inspect the container", "GET", &path, None, api.deadline()) {
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
}

fn present(waiter: &dyn Waiter) -> Result<(), Error> {
    if waiter.is_gone() { Err(Error::Gone) } else { Ok(()) }
}

impl Backend for Docker {
    fn scope(&self) -> Scope {
        match self.settings.mode {
            ExecutionMode::Connection => Scope::Connection,
            ExecutionMode::Session => Scope::Session,
        }
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, backend::Error> {
        Ok(Docker::start(self, request, waiter)?)
    }

    fn reap(&self) -> Result<usize, backend::Error> {
        let api = &self.shared.api;
        socket::reap(&self.run_directory, |connection| self.shared.live().contains_key(connection));
        let filters = json!({ "label": [format!("{}={}", body::INSTANCE_LABEL, self.instance)] }).to_string();
        let path = format!("/containers/json?all=true&filters={}", encode(&filters));
        let list = api.call("list this instance's containers", "GET", &path, None, api.deadline())?;
        let (mut count, mut result) = (0, Ok(()));
        for container in list.as_array().into_iter().flatten() {
            let label = container.get("Labels").and_then(|labels| labels.get(body::CONNECTION_LABEL));
            let is_live =
                label.and_then(Value::as_str).is_some_and(|connection| self.shared.live().contains_key(connection));
            if let Some(id) = container.get("Id").and_then(Value::as_str)
                && !is_live
            {
                match self.shared.remove(id) {
                    Ok(()) => count += 1,
                    Err(e) => result = Err(e),
                }
            }
        }
        result?;
        Ok(count)
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills and removes a container with its anonymous volumes. One that is gone, or about to be, is fine.
    fn remove(&self, container: &str) -> Result<(), Error> {
        let path = format!("/containers/{}?force=true&v=true", encode(container));
        let deadline = Deadline::after(self.stop);
        match self.api.call("remove the container", "DELETE", &path, None, deadline) {
            Err(e) if !e.is_status(404) && !e.is_status(409) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Owns a connection's container, and removes it when dropped.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    connection: String,
    /// The container's name.
    container: String,
    /// Whether there may be a container: set before it is asked for, since the answer may be lost.
    created: bool,
    /// How often its removal is tried: once while its user waits for the error, more often in its own time.
    attempts: u32,
}

impl Lease {
    fn new(shared: &Arc<Shared>, request: &Request) -> Lease {
        *shared.live().entry(request.connection.clone()).or_default() += 1;
        let (connection, container) = (request.connection.clone(), format!("berth-{}", request.id()));
        Lease { shared: shared.clone(), connection, container, created: false, attempts: 1 }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let container = &self.container;
        let mut wait = REMOVE_INTERVAL;
        // A daemon that hangs must not keep the others: then it is tried all the same.
        let _turn = self.created.then(|| self.shared.removals.take(0, self.shared.stop));
        for attempt in 1..=self.attempts {
            match if self.created { self.shared.remove(container) } else { Ok(()) } {
                Ok(()) => break,
                Err(e) if attempt == self.attempts => {
                    log::error!("{e}; container {container} stays until the next reaping");
                }
                Err(e) => {
                    log::warn!("{e}; container {container}, attempt {attempt} of {}", self.attempts);
                    std::thread::sleep(wait);
                    wait *= 2;
                }
            }
        }
        let mut live = self.shared.live();
        if let Some(count) = live.get_mut(&self.connection) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.connection);
            }
        }
    }
}
