//! The `kubernetes` section.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::docker::{
    ExecutionMode, IDLE_COMMAND, check_subsystems, container_name, execution_mode, subsystems, with_sftp,
};
use super::kind::{
    Named, Private, Scalar, any_number_of, duration, integer, is_line, one_or_more, parsed, path, pem, pem_file,
    switch, text,
};
use super::naming::ContainerName;
use super::pem::Pem;
use super::pod_api::Object;
use super::reader::{Kind, Reader};
use super::section::Section;
use super::yaml::Node;
use super::{CONTAINERSSH_IMAGE, Config};

/// Settings of the Kubernetes backend.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// `kubernetes.connection`
    pub connection: KubernetesConnection,
    /// `kubernetes.pod.mode`
    pub mode: ExecutionMode,
    /// `kubernetes.pod.metadata`: the API's `ObjectMeta`, as typed.
    pub metadata: Map<String, Json>,
    /// `kubernetes.pod.spec`: the API's `PodSpec`, as typed.
    pub spec: Map<String, Json>,
    /// `kubernetes.pod.consoleContainerNumber`: the container that the user is in, counted from 0.
    pub console_container: usize,
    /// `kubernetes.pod.consoleContainerName`: or its name.
    pub console_name: Option<String>,
    /// `kubernetes.pod.selectablePods`: the names that users may choose from, with wildcards, in persistent mode.
    pub selectable: Vec<ContainerName>,
    /// `kubernetes.pod.createMissingPods`: whether a pod that is not there is made, in persistent mode.
    pub create_missing: bool,
    /// `kubernetes.pod.agentImage`: an image of berth, which brings the agent. Without one, the agent is uploaded.
    pub agent_image: Option<String>,
    /// `kubernetes.pod.disableAgent`: native mode.
    pub disable_agent: bool,
    /// `kubernetes.pod.idleCommand`: what keeps a container running in native mode.
    pub idle_command: Vec<String>,
    /// `kubernetes.pod.shellCommand`: in native mode, what a shell is; by default `/bin/sh`.
    pub shell_command: Vec<String>,
    /// `kubernetes.pod.subsystems`, as it is set: see [`Kubernetes::all_subsystems`].
    pub subsystems: BTreeMap<String, String>,
    /// `kubernetes.pod.exposeAuthMetadataAsEnv`: the variables that metadata become, by the metadata's names.
    pub variables: BTreeMap<String, String>,
    /// `kubernetes.pod.exposeAuthMetadataAsLabels`: and the labels.
    pub labels: BTreeMap<String, String>,
    /// `kubernetes.pod.exposeAuthMetadataAsAnnotations`: and the annotations.
    pub annotations: BTreeMap<String, String>,
    /// `kubernetes.timeouts.podStart`: from create to the agent's first byte.
    pub pod_start: Duration,
    /// `kubernetes.timeouts.podStop`: for the removal.
    pub pod_stop: Duration,
    /// `kubernetes.timeouts.http`: for one API call.
    pub http: Duration,
}

/// `kubernetes.connection`: which cluster, and as whom. What it names is read when it is needed, since tokens and
/// certificates are exchanged in their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesConnection {
    /// `kubeconfig`: files, of which the first that has something counts.
    pub kubeconfig: Vec<PathBuf>,
    /// `context`: one in them, in place of the current one.
    pub context: Option<String>,
    /// `namespace`: where pods are, unless `kubernetes.pod.metadata.namespace` says it.
    pub namespace: Option<String>,
    /// `host`: the API server, for an explicit connection. The rest is only for that.
    pub host: Option<String>,
    /// `path`: where its API begins.
    pub path: String,
    /// `username` and `password`, for basic authentication.
    pub username: Option<String>,
    /// See `username`.
    pub password: Option<Secret>,
    /// `bearerToken`
    pub bearer_token: Option<Secret>,
    /// `bearerTokenFile`: read before every request.
    pub bearer_token_file: Option<PathBuf>,
    /// `serverName`: the name in the server's certificate.
    pub server_name: Option<String>,
    /// `insecure`: whether the server's certificate is not checked.
    pub insecure: bool,
    /// `cacert`, `cacertFile`
    pub authorities: Option<Pem>,
    /// `cert`, `certFile`
    pub certificate: Option<Pem>,
    /// `key`, `keyFile`
    pub key: Option<Pem>,
    /// Where else a cluster may be named.
    pub environment: KubernetesEnvironment,
}

/// A text that messages do not show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What kubectl takes from its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesEnvironment {
    /// `KUBECONFIG`, or else `.kube/config` at home.
    pub kubeconfig: Vec<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which every pod has: host and port.
    pub service: Option<String>,
}

