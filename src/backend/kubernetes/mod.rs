//! The Kubernetes backend: a pod per connection or session, or one that is there.
//!
//! A start is: create the pod, whose main container's command is the agent, and execute in it `berth agent join`, whose
//! standard input and output become the agent's stream. The agent comes into the pod by an init container, where an image
//! has it, or is uploaded by the first program that is executed, which takes a shell in the pod's image.
//!
//! Whatever is created is owned by a lease from before its creation, and carries the instance's label: what a lease
//! could not remove, [`Backend::reap`] does.

mod access;
mod api;
mod call;
mod candidate;
mod election;
mod error;
mod exec;
mod kubeconfig;
mod lease;
mod native;
mod outlook;
mod persistent;
mod plugin;
mod pod;
mod start;
mod warning;
mod watch;

pub use election::Elections;
pub use error::Error;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{self, Backend, Container, InUse, Request, Scope, Waiter, removal};
use crate::config::{self, ExecutionMode};
use crate::http::{Deadline, encode};
use crate::metadata::Metadata;
use api::Api;
use call::Call;
use exec::{Executed, Place};
use lease::{Lease, Shared};
use pod::Owner;
use start::{Agent, Starting};

/// How many pods are listed at once.
const PAGE: u32 = 500;

/// A Kubernetes cluster as a [`Backend`].
#[derive(Clone, Debug)]
pub struct Kubernetes {
    settings: Arc<config::Kubernetes>,
    instance: String,
    agent: PathBuf,
    shared: Arc<Shared>,
}

impl Kubernetes {
    /// A backend with these settings; talks to no one yet. `instance` tells this berth's pods from those of others in the
    /// same namespace. In `run_directory` is this server's name. What is `in_use` is not reaped. The agent is this program's
    /// own file.
    pub fn new(settings: config::Kubernetes, instance: String, run_directory: PathBuf, in_use: InUse) -> Kubernetes {
        let election = in_use.elections.stand(&settings, &instance, run_directory);
        let api = Api::new(&settings.connection, settings.http);
        let shared = Arc::new(Shared::new(api, election, settings.pod_stop, in_use.connections));
        Kubernetes { settings: Arc::new(settings), instance, agent: "/proc/self/exe".into(), shared }
    }

    /// The same cluster with other settings.
    pub fn with(&self, settings: config::Kubernetes) -> Result<Kubernetes, Error> {
        if settings.connection != self.settings.connection {
            return Err(Error::Settings("kubernetes.connection cannot be another one for one connection".into()));
        }
        Ok(Kubernetes { settings: Arc::new(settings), ..self.clone() })
    }

    /// Sees whether the API server answers, and returns its version and address. For a word in the log at start: one that
    /// is down may come later, so a failure is no reason not to serve.
    pub fn check(&self) -> Result<String, Error> {
        self.shared.api.version().map(|version| format!("kubernetes: {version}"))
    }

    /// Sees that no other server serves as this instance, and keeps others from it from here on. Waits, for some seconds,
    /// until that is known of one that may have been killed. Pods that stay are nobody's to remove: then it does nothing.
    pub fn claim(&self) -> Result<(), Error> {
        if self.settings.mode == ExecutionMode::Persistent { Ok(()) } else { self.shared.election.settle() }
    }

