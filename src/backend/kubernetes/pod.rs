//! The body of a pod: the configured one with the agent put in.

use openssl::sha::sha256;
use serde_json::{Map, Value as Json, json};

use crate::backend::Request;
use crate::config;

/// The labels on everything that is created for a connection.
pub(super) const INSTANCE_LABEL: &str = "berth.instance";
/// See [`INSTANCE_LABEL`].
pub(super) const CONNECTION_LABEL: &str = "berth.connection";
/// The annotations, which may have any value.
const INSTANCE_ANNOTATION: &str = "berth.instance";
const USER_ANNOTATION: &str = "berth.user";
const CLIENT_ANNOTATION: &str = "berth.client";

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

/// What uploads the agent, of this many bytes, into a pod that stays, and then is the agent. `id` is in its file's name.
pub(super) fn upload_to_stay(size: u64, id: &str) -> [String; 3] {
    let script = format!(
        "umask 077; for d in /tmp /var/tmp /dev/shm .; do f=$d/.berth-{id}; true >$f && break; done 2>/dev/null; \
         head -c {size} >$f && chmod 700 $f && exec $f agent --stdio --unlink; rm -f $f; exit 1"
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
    sha256(instance.as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
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

/// The name of the container that the user is in.
pub(super) fn console(settings: &config::Kubernetes) -> String {
    let container = settings.spec.get("containers").and_then(|list| list.get(settings.console_container));
    let name = container.and_then(|container| container.get("name")).and_then(Json::as_str);
    name.filter(|name| !name.is_empty()).unwrap_or("shell").to_owned()
}

/// The body.
pub(super) fn body(
    settings: &config::Kubernetes,
    instance: &str,
    request: &Request,
    namespace: &str,
    name: &str,
) -> Json {
    let mut metadata = settings.metadata.clone();
    metadata.remove("generateName");
    metadata.insert("name".into(), name.into());
    metadata.insert("namespace".into(), namespace.into());
    let labels = [(INSTANCE_LABEL, instance_label(instance)), (CONNECTION_LABEL, request.connection.clone())];
    let annotations = [
        (INSTANCE_ANNOTATION, instance.to_owned()),
        (USER_ANNOTATION, request.user.clone()),
        (CLIENT_ANNOTATION, request.client.to_string()),
    ];
    extend(&mut metadata, "labels", &labels);
    extend(&mut metadata, "annotations", &annotations);

    let mut spec = settings.spec.clone();
    spec.entry("restartPolicy").or_insert_with(|| "Never".into());
    let Some(container) = spec.get_mut("containers").and_then(|list| list.get_mut(settings.console_container)) else {
        // The configuration was checked.
        return Json::Null;
    };
    let Some(container) = container.as_object_mut() else { return Json::Null };
    container.insert("name".into(), console(settings).into());
    let facts = request.metadata.facts.iter().filter(|_| settings.expose_metadata);
    for (name, fact) in facts.chain(&request.metadata.environment) {
        // Of two of a name, the last counts.
        push(container, "env", json!({ "name": name, "value": fact.value }));
    }
    if settings.disable_agent {
        container.insert("command".into(), settings.idle_command.as_slice().into());
        container.remove("args");
    } else {
        put_agent(settings, &mut spec);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// Lets the main container begin with the agent.
fn put_agent(settings: &config::Kubernetes, spec: &mut Map<String, Json>) {
    push(spec, "volumes", json!({ "name": VOLUME, "emptyDir": {} }));
    let container = spec.get_mut("containers").and_then(|list| list.get_mut(settings.console_container));
    let Some(container) = container.and_then(Json::as_object_mut) else { return };
    let words = |name: &str| container.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    // Arguments alone are those of the image's own entry point, which nobody here knows.
    let own = if words("command").is_empty() { Vec::new() } else { [words("command"), words("args")].concat() };
    let (command, mut arguments) = match settings.agent_image {
        Some(_) => (vec![AGENT], vec!["agent", "--listen", SOCKET, "--"]),
        None => (vec!["/bin/sh", "-c", WAIT, "berth"], Vec::new()),
    };
    let arguments: Vec<Json> = arguments.drain(..).map(Json::from).chain(own).collect();
    container.insert("command".into(), command.into());
    container.insert("args".into(), arguments.into());
    let mount = json!({ "name": VOLUME, "mountPath": DIRECTORY });
    push(container, "volumeMounts", mount.clone());

    if let Some(image) = &settings.agent_image {
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
        match spec.get_mut("initContainers") {
            Some(Json::Array(list)) => list.insert(0, init),
            _ => drop(spec.insert("initContainers".into(), json!([init]))),
        }
    }
}

fn extend(metadata: &mut Map<String, Json>, key: &str, more: &[(&str, String)]) {
    if !matches!(metadata.get(key), Some(Json::Object(_))) {
        metadata.insert(key.into(), json!({}));
    }
    for (name, value) in more {
        metadata[key][name] = value.as_str().into();
    }
}

fn push(map: &mut Map<String, Json>, key: &str, item: Json) {
    match map.get_mut(key) {
        Some(Json::Array(list)) => list.push(item),
        _ => drop(map.insert(key.into(), json!([item]))),
    }
}
