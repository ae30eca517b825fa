//! A server's part in an election: it looks at the instance's lease, and renews it where it has it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::system::uname;
use serde_json::{Value as Json, json};

use super::election::{LONGEST, RENEWAL, Shared, Standing, lease_name};
use super::{Error, pod};
use crate::clock::rfc3339;
use crate::http::encode;
use crate::{random, run_directory};

/// For how long a lease holds that is not renewed. These are the times that Kubernetes' own components have.
const DURATION: Duration = Duration::from_secs(15);
/// How often who has it not looks, and whoever has failed tries again.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is tried anew where leases are refused: somebody may have given the right.
const REFUSED: Duration = Duration::from_secs(60);

/// The longest name of a holder in the log, in characters.
const LONGEST_HOLDER: usize = 200;

/// What a role lacks where leases are forbidden.
const RULE: &str = "; the role lacks a rule: apiGroups [coordination.k8s.io], resources [leases], verbs [create, delete, get, \
                    update]";

/// A server that stands for election: its thread's own.
pub(super) struct Candidate {
    shared: Arc<Shared>,
    identity: String,
    /// The lease as it was last written, while this server has it.
    own: Option<Json>,
    /// Another's, and since when it has been so.
    seen: Option<Seen>,
    /// Whether it was known how things stand.
    has_settled: bool,
}

/// Another server's lease, as long as it stays the same.
#[derive(Debug)]
struct Seen {
    spec: Json,
    since: Instant,
    /// Whether it has been another one before: so its holder lives.
    was_renewed: bool,
}

impl Candidate {
    pub(super) fn new(shared: Arc<Shared>) -> Candidate {
        let identity = identity(&shared.run_directory);
        Candidate { shared, identity, own: None, seen: None, has_settled: false }
    }

    /// Looks once, and says how long to wait until the next time.
    pub(super) fn turn(&mut self) -> Duration {
        let before = self.shared.standing().clone();
        let standing = match self.look() {
            Ok(standing) => standing,
            Err(Error::Api { status, message, .. }) if is_no(status) => {
                if before != Standing::Refused {
                    let rule = if status == 403 { RULE } else { "" };
                    log::warn!(
                        "kubernetes: the API server gives no lease ({message}): whether another berth serves as this \
                         instance is not known{rule}"
                    );
                }
                self.own = None;
                Standing::Refused
            }
            Err(error) => {
                // What was not seen to stay the same may have changed.
                self.seen = None;
                log::debug!("{error}");
                if before == Standing::Open { Standing::Unknown } else { before.clone() }
            }
        };
        self.tell(&before, &standing);
        self.has_settled |= standing != Standing::Open;
        let wait = match standing {
            Standing::Held(_) if self.own.is_some() => RENEWAL,
            Standing::Refused => REFUSED,
            _ => RETRY,
        };
        self.shared.set(standing);
        wait
    }

    /// Tells the log what has changed.
    fn tell(&self, before: &Standing, standing: &Standing) {
        let instance = &self.shared.instance;
        match (before, standing) {
            (Standing::Held(_), Standing::Held(_)) => {}
            (_, Standing::Held(_)) => log::info!("kubernetes: this berth serves as instance {instance:?}"),
            (Standing::Other(_), Standing::Other(_)) => {}
            // At the start, whoever waits for it says so.
            (_, Standing::Other(holder)) if self.has_settled => log::error!(
                "kubernetes: another berth ({holder}) has come to serve as instance {instance:?}: until that ends, this one \
                 makes no pods, and those that it has made are removed"
            ),
            _ => {}
        }
    }

