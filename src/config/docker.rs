//! The `docker` section.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Config;
use super::docker_api::{AUTH_CONFIG, CONFIG, HOST_CONFIG, NETWORKING_CONFIG};
use super::docker_connection::{self, AgentTransport, DockerConnection};
use super::kind::{Named, Scalar, any_number_of, choice, duration, is_line, one_or_more, parsed, switch, text};
use super::naming::ContainerName;
use super::reader::{Kind, Reader};
use super::section::Section;
use super::sidecar::{Sidecar, Sidecars};
use super::yaml::{Node, Value as Typed};
use crate::connection::sftp_server;
use crate::http::Address;

/// Settings of the Docker backend, resolved.
#[derive(Clone, Debug)]
pub struct Docker {
    /// `docker.connection`: the daemon.
    pub connection: DockerConnection,
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
    /// `docker.execution.auth`: the API's `AuthConfig`, for the registry that images are pulled from.
    pub registry_auth: Option<Map<String, Value>>,
    /// `docker.execution.exposeAuthMetadataAsEnv`: whether metadata become variables, too.
    pub expose_metadata: bool,
    /// `docker.execution.platform`: as in `docker run --platform`.
    pub platform: Option<String>,
    /// `docker.execution.disableAgent`: native mode.
    pub disable_agent: bool,
    /// `docker.execution.idleCommand`: what keeps a container running, in native mode and where it is a user's own. See
    /// [`Docker::own_idle_command`].
    pub idle_command: Vec<String>,
    /// `docker.execution.shellCommand`: in native mode, what a shell is; by default `/bin/sh`, or the container's own
    /// command where each session has a container.
    pub shell_command: Vec<String>,
    /// `docker.execution.subsystems`, as it is set: see [`Docker::all_subsystems`].
    pub subsystems: BTreeMap<String, String>,
    /// `docker.execution.sidecars`: what stands beside each container.
    pub sidecars: Vec<Sidecar>,
    /// Which container, in persistent mode.
    pub persistent: Persistent,
    /// `docker.timeouts.containerStart`: from create to the agent's first byte, pulls excluded.
    pub container_start: Duration,
    /// `docker.timeouts.containerStop`: for the removal.
    pub container_stop: Duration,
    /// `docker.timeouts.http`: for one API call, and for silence during a pull.
    pub http: Duration,
}

/// Keeps a container running that has a shell, reaps what is orphaned, and ends at once when it is stopped.
pub(super) const IDLE_COMMAND: [&str; 3] =
    ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done"];

/// Where Debian has OpenSSH's, as ContainerSSH assumes.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// Settings of persistent mode.
#[derive(Clone, Debug)]
pub struct Persistent {
    /// `docker.execution.containername`: its name or id.
    pub name: Option<ContainerName>,
    /// `docker.execution.containerLabels`: or its labels, all of them: names, or names with `=` and a value.
    pub labels: Vec<ContainerName>,
    /// `docker.execution.selectableContainers`: the names that users may choose from, with wildcards.
    pub selectable: Vec<ContainerName>,
    /// `docker.execution.create`: whether a user without one gets one.
    pub create: bool,
    /// `docker.execution.keep`: for how long that is kept when nobody uses it.
    pub keep: Duration,
}

impl Default for Persistent {
    fn default() -> Self {
        let keep = Duration::from_secs(600);
        Persistent { name: None, labels: Vec::new(), selectable: Vec::new(), create: false, keep }
    }
}

/// Which of a user's doings share a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecutionMode {
    /// One container per SSH connection.
    #[default]
    Connection,
    /// One container per session channel.
    Session,
    /// A container that is there before and after.
    Persistent,
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

impl Docker {
    /// `docker.execution.idleCommand`, if it is not the default: that is nothing that an agent could not do better.
    pub fn own_idle_command(&self) -> Option<&[String]> {
        (self.idle_command != IDLE_COMMAND).then_some(&self.idle_command)
    }
}

