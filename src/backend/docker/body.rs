//! The body of `POST /containers/create`: the configured one with the agent put in.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::agent::Volume;
use super::image::Image;
use super::sign::SERVER_LABEL;
use super::{Error, agent};
use crate::backend::Request;
use crate::config;

/// Where the directory with the agent's socket is mounted.
const SOCKET_DIRECTORY: &str = "/.berth/run";
/// The agent's socket in a container.
const SOCKET_PATH: &str = "/.berth/run/agent.sock";

/// The labels on everything that is created for a connection.
pub(super) const INSTANCE_LABEL: &str = "berth.instance";
/// See [`INSTANCE_LABEL`].
pub(super) const CONNECTION_LABEL: &str = "berth.connection";
pub(super) const USER_LABEL: &str = "berth.user";
const CLIENT_LABEL: &str = "berth.client";

/// The labels for a request of this server's.
pub(super) fn labels(instance: &str, server: &str, request: &Request) -> Map<String, Value> {
    let labels = [
        (INSTANCE_LABEL, instance.to_owned()),
        (SERVER_LABEL, server.to_owned()),
        (CONNECTION_LABEL, request.connection.clone()),
        (USER_LABEL, request.user.clone()),
        (CLIENT_LABEL, request.client.to_string()),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}

/// The labels that ContainerSSH gives a user's container, beside berth's: others build on them.
pub(super) const OLD_USER_LABEL: &str = "containerssh_username";

/// The labels of the container that a connection's user is in.
pub(super) fn of_user(mut labels: Map<String, Value>, request: &Request) -> Map<String, Value> {
    labels.insert("containerssh_connection_id".into(), request.connection.as_str().into());
    labels.insert("containerssh_ip".into(), request.client.ip().to_string().into());
    labels.insert(OLD_USER_LABEL.into(), request.user.as_str().into());
    labels
}

/// Finds settings that can not work with an agent as PID 1, when berth starts rather than when a user waits.
pub(super) fn check(settings: &config::Docker) -> Result<(), Error> {
    let wrong = |detail: &str| Err(Error::Settings(detail.to_owned()));
    let joins = settings.mode == config::ExecutionMode::Persistent && !settings.persistent.create;
    if image(settings).is_empty() && !joins {
        return wrong("docker.execution.container.image is missing");
    }
    if !settings.disable_agent && settings.host_config.get("Init") == Some(&Value::Bool(true)) {
        return wrong("docker.execution.host.init must not be true: the agent is the container's init; remove it");
    }
    for (map, name, good) in [
        (&settings.container, "Labels", Value::is_object as fn(&Value) -> bool),
        (&settings.host_config, "Mounts", Value::is_array),
    ] {
        if map.get(name).is_some_and(|value| !value.is_null() && !good(value)) {
            return Err(Error::Settings(format!("docker: {name} has the wrong type; see the Docker API")));
        }
    }
    Ok(())
}

/// The configured image's name.
pub(super) fn image(settings: &config::Docker) -> &str {
    settings.container.get("Image").and_then(Value::as_str).unwrap_or_default()
}

/// The body. `volume` has the agent, `directory` its socket's on the host; without one the agent's stream is standard
/// input and output.
pub(super) fn create(
    settings: &config::Docker,
    image: &Image,
    labels: Map<String, Value>,
    volume: &Volume,
    directory: Option<&Path>,
) -> Value {
    let (mut body, mut host) = configured(settings, labels, directory.is_none());
    let command = command(&body, image);
    let entry_point = match directory {
        Some(_) => json!([agent::PATH, "agent", "--socket", SOCKET_PATH, "--"]),
        None => json!([agent::PATH, "agent", "--stdio", "--"]),
    };
    body.insert("Entrypoint".into(), entry_point);
    body.insert("Cmd".into(), command);
    let mut mounts = vec![agent::mount(volume)];
    mounts.extend(directory.map(|directory| {
        json!({
            "Type": "bind",
            "Source": directory.to_string_lossy(),
            "Target": SOCKET_DIRECTORY,
            "ReadOnly": true,
        })
    }));
    add_mounts(&mut host, mounts);
    // Even a daemon that gives every container an init must not give one to this.
    host.insert("Init".into(), Value::Bool(false));
    default(&mut host, "AutoRemove", Value::Bool(true));
    if directory.is_none() {
        // It is the whole of what its users do, which nobody may find in a log.
        host.remove("LogConfig");
    }
    whole(settings, body, host)
}

fn add_mounts(host: &mut Map<String, Value>, mounts: Vec<Value>) {
    match host.get_mut("Mounts") {
        Some(Value::Array(configured)) => configured.extend(mounts),
        _ => drop(host.insert("Mounts".into(), mounts.into())),
    }
}

/// Whether a container has a command of its own.
pub(super) fn has_command(settings: &config::Docker, image: &Image) -> bool {
    command(&settings.container, image).as_array().is_some_and(|words| !words.is_empty())
}

/// The body for a container that agents will join. `volume` has the agent. Its init is `command`, or an agent that only
/// waits.
pub(super) fn keep(
    settings: &config::Docker,
    labels: Map<String, Value>,
    volume: &Volume,
    command: Option<&[String]>,
) -> Value {
    let (mut body, mut host) = configured(settings, labels, false);
    body.insert(
        "Entrypoint".into(),
        command.map_or_else(|| json!([agent::PATH, "agent", "wait"]), |words| json!(words)),
    );
    body.insert("Cmd".into(), json!([]));
    add_mounts(&mut host, vec![agent::mount(volume)]);
    host.insert("Init".into(), Value::Bool(false));
    host.insert("AutoRemove".into(), Value::Bool(false));
    whole(settings, body, host)
}

/// The body for a container that is just as configured.
pub(super) fn sidecar(settings: &config::Docker, labels: Map<String, Value>) -> Value {
    let (body, mut host) = configured(settings, labels, false);
    // How it ended is looked at; then its lease removes it.
    host.insert("AutoRemove".into(), Value::Bool(false));
    whole(settings, body, host)
}

/// The body for a container without an agent, which waits for programs to be executed in it.
pub(super) fn idle(settings: &config::Docker, labels: Map<String, Value>) -> Value {
    let (mut body, host) = configured(settings, labels, false);
    body.insert("Entrypoint".into(), settings.idle_command.as_slice().into());
    body.insert("Cmd".into(), json!([]));
    whole(settings, body, host)
}

/// The body for a container without an agent whose command is a session's program. Without `words` that is the
/// container's own.
pub(super) fn program(
    settings: &config::Docker,
    labels: Map<String, Value>,
    words: Vec<String>,
    environment: &[String],
    size: Option<[u16; 2]>,
) -> Value {
    let (mut body, mut host) = configured(settings, labels, true);
    // Its exit status is asked for once it has ended; then its lease removes it.
    host.insert("AutoRemove".into(), Value::Bool(false));
    body.insert("Tty".into(), Value::Bool(size.is_some()));
    if let Some(size) = size {
        host.insert("ConsoleSize".into(), size.as_slice().into());
    }
    if !words.is_empty() {
        body.insert("Entrypoint".into(), words.into());
        body.insert("Cmd".into(), json!([]));
    }
    let mut all = self::words(body.get("Env"));
    all.extend(environment.iter().map(|variable| Value::from(variable.as_str())));
    body.insert("Env".into(), Value::Array(all));
    whole(settings, body, host)
}

/// The configured `Config` and `HostConfig`, with labels, with standard input if that is to be attached to, and without
/// a terminal.
fn configured(
    settings: &config::Docker,
    labels: Map<String, Value>,
    attached: bool,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut body = settings.container.clone();
    for name in ["AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce"] {
        body.insert(name.into(), Value::Bool(attached));
    }
    body.insert("Tty".into(), Value::Bool(false));
    match body.get_mut("Labels") {
        Some(Value::Object(configured)) => configured.extend(labels),
        _ => drop(body.insert("Labels".into(), Value::Object(labels))),
    }
    (body, settings.host_config.clone())
}

/// The body in one.
fn whole(settings: &config::Docker, mut body: Map<String, Value>, mut host: Map<String, Value>) -> Value {
    // Standard output is nobody's but the client's, and a log on disk costs time and space.
    default(&mut host, "LogConfig", json!({ "Type": "none" }));
    body.insert("HostConfig".into(), Value::Object(host));
    if !settings.networking_config.is_empty() {
        body.insert("NetworkingConfig".into(), Value::Object(settings.networking_config.clone()));
    }
    Value::Object(body)
}

fn default(map: &mut Map<String, Value>, name: &str, value: Value) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.into(), value);
    }
}

