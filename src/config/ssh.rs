//! stub
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
/// stub
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Ssh {
    pub listen: Vec<SocketAddr>,
    pub host_keys: Vec<PathBuf>,
    pub banner: Option<String>,
    pub ciphers: Vec<String>,
    pub kex: Vec<String>,
    pub macs: Vec<String>,
    pub host_key_algorithms: Vec<String>,
    pub login_grace_time: Duration,
    pub max_auth_tries: u32,
    pub max_startups: usize,
    pub max_connections: usize,
    pub accept_env: Vec<String>,
    pub client_alive_interval: Duration,
    pub client_alive_count_max: u32,
}