impl KubernetesEnvironment {
    /// This process's.
    pub(super) fn of_process() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let home = || Path::new(&set("HOME").unwrap_or_else(|| "/".to_owned())).join(".kube/config");
        let kubeconfig = match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            Some(list) => env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
            None => vec![home()],
        };
        let service = set("KUBERNETES_SERVICE_HOST")
            .zip(set("KUBERNETES_SERVICE_PORT"))
            .map(|(host, port)| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
        KubernetesEnvironment { kubeconfig, service }
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Kubernetes::new(&KubernetesEnvironment::default())
    }
}

impl Kubernetes {
    /// The defaults.
    pub(crate) fn new(environment: &KubernetesEnvironment) -> Self {
        let connection = KubernetesConnection {
            path: "/api".to_owned(),
            environment: environment.clone(),
            ..KubernetesConnection::default()
        };
        Kubernetes {
            connection,
            mode: ExecutionMode::default(),
            metadata: Map::new(),
            spec: Map::new(),
            console_container: 0,
            console_name: None,
            selectable: Vec::new(),
            create_missing: false,
            agent_image: None,
            disable_agent: false,
            idle_command: IDLE_COMMAND.map(str::to_owned).to_vec(),
            shell_command: Vec::new(),
            subsystems: BTreeMap::new(),
            variables: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            pod_start: Duration::from_secs(60),
            pod_stop: Duration::from_secs(60),
            http: Duration::from_secs(15),
        }
    }

    /// The commands of subsystems, by their names: SFTP among them, set or not.
    pub fn all_subsystems(&self) -> BTreeMap<String, String> {
        with_sftp(&self.subsystems, self.disable_agent)
    }
}

pub(super) fn section() -> Section<Kubernetes> {
    Section::new()
        .key("connection", |kubernetes: &mut Kubernetes| &mut kubernetes.connection, connection())
        .key("pod", |kubernetes| kubernetes, pod())
        .key("timeouts", |kubernetes| kubernetes, timeouts())
}

/// What users and groups can have of it: all but the cluster.
pub(super) fn of_users() -> Section<Kubernetes> {
    Section::new().key("pod", |kubernetes: &mut Kubernetes| kubernetes, pod()).key(
        "timeouts",
        |kubernetes| kubernetes,
        timeouts(),
    )
}

fn connection() -> Section<KubernetesConnection> {
    let word = |allowed| text(allowed, is_line).optional();
    let secret = |allowed| parsed(allowed, parse_secret).optional();
    let prefix = text("a path such as /api", |text| {
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
    });
    Section::new()
        .key("kubeconfig", |connection: &mut KubernetesConnection| &mut connection.kubeconfig, any_number_of(path()))
        .key("context", |connection| &mut connection.context, word("the name of a context"))
        .key("namespace", |connection| &mut connection.namespace, namespace())
        .key("host", |connection| &mut connection.host, word("an API server, such as https://10.0.0.1:6443"))
        .key("path", |connection| &mut connection.path, prefix)
        .key("username", |connection| &mut connection.username, word("a user's name"))
        .key("password", |connection| &mut connection.password, secret("a password"))
        .key("bearerToken", |connection| &mut connection.bearer_token, secret("a token"))
        .key("bearerTokenFile", |connection| &mut connection.bearer_token_file, Private(path().optional()))
        .key("serverName", |connection| &mut connection.server_name, word("a host's name"))
        .key("insecure", |connection| &mut connection.insecure, switch())
        .key("cacert", |connection| &mut connection.authorities, pem().optional())
        .key("cacertFile", |connection| &mut connection.authorities, pem_file().optional())
        .key("cert", |connection| &mut connection.certificate, pem().optional())
        .key("certFile", |connection| &mut connection.certificate, pem_file().optional())
        .key("key", |connection| &mut connection.key, Private(pem().optional()))
        .key("keyFile", |connection| &mut connection.key, Private(pem_file().optional()))
        .inert(&["qps", "burst"])
}

fn namespace() -> Scalar<Option<String>> {
    text("the name of a namespace, for all users", |name| is_line(name) && !name.contains('%')).optional()
}

fn parse_secret(text: &str) -> Result<Secret, &'static str> {
    if is_line(text) { Ok(Secret(text.to_owned())) } else { Err("must be one line of text") }
}

