//! `config.yaml`: types, defaults, validation.
//!
//! Reading has two stages. `yaml` turns the text into a tree of nodes as typed, each with its line. The sections' tables
//! then read the tree over the defaults, by the means of `reader`, and collect all that is wrong.

mod answer;
mod auth;
mod dangers;
mod describe;
mod docker;
mod docker_api;
mod docker_connection;
mod error;
mod forwarding;
mod kind;
mod kubernetes;
mod logging;
mod logins;
mod monitoring;
mod naming;
mod oauth2;
mod pem;
mod place;
mod pod_api;
mod quota;
mod reader;
mod section;
mod security;
mod sidecar;
mod ssh;
mod sshproxy;
mod startups;
mod unavailable;
mod webhook;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use dangers::can_remount;
pub use describe::{explain, schema};
pub use docker::{Docker, ExecutionMode, ImagePullPolicy, Persistent};
pub use docker_connection::{AgentTransport, DockerConnection, DockerEnvironment};
pub use error::Error;
pub use forwarding::{Forwarding, Forwardings};
pub use kubernetes::{Kubernetes, KubernetesConnection, KubernetesEnvironment, Secret};
pub use logging::{Log, LogDestination, LogFormat, Syslog};
pub use monitoring::Monitoring;
pub use naming::{ContainerName, NameOf, label};
pub use oauth2::{ClientSecret, OAuth2, Provider};
pub use pem::Pem;
pub use place::Place;
pub use quota::{Quota, Quotas};
pub use security::{Filter, Mode, Security};
pub use sidecar::{Readiness, Sidecar};
pub use ssh::Ssh;
pub use sshproxy::SshProxy;
pub use startups::{MaxStartups, NetBlockSize, Penalties, PenaltyOption};
pub use webhook::{ConfigServer, HttpServer, Webhook, Webhooks};

use crate::auth::{ByName, User};
use crate::bounded;
use crate::fuzzing::Target;
use kind::{choice, parsed, path};
use reader::{Kind, Reader};
use section::Section;
use yaml::{Node, Value};

pub(crate) const FUZZ_TARGETS: &[Target] = &[("config", fuzz), ("answer", answer::fuzz)];

/// What ContainerSSH takes where neither its configuration nor its configuration server names an image.
const CONTAINERSSH_IMAGE: &str = "containerssh/containerssh-guest-image";

/// The largest configuration file, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The whole configuration, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ssh`
    pub ssh: Ssh,
    /// `auth.users`, by name.
    pub users: BTreeMap<String, User>,
    /// The webhooks of `auth`.
    pub webhooks: Webhooks,
    /// The same as typed.
    webhooks_typed: webhook::Typed,
    /// `backend`
    pub backend: BackendKind,
    /// `docker`
    pub docker: Docker,
    /// `kubernetes`
    pub kubernetes: Kubernetes,
    /// `sshproxy`
    pub sshproxy: SshProxy,
    /// Both for users of `auth.users`, where they or their groups have something over that.
    pub own: Arc<ByName<Option<Own>>>,
    /// `docker.connection` as typed: what it means depends on the environment, too.
    docker_connection: docker_connection::Typed,
    /// `security`, but for what follows, and `ssh.max_sessions`.
    pub security: Security,
    /// `security.forwarding`, and the users' own.
    pub forwarding: Forwardings,
    /// `security.maxConnections` and `maxContainers`, and the users' own.
    pub quotas: Quotas,
    /// `instance`: tells this berth's containers from those of others on the same daemon.
    pub instance: String,
    /// `runDirectory`, and in it the instance's own.
    pub run_directory: PathBuf,
    /// `geoip`: the database of MaxMind's, if one is used.
    pub geoip: Option<PathBuf>,
    geoip_typed: GeoIp,
    /// `metrics` and `health`
    pub monitoring: Monitoring,
    metrics_typed: monitoring::Endpoint,
    health_typed: monitoring::Endpoint,
    /// `log`
    pub log: Log,
    /// What is good, but not what it may seem.
    pub warnings: Vec<Error>,
    /// `docker.execution.additionalKeys`
    additional_keys: Vec<String>,
    /// What it took from its surroundings.
    place: Place,
}

/// What a user has in place of everyone's `docker` and `kubernetes`.
#[derive(Clone, Debug)]
pub struct Own {
    docker: Docker,
    kubernetes: Kubernetes,
}

/// What serves the users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// `docker`
    Docker,
    /// `kubernetes`
    Kubernetes,
    /// `sshproxy`
    SshProxy,
}