impl Docker {
    /// Whether agents are reached by sockets in the run directory, where there can be one.
    pub fn uses_sockets(&self) -> bool {
        match self.connection.agent_transport {
            AgentTransport::Auto => matches!(self.connection.address, Address::Unix(_)),
            AgentTransport::Socket => true,
            AgentTransport::Attach => false,
        }
    }

    /// Whether nobody could be served without a run directory.
    pub fn needs_run_directory(&self) -> bool {
        self.uses_sockets() && !self.disable_agent && self.mode != ExecutionMode::Persistent
    }
}

impl Default for Docker {
    fn default() -> Self {
        Docker {
            connection: DockerConnection::default(),
            mode: ExecutionMode::default(),
            image_pull_policy: ImagePullPolicy::default(),
            container: Map::new(),
            host_config: Map::new(),
            networking_config: Map::new(),
            registry_auth: None,
            expose_metadata: false,
            platform: None,
            disable_agent: false,
            idle_command: IDLE_COMMAND.map(str::to_owned).to_vec(),
            shell_command: Vec::new(),
            subsystems: BTreeMap::new(),
            sidecars: Vec::new(),
            persistent: Persistent::default(),
            container_start: Duration::from_secs(60),
            container_stop: Duration::from_secs(60),
            http: Duration::from_secs(15),
        }
    }
}

impl Docker {
    /// The commands of subsystems, by their names: SFTP among them, set or not.
    pub fn all_subsystems(&self) -> BTreeMap<String, String> {
        with_sftp(&self.subsystems, self.disable_agent)
    }
}

/// Subsystems as they are set, and SFTP, where that is not among them.
pub(super) fn with_sftp(subsystems: &BTreeMap<String, String>, disable_agent: bool) -> BTreeMap<String, String> {
    let sftp = if disable_agent { SFTP_SERVER } else { sftp_server::INTERNAL };
    let mut all = subsystems.clone();
    all.entry("sftp".to_owned()).or_insert_with(|| sftp.to_owned());
    all
}

/// Tells what of it does not fit together.
pub(super) fn check(root: &Node, docker: &Docker, reader: &mut Reader<'_>) {
    check_persistent(root, docker, reader);
    if !docker.disable_agent && docker.host_config.get("Init") == Some(&Value::Bool(true)) {
        let path = ["docker", "execution", "host", "init"];
        reader.wrong_at(root, &path, "the agent is the container's init; remove it");
    }
    if docker.disable_agent {
        check_subsystems(root, &["docker", "execution", "subsystems"], &docker.subsystems, reader);
    }
}

/// Tells of subsystems that take the agent. Their place in `root` is `path`.
pub(super) fn check_subsystems(
    root: &Node,
    path: &[&str],
    subsystems: &BTreeMap<String, String>,
    reader: &mut Reader<'_>,
) {
    for (name, _) in subsystems.iter().filter(|(_, command)| sftp_server::internal(command.as_bytes()).is_some()) {
        let message = format!("takes the agent; name the image's own server, such as {SFTP_SERVER}");
        reader.wrong_at(root, &[path, &[name]].concat(), message);
    }
}

pub(super) fn section() -> Section<Config> {
    Section::new()
        .key("connection", |config: &mut Config| &mut config.docker_connection, docker_connection::section())
        .key("execution", |config| &mut config.docker, execution())
        .key("timeouts", |config| &mut config.docker, timeouts())
}

/// What users and groups can have of it: all but the daemon.
pub(super) fn of_users() -> Section<Docker> {
    Section::new().key("execution", |docker: &mut Docker| docker, execution()).key(
        "timeouts",
        |docker| docker,
        timeouts(),
    )
}

/// What a [`ContainerName`] is.
const NAME_FORM: &str = "a text with %u for the user's name";

/// Names, or their patterns, of containers or pods.
pub(super) fn container_name() -> Scalar<ContainerName> {
    parsed(NAME_FORM, ContainerName::parse)
}

