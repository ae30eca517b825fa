//! The body of a pod: the configured one with the agent put in.

use std::collections::BTreeMap;

use openssl::sha::sha256;
use serde_json::{Map, Value as Json, json};

use super::outlook::items;
use crate::backend::{Request, mark};
use crate::config::{self, ContainerName, NameOf};
use crate::hex;
use crate::metadata::Metadata;

/// The labels on everything that is created for a connection.
pub(super) const INSTANCE_LABEL: &str = "berth.instance";
/// See [`INSTANCE_LABEL`].
pub(super) const CONNECTION_LABEL: &str = "berth.connection";
/// The annotations, which may have any value.
pub(super) const INSTANCE_ANNOTATION: &str = "berth.instance";
const USER_ANNOTATION: &str = "berth.user";
const CLIENT_ANNOTATION: &str = "berth.client";

/// ContainerSSH's own, beside those: others find pods by them.
const OLD_CONNECTION_LABEL: &str = "containerssh_connection_id";
const OLD_USER_LABEL: &str = "containerssh_username";
const OLD_CLIENT_ANNOTATION: &str = "containerssh_ip";

/// The volume with the agent in it, and the init container that fills it.
const VOLUME: &str = "berth";
const INIT_CONTAINER: &str = "berth-agent";
const DIRECTORY: &str = "/.berth";
/// The agent in a container, and its socket.
const AGENT: &str = "/.berth/berth";
const SOCKET: &str = "/.berth/agent.sock";

/// What waits for the agent where it is uploaded: opening a pipe waits for whoever opens its other end.
const WAIT: &str = "[ -p /.berth/go ] || mkfifo /.berth/go 2>/dev/null; read x </.berth/go; \
    exec /.berth/berth agent --listen /.berth/agent.sock -- \"$@\"";

/// What joins the agent.
pub(super) const JOIN: [&str; 4] = [AGENT, "agent", "join", SOCKET];