fn pod() -> Section<Kubernetes> {
    let name = |allowed| text(allowed, is_line);
    let exposed = |value| Named { allowed: "the name of metadata", good: is_line, value: name(value) };
    let image = text("the name of an image", |name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
    let word = || text("a text", |_| true);
    Section::new()
        .key("mode", |kubernetes: &mut Kubernetes| &mut kubernetes.mode, execution_mode())
        .key("metadata", |kubernetes| &mut kubernetes.metadata, Object("ObjectMeta"))
        .key("spec", |kubernetes| &mut kubernetes.spec, Object("PodSpec"))
        .key("consoleContainerNumber", |kubernetes| &mut kubernetes.console_container, integer(0..=1000))
        .key(
            "consoleContainerName",
            |kubernetes| &mut kubernetes.console_name,
            name("the name of a container").optional(),
        )
        .key("selectablePods", |kubernetes| &mut kubernetes.selectable, any_number_of(container_name()))
        .key("createMissingPods", |kubernetes| &mut kubernetes.create_missing, switch())
        .key("agentImage", |kubernetes| &mut kubernetes.agent_image, image.optional())
        .needless(&["agentPath"], "berth brings its own agent; see agentImage")
        .key("disableAgent", |kubernetes| &mut kubernetes.disable_agent, switch())
        .key("idleCommand", |kubernetes| &mut kubernetes.idle_command, one_or_more(word()))
        .key("shellCommand", |kubernetes| &mut kubernetes.shell_command, one_or_more(word()))
        .key("subsystems", |kubernetes| &mut kubernetes.subsystems, subsystems())
        .key("exposeAuthMetadataAsEnv", |kubernetes| &mut kubernetes.variables, exposed("the name of a variable"))
        .key("exposeAuthMetadataAsLabels", |kubernetes| &mut kubernetes.labels, exposed("the name of a label"))
        .key(
            "exposeAuthMetadataAsAnnotations",
            |kubernetes| &mut kubernetes.annotations,
            exposed("the name of an annotation"),
        )
}

fn timeouts() -> Section<Kubernetes> {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3600);
    let time = || duration(SHORTEST..=LONGEST);
    Section::new()
        .key("podStart", |kubernetes: &mut Kubernetes| &mut kubernetes.pod_start, time())
        .key("podStop", |kubernetes| &mut kubernetes.pod_stop, time())
        .key("http", |kubernetes| &mut kubernetes.http, time())
        .needless(&["commandStart", "signal", "window"], "berth's agent does this by itself, at once")
}

/// Gives pods a container where it is for the configuration server to name another.
pub(super) fn complete(config: &mut Config, reader: &Reader<'_>) {
    if config.kubernetes.spec.is_empty() && config.is_completed_by_answers() && !reader.is_wrong_in("kubernetes") {
        let container = json!({ "name": "shell", "image": CONTAINERSSH_IMAGE });
        config.kubernetes.spec.insert("containers".into(), json!([container]));
    }
}

/// Tells what of it does not fit together.
pub(super) fn check(root: &Node, kubernetes: &Kubernetes, reader: &mut Reader<'_>) {
    if kubernetes.disable_agent {
        check_subsystems(root, &["kubernetes", "pod", "subsystems"], &kubernetes.subsystems, reader);
    }
    for (path, message) in contradictions(kubernetes) {
        reader.wrong_at(root, &[&["kubernetes"], path].concat(), message);
    }
}