fn execution() -> Section<Docker> {
    // A year: what is never to go is not berth's to make.
    const KEEP: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(31_536_000);
    // Empty in the configurations that ContainerSSH writes.
    let own_name =
        parsed(NAME_FORM, |text| if text.is_empty() { Ok(None) } else { ContainerName::parse(text).map(Some) });
    let word = || text("a text", |_| true);
    const POLICIES: &[(&str, ImagePullPolicy)] = &[
        ("Always", ImagePullPolicy::Always),
        ("IfNotPresent", ImagePullPolicy::IfNotPresent),
        ("Never", ImagePullPolicy::Never),
    ];
    Section::new()
        .key("mode", |docker: &mut Docker| &mut docker.mode, execution_mode())
        .key("imagePullPolicy", |docker| &mut docker.image_pull_policy, choice(POLICIES, &[]))
        .key("container", |docker| &mut docker.container, &CONFIG)
        .key("host", |docker| &mut docker.host_config, &HOST_CONFIG)
        .key("network", |docker| &mut docker.networking_config, &NETWORKING_CONFIG)
        .key("platform", |docker| &mut docker.platform, Platform::kind())
        .checked("additionalKeys", any_number_of(text("a key", |key| !key.is_empty())))
        .needless(&["agentPath"], "berth brings its own agent")
        .key("disableAgent", |docker| &mut docker.disable_agent, switch())
        .key("idleCommand", |docker| &mut docker.idle_command, one_or_more(word()))
        .key("shellCommand", |docker| &mut docker.shell_command, one_or_more(word()))
        .key("subsystems", |docker| &mut docker.subsystems, subsystems())
        .key("exposeAuthMetadataAsEnv", |docker| &mut docker.expose_metadata, switch())
        .key("auth", |docker| docker.registry_auth.get_or_insert_default(), &AUTH_CONFIG)
        .key("sidecars", |docker| &mut docker.sidecars, Sidecars::kind())
        .key("containername", |docker| &mut docker.persistent.name, own_name)
        .key("containerLabels", |docker| &mut docker.persistent.labels, any_number_of(container_name()))
        .key("selectableContainers", |docker| &mut docker.persistent.selectable, any_number_of(container_name()))
        .key("create", |docker| &mut docker.persistent.create, switch())
        .key("keep", |docker| &mut docker.persistent.keep, duration(KEEP))
}

/// Which of a user's doings share a container or pod.
pub(super) fn execution_mode() -> impl Kind<ExecutionMode> {
    const MODES: &[(&str, ExecutionMode)] = &[
        ("connection", ExecutionMode::Connection),
        ("session", ExecutionMode::Session),
        ("persistent", ExecutionMode::Persistent),
    ];
    choice(MODES, &[])
}

/// A command, which is not `internal-sftp` with what that cannot honour.
pub(super) fn parse_command(text: &str) -> Result<String, String> {
    match sftp_server::unable(text) {
        _ if text.is_empty() || text.contains('\0') => Err("must be a command, without a NUL in it".into()),
        Some(error) => Err(format!("{}: {error}", sftp_server::INTERNAL)),
        None => Ok(text.to_owned()),
    }
}

/// Commands of subsystems, by their names.
pub(super) fn subsystems() -> Named<Scalar<String>> {
    Named { allowed: "a name", good: is_line, value: parsed("a command", parse_command) }
}

/// Finds settings that do not go together.
fn check_persistent(root: &Node, docker: &Docker, reader: &mut Reader<'_>) {
    let Persistent { name, labels, selectable, create, .. } = &docker.persistent;
    let path = |key| ["docker", "execution", key];
    if docker.mode != ExecutionMode::Persistent {
        for (key, is_there) in [
            ("containername", name.is_some()),
            ("containerLabels", !labels.is_empty()),
            ("selectableContainers", !selectable.is_empty()),
            ("create", *create),
        ] {
            if is_there {
                reader.wrong_at(
                    root,
                    &path(key),
                    "is for mode: persistent; else each connection has a container, which berth names",
                );
            }
        }
        return;
    }
    if name.is_none() && labels.is_empty() && selectable.is_empty() && !create {
        let message = "persistent: which container? Set containername, containerLabels, selectableContainers or create";
        reader.wrong_at(root, &path("mode"), message);
    }
    if name.is_some() && !labels.is_empty() {
        reader.wrong_at(
            root,
            &path("containerLabels"),
            "the container has a containername already; remove one of them",
        );
    }
    if *create && !labels.is_empty() {
        reader.wrong_at(root, &path("containerLabels"), "with create, berth finds its containers by itself; remove it");
    }
    if !docker.sidecars.is_empty() {
        reader.wrong_at(
            root,
            &path("sidecars"),
            "with mode: persistent there is no container to put them beside; remove them",
        );
    }
    if docker.disable_agent {
        reader.wrong_at(root, &path("disableAgent"), "mode: persistent takes the agent; remove it");
    }
}

