//! The backends that connections' settings name.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::docker::Daemons;
use super::kubernetes::Kubernetes;
use super::sshproxy::SshProxy;
use super::{Backend, Container, Error, InUse, Request, Scope, Waiter};
use crate::config::{BackendKind, Config};
use crate::metadata::Metadata;

/// The configuration's own backend, and the others that its configuration server has named since berth was started.
pub struct Backends {
    own: Arc<dyn Backend>,
    docker: OnceLock<Daemons>,
    kubernetes: OnceLock<Kubernetes>,
    in_use: InUse,
}

impl Backends {
    /// With the one that the configuration names.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Backends::with(config, InUse::default())
    }

    /// With the one that the configuration names now, where it was read again. What is in use stays so.
    pub fn renew(&self, config: &Config) -> Result<Self, Error> {
        Backends::with(config, self.in_use.clone())
    }

    fn with(config: &Config, in_use: InUse) -> Result<Self, Error> {
        let (docker, kubernetes) = (OnceLock::new(), OnceLock::new());
        let own = find(&docker, &kubernetes, &in_use, config)?;
        Ok(Backends { own, docker, kubernetes, in_use })
    }

    /// The one that these settings of a connection name.
    pub fn find(&self, config: &Config) -> Result<Arc<dyn Backend>, Error> {
        find(&self.docker, &self.kubernetes, &self.in_use, config)
    }

    /// Sees whether it answers, for a word in the log at start. One that is down may come later, so a failure is no reason
    /// not to serve: users are told until then.
    pub fn check(&self) {
        let docker = self.docker.get().map(|daemons| daemons.check().map_err(Error::from));
        let kubernetes = self.kubernetes.get().map(|cluster| cluster.check().map_err(Error::from));
        for result in docker.into_iter().chain(kubernetes) {
            match result {
                Ok(version) => log::info!("{version}"),
                Err(error) => log::error!("{error}"),
            }
        }
    }

    /// Keeps other servers from serving as the same instance where the lock on the run directory does not. An error says
    /// that one does.
    pub fn claim(&self) -> Result<(), Error> {
        Ok(self.kubernetes.get().map_or(Ok(()), Kubernetes::claim)?)
    }
}

fn find(
    docker: &OnceLock<Daemons>,
    kubernetes: &OnceLock<Kubernetes>,
    in_use: &InUse,
    config: &Config,
) -> Result<Arc<dyn Backend>, Error> {
    let instance = || config.instance.clone();
    match config.backend {
        BackendKind::Docker => {
            if let Some(daemons) = docker.get() {
                return Ok(Arc::new(daemons.with(config.docker.clone())?));
            }
            let daemons =
                Daemons::new(config.docker.clone(), instance(), config.run_directory.clone(), in_use.clone())?;
            Ok(Arc::new(docker.get_or_init(|| daemons).own()))
        }
        BackendKind::Kubernetes => {
            let own = kubernetes.get_or_init(|| {
                let (settings, run_directory) = (config.kubernetes.clone(), config.run_directory.clone());
                Kubernetes::new(settings, instance(), run_directory, in_use.clone())
            });
            Ok(Arc::new(own.with(config.kubernetes.clone())?))
        }
        BackendKind::SshProxy => Ok(Arc::new(SshProxy::new(config.sshproxy.clone(), config.ssh.ip_qos)?)),
    }
}

impl Backend for Backends {
    fn scope(&self) -> Scope {
        self.own.scope()
    }

    fn offers_choice(&self) -> bool {
        self.own.offers_choice()
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        self.own.subsystems()
    }

    fn variables(&self, metadata: &Metadata) -> Vec<(String, String)> {
        self.own.variables(metadata)
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
        self.own.start(request, waiter)
    }

    fn reap(&self) -> Result<usize, Error> {
        let docker = self.docker.get().map_or(Ok(0), Daemons::reap)?;
        Ok(docker + self.kubernetes.get().map_or(Ok(0), Backend::reap)?)
    }
}
