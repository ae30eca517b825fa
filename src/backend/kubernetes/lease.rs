//! Who owns what was created.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Error;
use super::api::Api;
use crate::backend::in_use::{Names, Use};
use crate::backend::{Request, removal};
use crate::http::{Deadline, encode};

/// How long programs have to end, in seconds: those that are left have been hung up with their connection.
const GRACE: u32 = 1;

/// What leases need, too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: Api,
    stop: Duration,
    /// The connections that have leases: not to be reaped.
    pub(super) live: Names,
}

impl Shared {
    /// `stop` is how long a removal may take.
    pub(super) fn new(api: Api, stop: Duration, live: Names) -> Shared {
        Shared { api, stop, live }
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
}

/// Owns a connection's pod, and removes it when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    _connection: Use,
    namespace: String,
    pod: String,
    /// Whether there may be a pod: set before it is asked for, since the answer may be lost.
    pub(super) created: bool,
    /// How often its removal is tried: once while its user waits for the error, more often in its own time.
    pub(super) attempts: u32,
}

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>, request: &Request, namespace: &str, pod: &str) -> Lease {
        Lease {
            shared: Arc::clone(shared),
            _connection: shared.live.begin(&request.connection),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            created: false,
            attempts: 1,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.created {
            let remove = || self.shared.remove(&self.namespace, &self.pod);
            removal::attempt(&format!("pod {}", self.pod), self.attempts, remove);
        }
    }
}