fn timeouts() -> Section<Docker> {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3600);
    let time = || duration(SHORTEST..=LONGEST);
    Section::new()
        .key("containerStart", |docker: &mut Docker| &mut docker.container_start, time())
        .key("containerStop", |docker| &mut docker.container_stop, time())
        .key("http", |docker| &mut docker.http, time())
        .needless(&["commandStart", "signal", "window"], "these need no call to the daemon")
}

/// `dockerrun`, the section before ContainerSSH 0.4: a container for each session.
pub(super) struct DockerRun(Section<Config>);

impl DockerRun {
    pub fn kind() -> Self {
        let inner = Section::new()
            .key("container", |docker: &mut Docker| &mut docker.container, &CONFIG)
            .key("host", |docker| &mut docker.host_config, &HOST_CONFIG)
            .key("network", |docker| &mut docker.networking_config, &NETWORKING_CONFIG)
            .key("platform", |docker| &mut docker.platform, Platform::kind())
            .refused(&["containername"], CONTAINER_NAME)
            .refused(&["disableCommand"], "not available yet; remove it")
            .needless(&["subsystems"], "SFTP is built in")
            .needless(&["timeout"], "docker.timeouts has one for each thing that can take time");
        let section = Section::new()
            .inline(|config: &mut Config| &mut config.docker_connection, docker_connection::section())
            .key("config", |config| &mut config.docker, inner);
        DockerRun(section)
    }
}

impl Kind<Config> for DockerRun {
    fn read(&self, node: &Node, target: &mut Config, reader: &mut Reader<'_>) {
        target.docker.mode = ExecutionMode::Session;
        self.0.read(node, target, reader);
    }

    fn schema(&self) -> Value {
        self.0.schema()
    }
}

const CONTAINER_NAME: &str = "each session has a container, which berth names; remove it";

/// `docker.execution.platform`: a text, or an object as in ContainerSSH.
struct Platform {
    text: Scalar<Option<String>>,
    object: Section<Parts>,
}

/// The parts of a platform.
#[derive(Default)]
struct Parts {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    fn kind() -> Self {
        let word = || text("a word in small letters", is_word);
        let object = Section::new()
            .key("os", |parts: &mut Parts| &mut parts.os, word())
            .key("architecture", |parts| &mut parts.architecture, word())
            .key("variant", |parts| &mut parts.variant, word());
        Platform { text: parsed("a platform", parse_platform).optional(), object }
    }
}

impl Kind<Option<String>> for Platform {
    fn read(&self, node: &Node, target: &mut Option<String>, reader: &mut Reader<'_>) {
        if !matches!(node.value, Typed::Map(_)) {
            return self.text.read(node, target, reader);
        }
        let mut parts = Parts::default();
        self.object.read(node, &mut parts, reader);
        let parts = [parts.os, parts.architecture, parts.variant];
        *target = Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
    }

    fn schema(&self) -> Value {
        json!({"anyOf": [self.text.schema(), self.object.schema()], "description": "a platform"})
    }
}

fn parse_platform(text: &str) -> Result<String, &'static str> {
    let good = (1..=3).contains(&text.split('/').count()) && text.split('/').all(is_word);
    if good { Ok(text.to_owned()) } else { Err("must be a platform such as linux/arm64 or linux/arm/v7") }
}

fn is_word(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
}