    fn namespace(&self) -> Result<String, Error> {
        match pod::namespace(&self.settings) {
            Some(name) => Ok(name.to_owned()),
            None => self.shared.api.namespace(),
        }
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, backend::Error> {
        if self.settings.mode == ExecutionMode::Persistent {
            return Ok(persistent::start(self, request, waiter)?);
        }
        self.shared.election.may_make()?;
        let (namespace, name) = (self.namespace()?, pod::name(&self.settings, request));
        // From here on, reaping leaves alone what carries this connection's label.
        let mut lease = Lease::new(&self.shared, request, &namespace, &name);
        match self.run(&mut lease, request, waiter, namespace, name) {
            Ok((_, Some(stream))) => Ok(Container { stream: Box::new(stream), lease: Box::new(lease) }),
            Ok((place, None)) => Ok(native::start(self, request, place, lease)?),
            Err(error) => Err(backend::Error { rest: Some(Box::new(lease)), ..error.into() }),
        }
    }

    /// Makes the lease's pod; gives where its user is, and the stream of its agent if there is to be one.
    fn run(
        &self,
        lease: &mut Lease,
        request: &Request,
        waiter: &dyn Waiter,
        namespace: String,
        name: String,
    ) -> Result<(Place, Option<Executed>), Error> {
        let (api, settings) = (&self.shared.api, &self.settings);
        let deadline = Deadline::after(settings.pod_start);
        let body = pod::body(settings, Owner::Connection(&self.instance), request, &namespace, &name);
        lease.created = true;
        let path = format!("/v1/namespaces/{}/pods", encode(&namespace));
        let answer = deadline.min(api.deadline());
        let created = api.call("create the pod", "POST", &path, Some(&body), answer).inspect_err(|error| {
            // What was refused is not there. Of a failure it is not known; but a server that does not answer would only
            // keep the user waiting, and what may be there is left to the reaper.
            lease.created = !error.is_refusal() && !error.is_silence();
        })?;
        let place = Place { namespace, pod: name, container: pod::console_name(settings, &body["spec"]) };
        let call = Call { api, place: &place, waiter, deadline, patience: settings.pod_start };
        let agent = match (settings.disable_agent, &settings.agent_image) {
            (true, _) => Agent::None,
            (false, Some(_)) => Agent::Installed,
            (false, None) => Agent::Uploaded(&self.agent),
        };
        let stream = Starting { call, created: &created, agent }.accept()?;
        call.put_files(&request.metadata)?;
        Ok((place, stream))
    }

    fn reap(&self) -> Result<usize, Error> {
        let election = &self.shared.election;
        let makes_pods = self.settings.mode != ExecutionMode::Persistent || election.has_begun();
        if !makes_pods || !election.may_remove()? {
            return Ok(0);
        }
        let (api, namespace) = (&self.shared.api, self.namespace()?);
        let selector = format!("{}={}", pod::INSTANCE_LABEL, pod::instance_label(&self.instance));
        let list =
            format!("/v1/namespaces/{}/pods?limit={PAGE}&labelSelector={}", encode(&namespace), encode(&selector));
        let (mut strays, mut next) = (Vec::new(), String::new());
        loop {
            let page = api.call("list this instance's pods", "GET", &format!("{list}{next}"), None, api.deadline())?;
            for pod in page["items"].as_array().into_iter().flatten() {
                let metadata = &pod["metadata"];
                let connection = metadata["labels"][pod::CONNECTION_LABEL].as_str();
                let is_live = connection.is_some_and(|connection| self.shared.live.contains(connection));
                // One that is being deleted already goes by itself.
                if let Some(name) = metadata["name"].as_str()
                    && !is_live
                    && metadata["deletionTimestamp"].is_null()
                {
                    strays.push(name.to_owned());
                }
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={}", encode(token)),
                None => break,
            }
        }
        let count = strays.len();
        let (_, result) = removal::all(strays, |name| self.shared.remove(&namespace, name));
        result.map(|()| count)
    }
}

impl Backend for Kubernetes {
    fn scope(&self) -> Scope {
        match self.settings.mode {
            ExecutionMode::Connection | ExecutionMode::Persistent => Scope::Connection,
            ExecutionMode::Session => Scope::Session,
        }
    }

    fn offers_choice(&self) -> bool {
        !self.settings.selectable.is_empty()
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        Some(self.settings.all_subsystems())
    }

    fn variables(&self, metadata: &Metadata) -> Vec<(String, String)> {
        match self.settings.mode {
            ExecutionMode::Persistent => {
                pod::variables(&self.settings, metadata).map(|(name, value)| (name.into(), value.into())).collect()
            }
            // A pod that is the user's alone is made with them.
            ExecutionMode::Connection | ExecutionMode::Session => Vec::new(),
        }
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, backend::Error> {
        Kubernetes::start(self, request, waiter)
    }

    fn reap(&self) -> Result<usize, backend::Error> {
        Ok(Kubernetes::reap(self)?)
    }
}
