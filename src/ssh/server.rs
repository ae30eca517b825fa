//! What connections are served with.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libssh_server::{Algorithms, HostKeys};

use super::hostkey::{self, Missing};
use super::startups::Limits;
use super::{KeyFileError, Services};
use crate::auth::{Authenticator, SIGNATURE_ALGORITHMS};
use crate::config;
use crate::geoip;

/// Why the server could not start, or not with another configuration.
#[derive(Debug)]
pub enum ServeError {
    /// A host key file.
    HostKey(KeyFileError),
    /// No host key is configured.
    NoHostKey,
    /// Every host key is of another type than what is to be offered.
    NoHostKeyAlgorithm,
    /// An address, of this key, could not be listened on.
    Listen(&'static str, SocketAddr, io::Error),
    /// The log's file could not be opened.
    Log(io::Error),
    /// Signals could not be caught, or another thing that only a broken system lacks.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::HostKey(error) => error.fmt(f),
            ServeError::NoHostKey => f.write_str("ssh.hostkeys: name at least one file"),
            ServeError::NoHostKeyAlgorithm => {
                f.write_str("ssh.hostKeyAlgorithms: none of them is of a key in ssh.hostkeys")
            }
            ServeError::Listen(key, address, error) => write!(f, "{key}: {address}: {error}"),
            ServeError::Log(error) | ServeError::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<KeyFileError> for ServeError {
    fn from(error: KeyFileError) -> Self {
        ServeError::HostKey(error)
    }
}

/// Sees whether the host keys can be read, or made where they are missing. Makes none.
pub fn check_host_keys(settings: &config::Ssh) -> Result<(), ServeError> {
    host_keys(settings, Missing::Pretend).map(drop)
}

fn host_keys(settings: &config::Ssh, missing: Missing) -> Result<HostKeys, ServeError> {
    if settings.host_keys.is_empty() {
        return Err(ServeError::NoHostKey);
    }
    let keys = hostkey::load(&settings.host_keys, &settings.host_certificates, missing)?;
    if keys.algorithms(&settings.host_key_algorithms.join(",")).is_empty() {
        return Err(ServeError::NoHostKeyAlgorithm);
    }
    Ok(keys)
}

/// All that a connection is served with. A connection keeps what it began with, whatever comes after.
pub struct Server {
    pub(super) settings: config::Ssh,
    pub(super) penalties: config::Penalties,
    pub(super) algorithms: Algorithms,
    pub(super) host_keys: Arc<HostKeys>,
    pub(super) authenticator: Box<dyn Authenticator>,
    pub(super) services: Services,
    pub(super) geoip: Option<geoip::Database>,
    pub(super) monitoring: config::Monitoring,
    pub(super) log: config::Log,
    pub(super) stop_time: Duration,
}

impl Server {
    /// Reads the host keys, and makes those that are missing. `geoip` is for the log. `stop_time` bounds how long the end
    /// of all connections may take.
    pub fn new(
        settings: config::Ssh,
        services: Services,
        authenticator: Box<dyn Authenticator>,
        geoip: Option<geoip::Database>,
        monitoring: config::Monitoring,
        log: config::Log,
        stop_time: Duration,
    ) -> Result<Self, ServeError> {
        let host_keys = Arc::new(host_keys(&settings, Missing::Make)?);
        let algorithms = Algorithms::new(
            &settings.server_version,
            &settings.kex.join(","),
            &settings.host_key_algorithms.join(","),
            &settings.ciphers.join(","),
            &settings.macs.join(","),
            SIGNATURE_ALGORITHMS,
        );
        let penalties = config::Penalties::of(&settings.per_source_penalties);
        Ok(Server {
            settings,
            penalties,
            algorithms,
            host_keys,
            authenticator,
            services,
            geoip,
            monitoring,
            log,
            stop_time,
        })
    }

    /// What clients are held to that have not logged in.
    pub(super) fn limits(&self) -> Limits<'_> {
        Limits { settings: &self.settings, penalties: &self.penalties }
    }

    /// The network that a client is of: what is given out by turns, or by number, is so to networks.
    pub(super) fn source(&self, client: IpAddr) -> IpAddr {
        self.settings.per_source_net_block_size.source(client)
    }

    /// The country of an address by its code, or `XX` where it is not known.
    pub(super) fn country(&self, address: IpAddr) -> &str {
        self.geoip.as_ref().and_then(|database| database.country(address)).unwrap_or("XX")
    }
}
