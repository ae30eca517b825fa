//! Who owns what was created.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::api::Api;
use super::election::Election;
use super::{Error, outlook};
use crate::backend::in_use::{Names, Use};
use crate::backend::{self, Request, removal};
use crate::http::{Deadline, encode};

/// How often it is looked why a pod ends, and how long is waited between: kubelets tell of it some seconds later.
const LOOKS: usize = 5;
const INTERVAL: Duration = Duration::from_secs(1);

/// How long programs have to end, in seconds: those that are left have been hung up with their connection.
const GRACE: u32 = 1;

/// What leases need, too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) election: Arc<Election>,
    stop: Duration,
    /// The connections that have leases: not to be reaped.
    pub(super) live: Names,
}

impl Shared {
    /// `stop` is how long a removal may take.
    pub(super) fn new(api: Api, election: Arc<Election>, stop: Duration, live: Names) -> Shared {
        Shared { api, election, stop, live }
    }

    /// Removes a pod. One that is gone is fine.
    pub(super) fn remove(&self, namespace: &str, pod: &str) -> Result<(), Error> {
        let path = format!("/v1/namespaces/{}/pods/{}", encode(namespace), encode(pod));
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": GRACE });
        match self.api.call("remove the pod", "DELETE", &path, Some(&options), Deadline::after(self.stop)) {
            Err(error) if !error.is_status(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// Tells the log why a connection's pod has ended, if that can be known.
    pub(super) fn tell_end(&self, connection: &str, namespace: &str, pod: &str) {
        // A list takes no right that starting did not take.
        let selector = encode(&format!("metadata.name={pod}"));
        let path = format!("/v1/namespaces/{}/pods?fieldSelector={selector}", encode(namespace));
        let look = || -> Result<Option<String>, Error> {
            let list = self.api.call("look at the pod", "GET", &path, None, self.api.deadline())?;
            Ok(outlook::items(&list["items"]).next().map_or(Some(outlook::DELETED.to_owned()), outlook::end))
        };
        let mut end = look();
        for _ in 1..LOOKS {
            if !matches!(end, Ok(None)) {
                break;
            }
            thread::sleep(INTERVAL);
            end = look();
        }
        match end {
            Ok(Some(end)) => log::info!("{connection}: pod {pod} ends: {end}"),
            Ok(None) => log::info!("{connection}: pod {pod} goes on, or does not say why it ends"),
            Err(error) => log::info!("{connection}: it is not known why pod {pod} ends: {error}"),
        }
    }
}

/// Owns a connection's pod, and removes it when dropped; or is in one that stays.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    connection: Use,
    namespace: String,
    pod: String,
    has_ended: bool,
    /// Whether there may be a pod to remove: set before it is asked for, since the answer may be lost.
    pub(super) created: bool,
}

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>, request: &Request, namespace: &str, pod: &str) -> Lease {
        Lease {
            shared: Arc::clone(shared),
            connection: shared.live.begin(&request.connection),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            has_ended: false,
            created: false,
        }
    }
}

impl backend::Lease for Lease {
    fn ended(&mut self) {
        self.has_ended = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.has_ended {
            self.shared.tell_end(self.connection.name(), &self.namespace, &self.pod);
        }
        if self.created {
            let remove = || self.shared.remove(&self.namespace, &self.pod);
            removal::attempt(&format!("pod {}", self.pod), removal::ATTEMPTS, remove);
        }
    }
}
