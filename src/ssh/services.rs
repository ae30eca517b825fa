//! What connections are served with: the configuration's settings, or for each what the configuration server says.

use std::sync::Arc;

use crate::auth::{Attempt, ByName};
use crate::backend::{self, Backend};
use crate::config::{Config, Forwarding, Forwardings, Quota, Quotas, Security};
use crate::metadata::Metadata;
use crate::webhook::ConfigServer;

/// What one connection is served with.
pub struct Service {
    /// Where its containers come from.
    pub backend: Arc<dyn Backend>,
    /// Which of its requests are granted.
    pub security: Arc<Security>,
    /// What it may have forwarded.
    pub forwarding: Forwarding,
    /// How many sessions it may have at once; below 0 is no limit.
    pub max_sessions: i32,
    /// How much its user may have at once.
    pub quota: Quota,
}

/// What all connections are served with.
pub struct Services {
    backend: Arc<dyn Backend>,
    /// Those of users who have settings of their own for it.
    backends: ByName<Option<Arc<dyn Backend>>>,
    security: Arc<Security>,
    forwarding: Forwardings,
    max_sessions: i32,
    quotas: Quotas,
    server: Option<Dynamic>,
}

/// What it takes to ask for every connection.
struct Dynamic {
    server: ConfigServer,
    /// What the answers go over.
    template: Config,
    /// Makes a backend of the settings.
    backend: BackendMaker,
}

type BackendMaker = Box<dyn Fn(&Config) -> Result<Arc<dyn Backend>, backend::Error> + Send + Sync>;

/// The user cannot be served; the log says why.
pub struct Unavailable;

impl Services {
    /// All are served alike, but for users' own forwarding and backends.
    pub fn new(backend: Arc<dyn Backend>, security: Security, forwarding: Forwardings, max_sessions: i32) -> Self {
        let (backends, security) = (ByName::default(), Arc::new(security));
        let quotas = Quotas::default();
        Services { backend, backends, security, forwarding, max_sessions, quotas, server: None }
    }

    /// No user has more than this at once.
    pub fn with_quotas(self, quotas: Quotas) -> Self {
        Services { quotas, ..self }
    }

    /// These users have backends of their own.
    pub fn with_backends(self, backends: ByName<Option<Arc<dyn Backend>>>) -> Self {
        Services { backends, ..self }
    }

    /// A server is asked for every connection. Its answers go over `template`, and `backend` makes backends of that.
    pub fn ask(
        self,
        server: ConfigServer,
        template: Config,
        backend: impl Fn(&Config) -> Result<Arc<dyn Backend>, backend::Error> + Send + Sync + 'static,
    ) -> Self {
        Services { server: Some(Dynamic { server, template, backend: Box::new(backend) }), ..self }
    }

    /// The user's own name, and the container that was chosen along with it: `alice+web`. No container's name has a plus.
    pub fn split<'a>(&self, name: &'a str) -> (&'a str, Option<&'a str>) {
        let offers_choice = |user: &str| {
            let own = self.backends.get(user).and_then(Option::as_ref);
            self.backend.offers_choice() || own.is_some_and(|backend| backend.offers_choice())
        };
        match name.rsplit_once('+') {
            Some((user, container)) if offers_choice(user) => (user, Some(container)),
            _ => (name, None),
        }
    }

    /// What an authenticated user is served with. Blocks for as long as a server takes.
    pub fn find(&self, attempt: &Attempt<'_>, metadata: &mut Metadata) -> Result<Service, Unavailable> {
        let Some(dynamic) = &self.server else {
            let forwarding = self.forwarding.of(attempt.user).clone();
            let own = self.backends.get(attempt.user).and_then(Option::as_ref);
            let (backend, security) = (Arc::clone(own.unwrap_or(&self.backend)), Arc::clone(&self.security));
            let quota = self.quotas.of(attempt.user);
            return Ok(Service { backend, security, forwarding, max_sessions: self.max_sessions, quota });
        };
        let answer = dynamic.server.ask(attempt, metadata).ok_or(Unavailable)?;
        metadata.merge(answer.metadata.clone());
        let id = attempt.connection;
        let config = dynamic.template.with_answer(attempt.user, &answer.settings).map_err(|errors| {
            for error in errors {
                log::error!("{id}: {:?} turned away: {error}", attempt.user);
            }
            Unavailable
        })?;
        for warning in &config.warnings {
            log::warn!("{id}: {warning}");
        }
        let backend = (dynamic.backend)(&config).map_err(|error| {
            log::error!("{id}: {:?} turned away: {error}", attempt.user);
            Unavailable
        })?;
        let (forwarding, max_sessions) = (config.forwarding.everyone, config.ssh.max_sessions);
        let quota = config.quotas.everyone;
        Ok(Service { backend, security: Arc::new(config.security), forwarding, max_sessions, quota })
    }

    /// See [`Backend::reap`].
    pub fn reap(&self) -> Result<usize, backend::Error> {
        self.backend.reap()
    }
}
