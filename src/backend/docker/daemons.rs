//! The daemons that connections' settings name: what is known of one is shared by all of its connections.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Docker, Error};
use crate::backend::{self, Backend, InUse};
use crate::config;

/// The agent's file: this program's own.
const AGENT: &str = "/proc/self/exe";

/// The most daemons beside the configuration's own.
const MOST: usize = 256;

/// The configuration's daemon, and those that its configuration server has named since berth was started.
pub struct Daemons {
    own: Docker,
    others: Mutex<HashMap<String, Docker>>,
}

impl Daemons {
    /// With the configuration's own; see [`Docker::new`].
    pub fn new(
        settings: config::Docker,
        instance: String,
        run_directory: PathBuf,
        in_use: InUse,
    ) -> Result<Self, Error> {
        let own = Docker::new(settings, instance, run_directory, in_use, AGENT.into())?;
        Ok(Daemons { own, others: Mutex::default() })
    }

    /// The configuration's own.
    pub fn own(&self) -> Docker {
        self.own.clone()
    }

    /// A backend with these settings. How a daemon is reached is what was said of it the first time.
    pub fn with(&self, settings: config::Docker) -> Result<Docker, Error> {
        let host = &settings.connection.host;
        if *host == self.own.settings.connection.host {
            return self.own.with(settings);
        }
        let mut others = self.others();
        if let Some(known) = others.get(host) {
            return known.with(settings);
        }
        if others.len() >= MOST {
            return Err(Error::Settings(format!("the configuration server has named more than {MOST} daemons")));
        }
        let (instance, run_directory) = (self.own.instance.clone(), self.own.run_directory.clone());
        let docker = Docker::new(settings, instance, run_directory, self.own.shared.in_use.clone(), AGENT.into())?;
        others.insert(docker.settings.connection.host.clone(), docker.clone());
        Ok(docker)
    }

    /// See [`Docker::check`].
    pub fn check(&self) -> Result<String, Error> {
        self.own.check().map(|version| format!("docker: API version {version}"))
    }

    /// See [`Backend::reap`].
    pub fn reap(&self) -> Result<usize, backend::Error> {
        let others: Vec<Docker> = self.others().values().cloned().collect();
        let mut count = self.own.reap()?;
        for daemon in others {
            count += daemon.reap()?;
        }
        Ok(count)
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Docker>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Docker {
    /// The same daemon with other settings.
    fn with(&self, settings: config::Docker) -> Result<Docker, Error> {
        super::body::check(&settings)?;
        Ok(Docker { settings: Arc::new(settings), ..self.clone() })
    }
}
