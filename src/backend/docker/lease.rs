//! Who owns what was created.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::api::{Api, encode};
use super::sign::Signs;
use crate::backend::in_use::{InUse, Use};
use crate::backend::{self, Request, removal};
use crate::http::Deadline;
use crate::turn::Turns;

/// How many containers are removed at once. Where a class of a hundred goes home together, a daemon does it no faster
/// all at once, and Docker 20.10 can block its own network code for ever over it.
const REMOVALS: usize = 4;

/// How long a removal waits for its turn: those before it may hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// What leases need, too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: Api,
    stop: Duration,
    removals: Turns,
    pub(super) in_use: InUse,
    pub(super) signs: Signs,
}

impl Shared {
    /// `stop` is how long a removal may take.
    pub(super) fn new(api: Api, stop: Duration, in_use: InUse, signs: Signs) -> Shared {
        Shared { api, stop, removals: Turns::new(REMOVALS, 0), in_use, signs }
    }

    /// Kills and removes a container with its anonymous volumes. One that is gone, or about to be, is fine.
    pub(super) fn remove(&self, container: &str) -> Result<(), Error> {
        let (container, deadline) = (encode(container), Deadline::after(self.stop));
        if self.api.is_podman() {
            // From 5 on, its removal by force asks the container to end, and waits for the time that it has for that.
            let path = format!("/containers/{container}/kill?signal=KILL");
            // It fails where nothing runs. If there is more to it, the removal says so.
            let _ = self.api.call("kill the container", "POST", &path, None, self.api.deadline());
        }
        let path = format!("/containers/{container}?force=true&v=true");
        match self.api.call("remove the container", "DELETE", &path, None, deadline) {
            Err(e) if !e.is_status(404) && !e.is_status(409) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.signs.end(&self.api);
    }
}

/// Owns a connection's container, and removes it when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    _connection: Use,
    /// The container's name.
    pub(super) container: String,
    /// Whether there may be a container: set before it is asked for, since the answer may be lost.
    pub(super) created: bool,
    /// Containers that there may be beside it, the first to be created first.
    pub(super) others: Vec<String>,
    /// How often its removal is tried: once where another start waits for it, more often in its own time.
    attempts: u32,
}

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>, request: &Request) -> Lease {
        let connection = shared.in_use.connections.begin(&request.connection);
        let (shared, container) = (shared.clone(), format!("berth-{}", request.id()));
        Lease { shared, _connection: connection, container, created: false, others: Vec::new(), attempts: 1 }
    }

    /// Nothing waits for its removal, when it comes to that.
    pub(super) fn kept(self) -> Lease {
        let mut lease = self;
        lease.attempts = removal::ATTEMPTS;
        lease
    }

    fn remove(&self, container: &str) {
        removal::attempt(&format!("container {container}"), self.attempts, || self.shared.remove(container));
    }
}

impl backend::Lease for Lease {}

impl Drop for Lease {
    /// Removes the last that was created first.
    fn drop(&mut self) {
        let has_any = self.created || !self.others.is_empty();
        // What takes as long as that waits for something else than its turn, and is tried all the same.
        let _turn = has_any.then(|| self.shared.removals.take(0, PATIENCE));
        let own = self.created.then_some(&self.container);
        for container in own.into_iter().chain(self.others.iter().rev()) {
            self.remove(container);
        }
    }
}