/// The command that the container would have run, by the daemon's own rule: a configured entry point hides all of the
/// image's, a configured command only the image's command.
fn command(container: &Map<String, Value>, image: &Image) -> Value {
    let (entrypoint, cmd) = (words(container.get("Entrypoint")), words(container.get("Cmd")));
    let hidden = !entrypoint.is_empty();
    let entrypoint = if hidden { entrypoint } else { words(Some(&image.entrypoint)) };
    let cmd = if hidden || !cmd.is_empty() { cmd } else { words(Some(&image.cmd)) };
    // The API's way to have no entry point at all is a list of one empty word.
    let entrypoint = if entrypoint == [""] { Vec::new() } else { entrypoint };
    entrypoint.into_iter().chain(cmd).collect()
}

/// A command in the API is a list of words, or one word as a string.
pub(super) fn words(value: Option<&Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(words)) => words.clone(),
        Some(word @ Value::String(_)) => vec![word.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn settings(container: Value, host_config: Value) -> config::Docker {
        config::Docker {
            connection: config::DockerConnection::default(),
            mode: config::ExecutionMode::Connection,
            image_pull_policy: config::ImagePullPolicy::Never,
            container: map(container),
            host_config: map(host_config),
            networking_config: Map::new(),
            platform: None,
            container_start: Duration::from_secs(60),
            container_stop: Duration::from_secs(10),
            http: Duration::from_secs(10),
            disable_agent: false,
            idle_command: Vec::new(),
            shell_command: Vec::new(),
            registry_auth: None,
            expose_metadata: false,
            subsystems: BTreeMap::new(),
            sidecars: Vec::new(),
            persistent: config::Persistent::default(),
        }
    }

    fn command_of(container: Value) -> Value {
        let image = Image { entrypoint: json!(["/entry"]), cmd: json!(["image"]) };
        command(&map(container), &image)
    }

    #[test]
    fn the_command_is_what_docker_would_have_run() {
        assert_eq!(command_of(json!({})), json!(["/entry", "image"]));
        assert_eq!(command_of(json!({"Cmd": ["mine"]})), json!(["/entry", "mine"]));
        assert_eq!(command_of(json!({"Entrypoint": ["/mine"]})), json!(["/mine"]));
        assert_eq!(command_of(json!({"Entrypoint": "/mine", "Cmd": "a b"})), json!(["/mine", "a b"]));
        assert_eq!(command_of(json!({"Entrypoint": [""], "Cmd": ["sh"]})), json!(["sh"]));
        assert_eq!(command_of(json!({"Entrypoint": [], "Cmd": null})), json!(["/entry", "image"]));
    }

    #[test]
    fn the_configuration_passes_through_and_the_agent_is_added() {
        let settings = settings(
            json!({"Image": "a", "User": "1000", "WorkingDir": "/w", "Env": ["A=b"], "Tty": true, "Labels": {"x": "y"}}),
            json!({"Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Memory": 5, "AutoRemove": false, "Init": null}),
        );
        let labels = map(json!({"berth.instance": "i"}));
        let body =
            create(&settings, &Image::default(), labels, &Volume::Shared("volume".into()), Some(Path::new("/run/x")));
        assert_eq!((&body["User"], &body["WorkingDir"], &body["Env"]), (&json!("1000"), &json!("/w"), &json!(["A=b"])));
        assert_eq!(body["Labels"], json!({"x": "y", "berth.instance": "i"}));
        assert_eq!(body["Tty"], json!(false));
        let host = &body["HostConfig"];
        assert_eq!((&host["Memory"], &host["AutoRemove"], &host["Init"]), (&json!(5), &json!(false), &json!(false)));
        assert_eq!(host["LogConfig"]["Type"], "none");
        let targets: Vec<_> = host["Mounts"].as_array().unwrap().iter().map(|m| &m["Target"]).collect();
        assert_eq!(targets, ["/t", "/.berth/bin", "/.berth/run"]);
        assert!(body.get("NetworkingConfig").is_none());
    }

    #[test]
    fn without_a_socket_standard_input_and_output_are_open_and_never_logged() {
        let settings = settings(json!({"Image": "a"}), json!({"LogConfig": {"Type": "json-file"}}));
        let body = create(&settings, &Image::default(), Map::new(), &Volume::Own, None);
        for name in ["AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce"] {
            assert_eq!(body[name], true, "{name}");
        }
        assert_eq!(body["Entrypoint"], json!(["/.berth/bin/berth", "agent", "--stdio", "--"]));
        assert_eq!(body["HostConfig"]["LogConfig"], json!({"Type": "none"}));
        assert_eq!(body["HostConfig"]["Mounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn settings_that_cannot_work_are_found_before_a_user_waits() {
        assert!(check(&settings(json!({"Image": "a"}), json!({"Init": false}))).is_ok());
        assert!(check(&settings(json!({"Image": "a"}), json!({"Init": true}))).is_err());
        assert!(check(&settings(json!({}), json!({}))).is_err());
        assert!(check(&settings(json!({"Image": "a"}), json!({"Mounts": "x"}))).is_err());
    }
}