/// Reads a configuration file; gives all that is wrong in it.
pub fn load(path: &Path) -> Result<Config, Vec<Error>> {
    let failed = |line, message| {
        vec![Error { file: path.to_owned(), line, column: None, key: String::new(), message, warning: false }]
    };
    let read = || -> io::Result<_> { Ok((bounded::read(path, LARGEST)?, Place::of(path)?)) };
    let (bytes, place) = read().map_err(|error| failed(None, error.to_string()))?;
    let too_large = || failed(None, format!("too large: a configuration has {LARGEST} bytes at most"));
    let bytes = bytes.ok_or_else(too_large)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &place),
        Err(error) => {
            let line_ends = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(failed(Some(line_ends + 1), "not UTF-8".to_owned()))
        }
    }
}

/// Reads the text of a configuration file; gives all that is wrong in it, with the warnings beside it.
pub fn parse(text: &str, place: &Place) -> Result<Config, Vec<Error>> {
    let error = |line, column, key, message, warning| {
        let file = place.file.clone();
        Error { file, line, column, key, message, warning }
    };
    let root = yaml::parse(text)
        .map_err(|found| vec![error(Some(found.line), Some(found.column), String::new(), found.message, false)])?;
    let mut config = Config {
        ssh: Ssh::new(&place.directory),
        users: BTreeMap::new(),
        webhooks: Webhooks::default(),
        webhooks_typed: webhook::Typed::default(),
        backend: BackendKind::Docker,
        docker: Docker::default(),
        own: Arc::default(),
        kubernetes: Kubernetes::new(&place.kubernetes),
        sshproxy: SshProxy::default(),
        docker_connection: docker_connection::Typed::default(),
        security: Security::default(),
        forwarding: Forwardings::default(),
        quotas: Quotas::default(),
        instance: String::new(),
        run_directory: place.run_directory.clone(),
        geoip: None,
        geoip_typed: GeoIp::default(),
        monitoring: Monitoring::default(),
        metrics_typed: monitoring::Endpoint::metrics(),
        health_typed: monitoring::Endpoint::health(),
        log: Log::default(),
        warnings: Vec::new(),
        additional_keys: root.texts_at(&["docker", "execution", "additionalKeys"]),
        place: place.clone(),
    };
    let mut reader = Reader::new(&place.directory);
    reader.additional_keys.clone_from(&config.additional_keys);
    if root.value != Value::Null {
        section().read(&root, &mut config, &mut reader);
    }
    resolve(&root, &mut config, place, &mut reader);
    let findings = reader.findings().into_iter();
    let findings: Vec<Error> =
        findings.map(|found| error(found.line, None, found.path, found.message, found.warning)).collect();
    if findings.iter().any(|finding| !finding.warning) {
        return Err(findings);
    }
    config.warnings = findings;
    Ok(config)
}

/// The paths of all keys that a configuration can have, in order. `*` stands for a free name; the Docker API's own keys
/// are left out.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    section().keys("", &mut keys);
    keys
}

fn section() -> Section<Config> {
    Section::new()
        .key("ssh", |config: &mut Config| &mut config.ssh, ssh::section())
        .key("auth", |config| config, auth::section())
        .key("configserver", |config| &mut config.webhooks_typed, webhook::configuration())
        .inline(|config| config, connection_section())
        .absent("audit", unavailable::audit())
        .key("metrics", |config| &mut config.metrics_typed, monitoring::metrics())
        .key("health", |config| &mut config.health_typed, monitoring::health())
        .key("geoip", |config| &mut config.geoip_typed, geoip())
        .key("instance", |config| &mut config.instance, parsed("a name", place::parse_instance))
        .key("runDirectory", |config| &mut config.run_directory, path())
        .key("log", |config| &mut config.log, logging::section())
        .deprecated("listen", "ssh.listen", |config| &mut config.ssh.listen, ssh::listen())
}

/// `geoip` as typed.
#[derive(Clone, Debug)]
struct GeoIp {
    is_used: bool,
    file: PathBuf,
}

impl Default for GeoIp {
    fn default() -> Self {
        GeoIp { is_used: false, file: "/var/lib/GeoIP/GeoIP2-Country.mmdb".into() }
    }
}

fn geoip() -> Section<GeoIp> {
    const PROVIDERS: &[(&str, bool)] = &[("dummy", false), ("maxmind", true)];
    Section::new().key("provider", |geoip: &mut GeoIp| &mut geoip.is_used, choice(PROVIDERS, &[])).key(
        "maxmind-geoip2-file",
        |geoip| &mut geoip.file,
        path(),
    )
}

