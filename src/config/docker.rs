//! The `docker` section.

use std::time::Duration;

use serde_json::{Map, Value};

/// Settings of the Docker backend, resolved.
#[derive(Clone, Debug)]
pub struct Docker {
    /// `docker.connection.host`: the daemon, as in `DOCKER_HOST` ("unix:///var/run/docker.sock").
    pub host: String,
    /// `docker.execution.mode`.
    pub mode: ExecutionMode,
    /// `docker.execution.imagePullPolicy`.
    pub image_pull_policy: ImagePullPolicy,
    /// `docker.execution.container`: the API's `Config`, keys in the API's spelling. `Image` is in it.
    pub container: Map<String, Value>,
    /// `docker.execution.host`: the API's `HostConfig`, keys in the API's spelling.
    pub host_config: Map<String, Value>,
    /// `docker.execution.network`: the API's `NetworkingConfig`, keys in the API's spelling.
    pub networking_config: Map<String, Value>,
    /// `docker.execution.platform`: as in `docker run --platform`.
    pub platform: Option<String>,
    /// `docker.timeouts.containerStart`: from create to the agent's first byte, pulls excluded.
    pub container_start: Duration,
    /// `docker.timeouts.containerStop`: for the removal.
    pub container_stop: Duration,
    /// `docker.timeouts.http`: for one API call, and for silence during a pull.
    pub http: Duration,
}

/// Which of a user's doings share a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecutionMode {
    /// One container per SSH connection.
    #[default]
    Connection,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePullPolicy {
    /// Before every container.
    Always,
    /// Where the daemon has not got it.
    #[default]
    IfNotPresent,
    /// Never: a missing image is an error.
    Never,
}
