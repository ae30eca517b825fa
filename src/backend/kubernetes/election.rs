//! Which server of an instance is the one: as Kubernetes' own components elect their leader, by a lease
//! (<https://kubernetes.io/docs/concepts/architecture/leases/>).
//!
//! Each server of an instance would take another's pods for what a killed one has left. So one alone holds the instance's
//! lease, renews it, and makes and removes pods. One that was killed renews it no more, and after a while another one may
//! take it. Clocks are not compared: a server looks for how long a lease stays as it is.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::api::Api;
use super::candidate::Candidate;
use super::{Error, pod};
use crate::config;

/// The longest that another one's lease is believed to hold.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// How often the lease is renewed, and how long one call may take: so a failure or two do no harm.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);

/// The elections that this process has stood in: with a new configuration, it goes on in those that stay the same.
#[derive(Clone, Debug, Default)]
pub struct Elections(Arc<Mutex<Weak<Election>>>);

impl Elections {
    /// The election of the instance's server in the namespace of these settings.
    pub(super) fn stand(&self, settings: &config::Kubernetes, instance: &str, run_directory: PathBuf) -> Arc<Election> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = pod::namespace(settings);
        let is_same = |known: &Arc<Election>| {
            known.shared.api.is_by(&settings.connection) && known.shared.namespace.as_deref() == namespace
        };
        if let Some(known) = last.upgrade().filter(is_same) {
            return known;
        }
        let api = Api::new(&settings.connection, RENEWAL);
        let namespace = namespace.map(str::to_owned);
        let election = Arc::new(Election::new(api, instance.to_owned(), namespace, run_directory));
        *last = Arc::downgrade(&election);
        election
    }
}

/// This server's part in it. Gives the lease up when dropped.
#[derive(Debug)]
pub(super) struct Election {
    pub(super) shared: Arc<Shared>,
    owner: Mutex<Option<Owner>>,
}

/// What its thread knows, too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) instance: String,
    /// Without one, that of the connection.
    pub(super) namespace: Option<String>,
    pub(super) run_directory: PathBuf,
    standing: Mutex<Standing>,
    changed: Condvar,
}

/// The thread that keeps the lease. Ends when dropped.
#[derive(Debug)]
struct Owner {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Another's lease is there, and it is not known yet whether that one lives; or nobody has looked.
    Open,
    /// This server has the lease, until then.
    Held(Instant),
    /// Another one has it, and lives.
    Other(String),
    /// The API server gives no leases: there is no election.
    Refused,
    /// The API server does not say.
    Unknown,
}

impl Election {
    /// For an instance in a namespace; without one, in the connection's. Nothing happens yet.
    fn new(api: Api, instance: String, namespace: Option<String>, run_directory: PathBuf) -> Election {
        let (standing, changed) = (Mutex::new(Standing::Open), Condvar::new());
        let shared = Shared { api, instance, namespace, run_directory, standing, changed };
        Election { shared: Arc::new(shared), owner: Mutex::default() }
    }

    /// Whether this server stands for election.
    pub(super) fn has_begun(&self) -> bool {
        self.owner().is_some()
    }

    /// From here on it does.
    fn begin(&self) -> Result<(), Error> {
        let mut owner = self.owner();
        if owner.is_some() {
            return Ok(());
        }
        let (end, ended) = channel();
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let mut candidate = Candidate::new(shared);
            loop {
                let wait = candidate.turn();
                if ended.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                    return candidate.give_up();
                }
            }
        };
        let spawned = thread::Builder::new().name("lease".into()).spawn(work);
        let failed = |error: std::io::Error| Error::Command { step: "keep a lease", detail: error.to_string() };
        *owner = Some(Owner { end: Some(end), thread: Some(spawned.map_err(failed)?) });
        Ok(())
    }

    fn owner(&self) -> MutexGuard<'_, Option<Owner>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is known who has the lease: for as long as that of a killed server holds, at most. Another one that
    /// lives is an error.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.begin()?;
        let open = |standing: &mut Standing| *standing == Standing::Open;
        let settled = self.shared.changed.wait_timeout_while(self.shared.standing(), LONGEST + 2 * RENEWAL, open);
        drop(settled);
        self.shared.may_make()
    }

    /// See [`Shared::may_make`].
    pub(super) fn may_make(&self) -> Result<(), Error> {
        self.begin()?;
        self.shared.may_make()
    }

    /// See [`Shared::may_remove`].
    pub(super) fn may_remove(&self) -> Result<bool, Error> {
        self.begin()?;
        Ok(self.shared.may_remove())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It waits for two calls at most, which have deadlines.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on, this is how things stand.
    pub(super) fn set(&self, standing: Standing) {
        *self.standing() = standing;
        self.changed.notify_all();
    }

    /// Whether pods may be made: not while another server is known to have the lease, which would remove them.
    pub(super) fn may_make(&self) -> Result<(), Error> {
        match &*self.standing() {
            Standing::Other(holder) => {
                let (instance, lease) = (self.instance.clone(), lease_name(&self.instance));
                Err(Error::Instance { instance, lease, holder: holder.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether what is not this server's may be removed.
    pub(super) fn may_remove(&self) -> bool {
        match *self.standing() {
            Standing::Held(until) => Instant::now() < until,
            Standing::Refused => true,
            Standing::Open | Standing::Other(_) | Standing::Unknown => false,
        }
    }
}

/// The name of an instance's lease: a lower-case RFC 1123 subdomain.
pub(super) fn lease_name(instance: &str) -> String {
    let is_good = |part: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.bytes().all(good)
    };
    let is_name = instance.len() <= 63 && instance.split('.').all(is_good);
    format!("berth-{}", if is_name { instance.to_owned() } else { pod::instance_hash(instance) })
}