/// What cannot be right together, by the path below `kubernetes`.
fn contradictions(kubernetes: &Kubernetes) -> Vec<(&'static [&'static str], String)> {
    let mut wrong: Vec<(&'static [&'static str], String)> = Vec::new();
    let connection = &kubernetes.connection;
    if connection.host.is_some() && (!connection.kubeconfig.is_empty() || connection.context.is_some()) {
        wrong.push((&["connection", "host"], "give either a host or a kubeconfig".into()));
    }
    let explicit = connection.username.is_some()
        || connection.bearer_token.is_some()
        || connection.bearer_token_file.is_some()
        || connection.server_name.is_some()
        || connection.insecure
        || [&connection.authorities, &connection.certificate, &connection.key].into_iter().any(Option::is_some);
    if explicit && connection.host.is_none() {
        let message = "missing, and there are credentials for it; inside of a cluster it is kubernetes.default.svc";
        wrong.push((&["connection", "host"], message.into()));
    }
    if connection.certificate.is_some() != connection.key.is_some() {
        wrong.push((&["connection"], "give both cert and key, or neither".into()));
    }
    if kubernetes.disable_agent && kubernetes.agent_image.is_some() {
        wrong.push((
            &["pod", "agentImage"],
            "is for the agent, which disableAgent keeps out; remove one of them".into(),
        ));
    }
    let is_persistent = kubernetes.mode == ExecutionMode::Persistent;
    if is_persistent {
        wrong.extend(check_persistent(kubernetes));
    } else {
        let message = "is for mode: persistent; else there is a pod for each connection; remove it";
        if kubernetes.create_missing {
            wrong.push((&["pod", "createMissingPods"], message.into()));
        }
        if !kubernetes.selectable.is_empty() {
            wrong.push((&["pod", "selectablePods"], message.into()));
        }
    }
    if is_persistent && !kubernetes.create_missing {
        return wrong;
    }
    let containers = kubernetes.spec.get("containers").and_then(Json::as_array);
    let containers = containers.map(Vec::as_slice).unwrap_or_default();
    if containers.is_empty() {
        wrong.push((&["pod", "spec", "containers"], "missing; name at least one container with its image".into()));
    } else if let Some(name) = &kubernetes.console_name {
        if !containers.iter().any(|container| container["name"] == name.as_str()) {
            wrong.push((&["pod", "consoleContainerName"], format!("there is no container {name:?}")));
        }
    } else if kubernetes.console_container >= containers.len() {
        let message = format!("there are {} containers, which are counted from 0", containers.len());
        wrong.push((&["pod", "consoleContainerNumber"], message));
    }
    if let Some(without) = containers.iter().position(|container| !container["image"].is_string()) {
        wrong.push((&["pod", "spec", "containers"], format!("container {without} has no image")));
    }
    if is_persistent {
        return wrong;
    }
    if kubernetes.spec.get("restartPolicy").is_some_and(|policy| policy != "Never") {
        let message = "must be Never: a pod ends with its connection; remove it".to_owned();
        wrong.push((&["pod", "spec", "restartPolicy"], message));
    }
    if kubernetes.metadata.contains_key("name") {
        let message =
            "each connection has a pod, which berth names; give a generateName, or set mode: persistent".to_owned();
        wrong.push((&["pod", "metadata", "name"], message));
    }
    let labels = kubernetes.metadata.get("labels").and_then(Json::as_object);
    for (name, value) in labels.into_iter().flatten() {
        if value.as_str().is_some_and(|value| value.contains('%')) {
            let message =
                format!("{name}: % cannot be in a label; %u stands for the user's name with mode: persistent");
            wrong.push((&["pod", "metadata", "labels"], message));
        }
    }
    wrong
}

/// In persistent mode, the metadata are what a pod is found by.
fn check_persistent(kubernetes: &Kubernetes) -> Option<(&'static [&'static str], String)> {
    let metadata = &kubernetes.metadata;
    let name = metadata.get("name").filter(|name| !name.is_null());
    if kubernetes.create_missing && name.is_none() {
        return Some((&["pod", "metadata"], "name: missing; createMissingPods takes the pods' name".into()));
    }
    let labels = metadata.get("labels").and_then(Json::as_object).into_iter().flat_map(Map::values);
    let all: Vec<&Json> = name.into_iter().chain(labels).collect();
    if all.is_empty() && kubernetes.selectable.is_empty() {
        let message =
            "persistent: which pod? Set metadata.name, metadata.labels or selectablePods; %u is the user's name";
        return Some((&["pod", "mode"], message.into()));
    }
    let wrong = all.into_iter().find_map(|value| ContainerName::parse(value.as_str().unwrap_or_default()).err());
    wrong.map(|message| (["pod", "metadata"].as_slice(), message.to_owned()))
}

/// `kuberun`, the section before ContainerSSH 0.4: a pod for each session.
pub(super) struct KubeRun(Section<Kubernetes>);

impl KubeRun {
    pub fn kind() -> Self {
        let pod = Section::new()
            .key("namespace", |kubernetes: &mut Kubernetes| &mut kubernetes.connection.namespace, namespace())
            .key("podSpec", |kubernetes| &mut kubernetes.spec, Object("PodSpec"))
            .key("consoleContainerNumber", |kubernetes| &mut kubernetes.console_container, integer(0..=1000))
            .refused(&["disableCommand"], "use security.command, with mode: disable")
            .needless(&["subsystems"], "SFTP is built in");
        let connection = connection().needless(&["timeout"], "kubernetes.timeouts has one for each thing");
        let section = Section::new()
            .key("connection", |kubernetes: &mut Kubernetes| &mut kubernetes.connection, connection)
            .key("pod", |kubernetes| kubernetes, pod);
        KubeRun(section)
    }
}

impl Kind<Kubernetes> for KubeRun {
    fn read(&self, node: &Node, target: &mut Kubernetes, reader: &mut Reader<'_>) {
        target.mode = ExecutionMode::Session;
        self.0.read(node, target, reader);
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