/// What uploads the agent, of this many bytes, and then joins it.
pub(super) fn upload(size: u64) -> [String; 3] {
    let script = format!(
        "umask 022; head -c {size} >/.berth/new && chmod 755 /.berth/new && mv /.berth/new /.berth/berth || exit 1; \
         [ -p /.berth/go ] || mkfifo /.berth/go 2>/dev/null; : >/.berth/go; exec {}",
        JOIN.join(" ")
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// What uploads the agent, of this many bytes, into a pod that stays, and then is the agent. `id` is in the name of its
/// directory: others in the pod may write where that is, so it must be one that is made here, and nobody can foretell.
pub(super) fn upload_to_stay(size: u64, id: &str) -> [String; 3] {
    let script = format!(
        "umask 077; set -C; t=; for d in /tmp /var/tmp /dev/shm .; do mkdir $d/.berth-{id} && t=$d/.berth-{id} && break; \
         done 2>/dev/null; [ \"$t\" ] || exit 1; f=$t/berth; \
         head -c {size} >$f && chmod 700 $f && exec $f agent --stdio --unlink; rm -rf $t; exit 1"
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// The value of the instance's label. An instance whose name cannot be one has a hash there.
pub(super) fn instance_label(instance: &str) -> String {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |name: &str| name.starts_with(char::is_alphanumeric) && name.ends_with(char::is_alphanumeric);
    if instance.len() <= 63 && instance.bytes().all(good) && ends(instance) {
        return instance.to_owned();
    }
    instance_hash(instance)
}

/// What stands for an instance where its name cannot.
pub(super) fn instance_hash(instance: &str) -> String {
    hex::encode(&sha256(instance.as_bytes())[..20])
}

/// The namespace that is configured for pods, if any is.
pub(super) fn namespace(settings: &config::Kubernetes) -> Option<&str> {
    settings.metadata.get("namespace").and_then(Json::as_str).filter(|name| !name.is_empty())
}

/// The name of a request's pod.
pub(super) fn name(settings: &config::Kubernetes, request: &Request) -> String {
    let prefix = settings.metadata.get("generateName").and_then(Json::as_str).filter(|prefix| !prefix.is_empty());
    format!("{}{}", prefix.unwrap_or("berth-"), request.id())
}

/// Which of a pod's `containers` the user is in.
fn console(settings: &config::Kubernetes, containers: &Json) -> usize {
    let wanted = settings.console_name.as_deref();
    let named = wanted.and_then(|name| items(containers).position(|container| container["name"] == name));
    named.unwrap_or(settings.console_container)
}

/// The annotation by which kubectl and others know the container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The name of the container that the user is in, in a pod that is made of this spec.
pub(super) fn console_name(settings: &config::Kubernetes, spec: &Json) -> String {
    let containers = &spec["containers"];
    let name = containers[console(settings, containers)]["name"].as_str();
    name.filter(|name| !name.is_empty()).unwrap_or("shell").to_owned()
}

/// The name of the container that the user is in, in a pod that is there. Others may have put theirs before it. `is_made`
/// says that the pod is one that is made where it is missing.
pub(super) fn found_console_name(settings: &config::Kubernetes, pod: &Json, is_made: bool) -> String {
    let has = |name: &str| items(&pod["spec"]["containers"]).any(|container| container["name"] == name);
    let made = is_made.then(|| console_name(settings, &Json::Object(settings.spec.clone())));
    let default = || pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    let by_name = match (&settings.console_name, made) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(name)) if has(&name) => Some(name),
        (None, _) if settings.console_container == 0 => default().filter(|name| has(name)).map(str::to_owned),
        (None, _) => None,
    };
    by_name.unwrap_or_else(|| console_name(settings, &pod["spec"]))
}

/// For whom a pod is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// The connection, with which it goes. The instance's name is its label.
    Connection(&'a str),
    /// The user, for whom it stays.
    User,
}

/// The body.
pub(super) fn body(
    settings: &config::Kubernetes,
    owner: Owner<'_>,
    request: &Request,
    namespace: &str,
    name: &str,
) -> Json {
    let mut metadata = settings.metadata.clone();
    metadata.remove("generateName");
    metadata.insert("name".into(), name.into());
    metadata.insert("namespace".into(), namespace.into());
    let client = request.client.to_string();
    let address = request.client.ip().to_string();
    extend(&mut metadata, "labels", []);
    let annotations =
        [(USER_ANNOTATION, &*request.user), (CLIENT_ANNOTATION, &client), (OLD_CLIENT_ANNOTATION, &address)];
    extend(&mut metadata, "annotations", annotations);
    if let Owner::Connection(instance) = owner {
        let label = instance_label(instance);
        let connection = &*request.connection;
        let labels = [(INSTANCE_LABEL, &*label), (CONNECTION_LABEL, connection), (OLD_CONNECTION_LABEL, connection)];
        extend(&mut metadata, "labels", labels);
        extend(&mut metadata, "annotations", [(INSTANCE_ANNOTATION, instance)]);
    }
    if owner == Owner::User {
        for label in metadata["labels"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Ok(template) = ContainerName::parse(label.as_str().unwrap_or_default()) {
                *label = template.fill(&request.user, NameOf::Label).into();
            }
        }
        extend(&mut metadata, "annotations", [(mark::MARK, &*mark::of(&json!(settings.spec)))]);
    }
    extend(&mut metadata, "labels", [(OLD_USER_LABEL, &*config::label(&request.user))]);
    for (key, names) in [("labels", &settings.labels), ("annotations", &settings.annotations)] {
        extend(&mut metadata, key, exposed(names, &request.metadata));
    }

    let mut spec = settings.spec.clone();
    let index = console(settings, spec.get("containers").unwrap_or(&Json::Null));
    let container = spec.get_mut("containers").and_then(|list| list.get_mut(index)).and_then(Json::as_object_mut);
    // The configuration was checked.
    let Some(container) = container else { return Json::Null };
    container.entry("name").or_insert_with(|| "shell".into());
    // One that stays is for later logins, too, which have variables of their own.
    if owner != Owner::User {
        for (name, value) in variables(settings, &request.metadata) {
            // Of two of a name, the last counts.
            push(container, "env", json!({ "name": name, "value": value }));
        }
    }
    if owner == Owner::User || settings.disable_agent {
        container.insert("command".into(), settings.idle_command.as_slice().into());
        container.remove("args");
    } else {
        let mount = put_agent(settings, container);
        let init = settings.agent_image.as_ref().map(|image| install(image, &mount, container));
        push(&mut spec, "volumes", json!({ "name": VOLUME, "emptyDir": {} }));
        match (init, spec.get_mut("initContainers")) {
            (Some(init), Some(Json::Array(list))) => list.insert(0, init),
            (Some(init), _) => drop(spec.insert("initContainers".into(), json!([init]))),
            (None, _) => {}
        }
    }
    if !["serviceAccountName", "serviceAccount"].iter().any(|key| spec.contains_key(*key)) {
        // Users are no clients of the cluster's, unless an account is named for them.
        spec.entry("automountServiceAccountToken").or_insert(false.into());
    }
    if owner != Owner::User {
        spec.entry("restartPolicy").or_insert_with(|| "Never".into());
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// What programs are to have of a login's metadata, by the names of variables. Of two of a name, the last counts.
pub(super) fn variables<'a>(
    settings: &'a config::Kubernetes,
    metadata: &'a Metadata,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let environment = metadata.environment.iter().map(|(name, fact)| (name.as_str(), fact.value.as_str()));
    exposed(&settings.variables, metadata).chain(environment)
}

/// What is to be told of metadata, by the names that they have there.
fn exposed<'a>(
    names: &'a BTreeMap<String, String>,
    metadata: &'a Metadata,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let facts = &metadata.facts;
    names.iter().filter_map(|(fact, name)| Some((name.as_str(), facts.get(fact)?.value.as_str())))
}

/// Lets a container begin with the agent; gives the mount that it takes.
fn put_agent(settings: &config::Kubernetes, container: &mut Map<String, Json>) -> Json {
    let words = |name: &str| container.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    // Arguments alone are those of the image's own entry point, which nobody here knows.
    let own = if words("command").is_empty() { Vec::new() } else { [words("command"), words("args")].concat() };
    let (command, arguments) = match settings.agent_image {
        Some(_) => (json!([AGENT]), vec!["agent", "--listen", SOCKET, "--"]),
        None => (json!(["/bin/sh", "-c", WAIT, "berth"]), Vec::new()),
    };
    let arguments: Vec<Json> = arguments.into_iter().map(Json::from).chain(own).collect();
    container.insert("command".into(), command);
    container.insert("args".into(), arguments.into());
    let mount = json!({ "name": VOLUME, "mountPath": DIRECTORY });
    push(container, "volumeMounts", mount.clone());
    mount
}

/// The init container that brings the agent for `container`.
fn install(image: &str, mount: &Json, container: &Map<String, Json>) -> Json {
    let mut init = json!({
        "name": INIT_CONTAINER,
        "image": image,
        "args": ["agent", "install", AGENT],
        "volumeMounts": [mount],
    });
    // What the pod's own container is held to, by a policy or a quota, holds for this, too.
    for key in ["imagePullPolicy", "resources", "securityContext"] {
        if let Some(value) = container.get(key) {
            init[key] = value.clone();
        }
    }
    init
}

fn extend<'a>(metadata: &mut Map<String, Json>, key: &str, more: impl IntoIterator<Item = (&'a str, &'a str)>) {
    if !matches!(metadata.get(key), Some(Json::Object(_))) {
        metadata.insert(key.into(), json!({}));
    }
    for (name, value) in more {
        metadata[key][name] = value.into();
    }
}

fn push(map: &mut Map<String, Json>, key: &str, item: Json) {
    match map.get_mut(key) {
        Some(Json::Array(list)) => list.push(item),
        _ => drop(map.insert(key.into(), json!([item]))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::config::KubernetesEnvironment;
    use crate::metadata::Metadata;

    #[test]
    fn what_somebody_else_has_prepared_is_no_place_for_an_upload() {
        let id = format!("test-{}", std::process::id());
        let (place, target) = (format!("/tmp/.berth-{id}"), std::env::temp_dir().join(format!("berth-pod-{id}")));
        fs::create_dir(&target).unwrap();
        let agent = b"#!/bin/sh\necho $0 $*; rm -r ${0%/*}\n";
        let upload = || {
            let [shell, option, script] = upload_to_stay(agent.len() as u64, &id);
            let mut command = Command::new(shell);
            let mut child =
                command.args([option, script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(agent).unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
        };
        assert_eq!(upload(), format!("{place}/berth agent --stdio --unlink\n"));
        std::os::unix::fs::symlink(&target, &place).unwrap();
        assert_eq!(upload(), format!("/var/tmp/.berth-{id}/berth agent --stdio --unlink\n"));
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        fs::remove_file(&place).unwrap();
        fs::remove_dir(&target).unwrap();
    }

    #[test]
    fn a_user_is_in_the_container_that_is_his_wherever_others_have_put_theirs() {
        let mut settings = config::Kubernetes::new(&KubernetesEnvironment::default());
        settings.spec.insert("containers".into(), json!([{"image": "a"}]));
        let mut pod = json!({"spec": {"containers": [{"name": "proxy"}, {"name": "shell"}, {"name": "web"}]}});
        assert_eq!(found_console_name(&settings, &pod, true), "shell");
        assert_eq!(found_console_name(&settings, &pod, false), "proxy");
        pod["metadata"]["annotations"][DEFAULT_CONTAINER] = "web".into();
        assert_eq!(found_console_name(&settings, &pod, true), "shell");
        assert_eq!(found_console_name(&settings, &pod, false), "web");
        pod["metadata"]["annotations"][DEFAULT_CONTAINER] = "gone".into();
        assert_eq!(found_console_name(&settings, &pod, false), "proxy");
        settings.console_container = 1;
        assert_eq!(found_console_name(&settings, &pod, false), "shell");
        settings.console_name = Some("proxy".into());
        assert_eq!(found_console_name(&settings, &pod, true), "proxy");
        // One that somebody else has made in its place.
        settings.console_name = None;
        settings.spec.insert("containers".into(), json!([{"image": "a", "name": "own"}]));
        settings.console_container = 0;
        assert_eq!(found_console_name(&settings, &pod, true), "proxy");
    }

    #[test]
    fn users_have_no_account_of_the_clusters_unless_one_is_named_for_them() {
        let request = Request {
            connection: "0".repeat(32),
            number: 0,
            user: "alice".into(),
            client: ([127, 0, 0, 1], 1).into(),
            container: None,
            metadata: Arc::new(Metadata::default()),
        };
        let token = |more: Json| {
            let mut settings = config::Kubernetes::new(&KubernetesEnvironment::default());
            settings.spec.insert("containers".into(), json!([{"image": "a"}]));
            settings.spec.extend(more.as_object().unwrap().clone());
            body(&settings, Owner::User, &request, "guests", "a")["spec"]["automountServiceAccountToken"].clone()
        };
        assert_eq!(token(json!({})), false);
        assert_eq!(token(json!({"automountServiceAccountToken": true})), true);
        assert_eq!(token(json!({"serviceAccountName": "builder"})), Json::Null);
    }
}
