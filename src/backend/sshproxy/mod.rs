//! Another SSH server in place of containers: `backend: sshproxy`.
//!
//! It takes the agent's place whole: what it runs and what it forwards are the other server's, and messages pass as they
//! are (`relay`). Who gets there, and what they may ask for, this berth decides as for any other backend.

mod login;
mod relay;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;

use libssh_server::{Algorithms, HostKey, Session};

use super::{Backend, Container, Error, Request, Scope, Waiter};
use crate::config;
use crate::fuzzing::Target;
use crate::http::{self, Address, Deadline, Transport};
use crate::ip_qos::{IpQos, Marking};
use crate::metadata::Metadata;
use login::Login;
use relay::Relay;

pub(crate) const FUZZ_TARGETS: &[Target] = &[("prompts", login::fuzz), ("proxied", sessions::fuzz)];

/// Another SSH server as a [`Backend`].
#[derive(Clone)]
pub struct SshProxy {
    settings: Arc<config::SshProxy>,
    algorithms: Algorithms,
    key: Option<Arc<HostKey>>,
    ip_qos: IpQos,
}

impl SshProxy {
    /// A backend with these settings, and these classes for its connections' packets; talks to no one yet. Fails where the
    /// private key cannot be read.
    pub fn new(settings: config::SshProxy, ip_qos: IpQos) -> Result<Self, Error> {
        let list = |names: &[String]| names.join(",");
        let algorithms = Algorithms::new(
            &settings.client_version,
            &list(&settings.kex),
            &list(&settings.host_key_algorithms),
            &list(&settings.ciphers),
            &list(&settings.macs),
            "",
        );
        let read = |pem: &config::Pem| {
            let text = pem.read().map_err(|error| error.to_string())?;
            HostKey::parse(&String::from_utf8_lossy(&text)).map_err(|error| error.to_string())
        };
        let key = settings.private_key.as_ref().map(read).transpose();
        let key = key.map_err(|error| internal(format!("sshproxy.privateKey: {error}")))?;
        Ok(SshProxy { settings: Arc::new(settings), algorithms, key: key.map(Arc::new), ip_qos })
    }

    fn connect(&self, deadline: Deadline) -> Result<Session, Error> {
        let config::SshProxy { server, port, .. } = &*self.settings;
        let address = Address::Tcp { host: server.clone(), port: *port, tls: None, proxy: None };
        let unreachable = |error: String| {
            Error::new("the server cannot be reached; try again later", format!("sshproxy: {server}:{port}: {error}"))
        };
        match Transport::connect(&address, deadline) {
            Ok(Transport::Tcp(socket)) => {
                Session::connect(socket, &self.algorithms).map_err(|error| unreachable(error.to_string()))
            }
            Ok(_) => Err(unreachable("no TCP connection".into())),
            Err(http::Error::TimedOut(_)) => Err(unreachable("no connection within sshproxy.timeout".into())),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }
}

/// A setting that cannot work.
fn internal(log: String) -> Error {
    Error::new("internal error", log)
}

impl Backend for SshProxy {
    fn scope(&self) -> Scope {
        Scope::Connection
    }

    fn offers_choice(&self) -> bool {
        false
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        None
    }

    fn variables(&self, _metadata: &Metadata) -> Vec<(String, String)> {
        // They are sent to the other server with each program: see `Sessions`.
        Vec::new()
    }

    fn start(&self, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
        let settings = &*self.settings;
        let deadline = Deadline::after(settings.timeout);
        let user = if settings.username_pass_through { &request.user } else { &settings.username };
        let session = self.connect(deadline)?;
        let login = Login { session, user, settings, key: self.key.as_deref(), deadline, waiter };
        let (session, messages) = login.run()?;
        log::debug!("{}: logged in at {}:{} as {user:?}", request.connection, settings.server, settings.port);
        if !request.metadata.files.is_empty() {
            log::warn!("{}: files of webhooks have no way to another SSH server", request.connection);
        }
        let variables = request.metadata.environment.iter();
        let environment = variables.map(|(name, fact)| (name.clone().into(), fact.value.clone().into())).collect();
        let failed = |error| internal(format!("sshproxy: {error}"));
        let (lease, stream) = Relay::start(
            session,
            messages,
            environment,
            Marking::new(self.ip_qos),
            settings.timeout,
            &request.connection,
        )
        .map_err(failed)?;
        Ok(Container { lease: Box::new(lease), stream: Box::new(stream) })
    }

    /// There is nothing that could be left.
    fn reap(&self) -> Result<usize, Error> {
        Ok(0)
    }
}