    /// Renews the lease, or takes it where that may be.
    fn look(&mut self) -> Result<Standing, Error> {
        if let Some(own) = self.own.take() {
            match self.write(Some(own.clone())) {
                // Somebody else has written to it.
                Err(error) if error.is_status(409) || error.is_status(404) => {}
                Err(error) => {
                    self.own = Some(own);
                    return Err(error);
                }
                held => return held,
            }
        }
        let lease = match self.call("look at the lease", "GET", None) {
            Ok(lease) => Some(lease),
            Err(error) if error.is_status(404) => None,
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if let Some(lease) = &lease
            && let Some(seen) = self.others(lease, now)
        {
            return Ok(seen);
        }
        match self.write(lease) {
            Err(error) if error.is_status(409) => Ok(Standing::Open),
            result => result,
        }
    }

    /// How things stand where the lease is another's; nothing where it may be taken.
    fn others(&mut self, lease: &Json, now: Instant) -> Option<Standing> {
        let spec = &lease["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return None;
        }
        let seconds = spec["leaseDurationSeconds"].as_u64().map_or(DURATION, Duration::from_secs).min(LONGEST);
        let holder: String = holder.chars().take(LONGEST_HOLDER).collect();
        match &mut self.seen {
            Some(seen) if seen.spec == *spec => {
                if now.duration_since(seen.since) >= seconds {
                    return None;
                }
            }
            Some(seen) => *seen = Seen { spec: spec.clone(), since: now, was_renewed: true },
            None => {
                self.seen = Some(Seen { spec: spec.clone(), since: now, was_renewed: false });
                log::info!(
                    "kubernetes: another berth ({holder}) has served as instance {:?}: its lease ends in {} s if it was killed",
                    self.shared.instance,
                    seconds.as_secs()
                );
            }
        }
        let lives = self.seen.as_ref().is_some_and(|seen| seen.was_renewed);
        Some(if lives { Standing::Other(holder) } else { Standing::Open })
    }

    /// Writes the lease that was there, or a new one, as this server's.
    fn write(&mut self, lease: Option<Json>) -> Result<Standing, Error> {
        let begin = Instant::now();
        let lease = match lease {
            Some(lease) => self.call("renew the lease", "PUT", Some(self.claimed(lease)))?,
            None => self.call("make the lease", "POST", Some(self.claimed(self.new_lease())))?,
        };
        (self.own, self.seen) = (Some(lease), None);
        Ok(Standing::Held(begin + DURATION))
    }

    fn new_lease(&self) -> Json {
        let instance = &self.shared.instance;
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease_name(instance),
                "labels": { pod::INSTANCE_LABEL: pod::instance_label(instance) },
                "annotations": { pod::INSTANCE_ANNOTATION: instance },
            },
        })
    }

    /// The lease with this server as its holder, from now on.
    fn claimed(&self, mut lease: Json) -> Json {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // A MicroTime, which has six digits.
        let now = rfc3339(now.as_secs(), now.subsec_micros(), 6);
        let spec = &mut lease["spec"];
        if spec["holderIdentity"] != self.identity {
            if let Some(before) = spec["leaseTransitions"].as_u64() {
                spec["leaseTransitions"] = (before + 1).into();
            } else {
                spec["leaseTransitions"] = 0.into();
            }
            spec["acquireTime"] = now.clone().into();
        }
        spec["holderIdentity"] = self.identity.clone().into();
        spec["leaseDurationSeconds"] = DURATION.as_secs().into();
        spec["renewTime"] = now.into();
        lease
    }

    /// Removes the lease, unless somebody else has written to it.
    pub(super) fn give_up(&mut self) {
        let Some(lease) = self.own.take() else { return };
        let metadata = &lease["metadata"];
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"] },
        });
        match self.call("give the lease up", "DELETE", Some(options)) {
            Err(error) if !error.is_status(409) && !error.is_status(404) => log::warn!("{error}"),
            _ => {}
        }
    }

    fn call(&self, step: &'static str, method: &str, body: Option<Json>) -> Result<Json, Error> {
        let Shared { api, instance, namespace, .. } = &*self.shared;
        let namespace = namespace.clone().map_or_else(|| api.namespace(), Ok)?;
        let mut path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", encode(&namespace));
        if method != "POST" {
            path.push('/');
            path.push_str(&lease_name(instance));
        }
        api.call(step, method, &path, body.as_ref(), api.deadline())
    }
}

/// Whether a status says that there are no leases for berth, and not that something has failed or changed.
fn is_no(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 401 | 408 | 409 | 429)
}

/// What a server is called as a holder. Its lock on the run directory keeps another one from the same name: so what it has
/// held before it was killed is its own again at once.
fn identity(run_directory: &Path) -> String {
    let server = run_directory::server_name(run_directory).unwrap_or_else(|error| {
        log::warn!(
            "kubernetes: {}: {error}; after it was killed, a berth waits until its lease has ended",
            run_directory.display()
        );
        // Without the kernel's bytes nobody could log in anyway.
        random::name().unwrap_or_default()
    });
    format!("{}_{server}", uname().nodename().to_string_lossy())
}

#[cfg(test)]
#[path = "candidate_tests.rs"]
mod tests;