/// What can be set for one connection, too, by the configuration server.
fn connection_section() -> Section<Config> {
    const BACKENDS: &[(&str, BackendKind)] = &[
        ("docker", BackendKind::Docker),
        ("kubernetes", BackendKind::Kubernetes),
        ("sshproxy", BackendKind::SshProxy),
    ];
    // Whose section says what it is now.
    const OLD_BACKENDS: &[(&str, BackendKind)] =
        &[("dockerrun", BackendKind::Docker), ("kuberun", BackendKind::Kubernetes)];
    let backend = choice(BACKENDS, &[]).also(OLD_BACKENDS);
    Section::new()
        .key("backend", |config: &mut Config| &mut config.backend, backend)
        .key("docker", |config| config, docker::section())
        .key("kubernetes", |config| &mut config.kubernetes, kubernetes::section())
        .key("sshproxy", |config| &mut config.sshproxy, sshproxy::section())
        .key("security", |config| config, security::section())
        .deprecated("dockerrun", "docker", |config| config, docker::DockerRun::kind())
        .deprecated("kuberun", "kubernetes", |config| &mut config.kubernetes, kubernetes::KubeRun::kind())
}

/// Fills in what depends on several settings, and checks it.
fn resolve(root: &Node, config: &mut Config, place: &Place, reader: &mut Reader<'_>) {
    if config.instance.is_empty() {
        config.instance = place.instance(&config.ssh.listen);
    }
    config.webhooks = webhook::resolve(&config.webhooks_typed, root, reader);
    config.monitoring = monitoring::resolve(&config.metrics_typed, &config.health_typed);
    config.monitoring.redirect = config.webhooks.browser.as_ref().and_then(|browser| browser.redirect);
    config.geoip = config.geoip_typed.is_used.then(|| config.geoip_typed.file.clone());
    if config.backend == BackendKind::Docker {
        docker_connection::put(root, config, place, reader);
    }
    complete_backend(root, config, reader);
    if !config.is_completed_by_answers() {
        check_backend(root, config, reader);
    }
    if reader.is_right() {
        reader.warn_of(root, dangers::of(config.backend, &config.docker, &config.kubernetes));
    }
    auth::resolve(root, config, reader);
    if reader.is_right() {
        logins::check(root, config, reader);
    }
    match place::run_directory(&config.run_directory, &config.instance) {
        Ok(directory) => config.run_directory = directory,
        Err(message) => reader.wrong_at(root, &["runDirectory"], message),
    }
}

impl Config {
    /// Whether there is a configuration server: then only a file and an answer together need to make a whole.
    fn is_completed_by_answers(&self) -> bool {
        self.webhooks.configuration.is_some()
    }
}

/// Fills in what the backend's section leaves open.
fn complete_backend(root: &Node, config: &mut Config, reader: &mut Reader<'_>) {
    match config.backend {
        BackendKind::Docker if config.is_completed_by_answers() => {
            config.docker.container.entry("Image").or_insert_with(|| CONTAINERSSH_IMAGE.into());
        }
        BackendKind::Docker => {}
        BackendKind::Kubernetes => kubernetes::complete(config, reader),
        BackendKind::SshProxy => sshproxy::complete(root, config, reader),
    }
}

/// Tells what is missing in the backend's section, and what of it does not fit together.
fn check_backend(root: &Node, config: &Config, reader: &mut Reader<'_>) {
    match config.backend {
        BackendKind::Docker => {
            let Docker { mode, persistent, container, .. } = &config.docker;
            let makes_containers = *mode != ExecutionMode::Persistent || persistent.create;
            // Where something is wrong with the image's surroundings, it may be there under another name.
            if makes_containers && !container.contains_key("Image") && !reader.is_wrong_in("docker") {
                let path = ["docker", "execution", "container", "image"];
                reader.wrong_at(root, &path, "missing; name the image that containers are made of");
            }
            docker::check(root, &config.docker, reader);
        }
        BackendKind::Kubernetes if reader.is_wrong_in("kubernetes") => {}
        BackendKind::Kubernetes => kubernetes::check(root, &config.kubernetes, reader),
        BackendKind::SshProxy if reader.is_wrong_in("sshproxy") => {}
        BackendKind::SshProxy => sshproxy::check(root, &config.sshproxy, reader),
    }
}

/// A configuration. Its errors are shown, too.
pub(crate) fn fuzz(text: &[u8]) {
    for error in fuzz_parse(&String::from_utf8_lossy(text)).err().unwrap_or_default() {
        let _ = error.to_string();
    }
}

/// Reads a configuration that is nowhere.
fn fuzz_parse(text: &str) -> Result<Config, Vec<Error>> {
    let place = Place {
        file: "fuzz.yaml".into(),
        directory: "/nowhere".into(),
        host_name: "host".into(),
        run_directory: "/run/berth".into(),
        docker: DockerEnvironment::default(),
        kubernetes: KubernetesEnvironment::default(),
    };
    parse(text, &place)
}

#[cfg(test)]
mod tests;
