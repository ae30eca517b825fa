//! Containers beside a user's own: `docker.execution.sidecars`.
//!
//! They start before it, one after another, and share its network. That belongs to one more container, in which an agent
//! only waits: so the network is there before the first sidecar is, and none of them has to outlive the others. The lease
//! owns them all, and removes them in the opposite order.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::agent::Volume;
use super::link::present;
use super::{Docker, Error, Lease, body, encode, image};
use crate::backend::{Request, Waiter};
use crate::config;
use crate::config::{Readiness, Sidecar};
use crate::http::Deadline;

/// How often it is looked whether a sidecar is ready.
const INTERVAL: Duration = Duration::from_millis(100);

/// What of a container's `Config` and `HostConfig` belongs to its network.
const NETWORK_CONFIG: [&str; 4] = ["Hostname", "Domainname", "ExposedPorts", "MacAddress"];
/// See [`NETWORK_CONFIG`].
const NETWORK_HOST_CONFIG: [&str; 8] =
    ["NetworkMode", "PortBindings", "PublishAllPorts", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "Links"];

/// Starts the sidecars, if there are any, as containers of the lease. Gives the settings of the user's container with
/// them.
pub(super) fn start(
    docker: &Docker,
    lease: &mut Lease,
    request: &Request,
    waiter: &dyn Waiter,
) -> Result<config::Docker, Error> {
    let mut settings = config::Docker::clone(&docker.settings);
    let sidecars = std::mem::take(&mut settings.sidecars);
    if sidecars.is_empty() {
        return Ok(settings);
    }
    let labels = docker.labels(request);
    let network = hold_network(docker, lease, labels.clone(), waiter)?;
    leave_network(&mut settings, &network, docker.shared.api.is_podman());
    for (index, sidecar) in sidecars.iter().enumerate() {
        present(waiter)?;
        let (container, host_config) = (sidecar.container.clone(), sidecar.host_config.clone());
        let networking_config = sidecar.networking_config.clone();
        let mut own = config::Docker { container, host_config, networking_config, ..settings.clone() };
        if registry(body::image(&own)) != registry(body::image(&settings)) {
            // The credentials are for the other one.
            own.registry_auth = None;
        }
        if own.networking_config.is_empty() && own.host_config.get("NetworkMode").is_none_or(is_nothing) {
            own.host_config.insert("NetworkMode".into(), network.clone().into());
        }
        name_volumes(&mut own.host_config, lease, &sidecars[..index]);
        run(docker, lease, &sidecar.name, &own, body::sidecar(&own, labels.clone()), waiter)?;
        wait(docker, lease, sidecar, waiter)?;
    }
    name_volumes(&mut settings.host_config, lease, &sidecars);
    Ok(settings)
}

/// Starts the container that has the network, as that of the user's container is configured. Gives the `NetworkMode` of
/// those that share it.
fn hold_network(
    docker: &Docker,
    lease: &mut Lease,
    labels: Map<String, Value>,
    waiter: &dyn Waiter,
) -> Result<String, Error> {
    const NAME: &str = "network";
    let settings = &docker.settings;
    if let Some(mode) = settings.host_config.get("NetworkMode").and_then(Value::as_str)
        && (mode == "host" || mode.starts_with("container:"))
    {
        return Ok(mode.to_owned());
    }
    let part = |map: &Map<String, Value>, names: &[&str]| -> Map<String, Value> {
        map.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let mut own = config::Docker {
        container: part(&settings.container, &NETWORK_CONFIG),
        host_config: part(&settings.host_config, &NETWORK_HOST_CONFIG),
        ..config::Docker::clone(settings)
    };
    own.container.insert("Image".into(), body::image(settings).into());
    // It has nothing to do.
    own.host_config.extend([("CapDrop".to_owned(), json!(["ALL"])), ("ReadonlyRootfs".to_owned(), Value::Bool(true))]);
    let image = body::image(settings);
    image::resolve(&docker.shared.api, settings, settings.image_pull_policy, waiter)?;
    let query = platform_query(settings);
    let volume = docker.agent.deliver(&docker.shared.api, image, &query, &Value::Object(labels.clone()))?;
    let body = body::keep(&own, labels, &Volume::Shared(volume), None);
    run(docker, lease, NAME, &own, body, waiter)?;
    Ok(format!("container:{}", name_of(lease, NAME)))
}

/// Takes away what is the network's, and shares that. With Podman a hostname is not part of it.
fn leave_network(settings: &mut config::Docker, network: &str, is_podman: bool) {
    settings.container.retain(|name, _| !NETWORK_CONFIG.contains(&name.as_str()) || is_podman && name == "Hostname");
    settings.host_config.retain(|name, _| !NETWORK_HOST_CONFIG.contains(&name.as_str()));
    settings.host_config.insert("NetworkMode".into(), network.into());
    settings.networking_config.clear();
}

/// `VolumesFrom` may have the names of sidecars: they become those of their containers.
fn name_volumes(host_config: &mut Map<String, Value>, lease: &Lease, sidecars: &[Sidecar]) {
    let Some(Value::Array(entries)) = host_config.get_mut("VolumesFrom") else { return };
    for entry in entries {
        let Some(text) = entry.as_str() else { continue };
        let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        if sidecars.iter().any(|sidecar| sidecar.name == name) {
            *entry = format!("{}{rest}", name_of(lease, name)).into();
        }
    }
}

/// Which registry an image is from.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The name of a sidecar's container.
fn name_of(lease: &Lease, sidecar: &str) -> String {
    format!("{}-{sidecar}", lease.container)
}

fn platform_query(settings: &config::Docker) -> String {
    settings.platform.as_ref().map_or_else(String::new, |platform| format!("&platform={}", encode(platform)))
}

/// Creates and starts a container of the lease.
fn run(
    docker: &Docker,
    lease: &mut Lease,
    name: &str,
    settings: &config::Docker,
    body: Value,
    waiter: &dyn Waiter,
) -> Result<(), Error> {
    let api = &docker.shared.api;
    image::resolve(api, settings, settings.image_pull_policy, waiter)?;
    let container = name_of(lease, name);
    let deadline = Deadline::after(settings.container_start);
    let path = format!("/containers/create?name={container}{}", platform_query(settings));
    lease.others.push(container.clone());
    api.create_container(&container, &path, &body, deadline).map_err(|error| failed(name, &error))?;
    let path = format!("/containers/{container}/start");
    api.call("start a sidecar", "POST", &path, None, deadline).map_err(|error| failed(name, &error))?;
    Ok(())
}

fn failed(name: &str, problem: &dyn std::fmt::Display) -> Error {
    Error::Sidecar { name: name.to_owned(), problem: problem.to_string() }
}

/// Waits until a sidecar is ready.
fn wait(docker: &Docker, lease: &Lease, sidecar: &Sidecar, waiter: &dyn Waiter) -> Result<(), Error> {
    let (api, deadline) = (&docker.shared.api, Deadline::after(sidecar.timeout));
    let path = format!("/containers/{}/json", name_of(lease, &sidecar.name));
    let fail = |problem: &dyn std::fmt::Display| Err(failed(&sidecar.name, problem));
    loop {
        if sidecar.readiness == Readiness::Started {
            return Ok(());
        }
        let state = api.call("inspect a sidecar", "GET", &path, None, api.deadline())?;
        let text = |pointer| state.pointer(pointer).and_then(Value::as_str);
        let status = state.pointer("/State/ExitCode").and_then(Value::as_i64).unwrap_or(-1);
        // Podman's is "stopped" until it has cleaned up.
        let ended = matches!(text("/State/Status"), Some("exited" | "dead" | "stopped"));
        match (sidecar.readiness, text("/State/Health/Status")) {
            (Readiness::Completed, _) if ended && status == 0 => return Ok(()),
            _ if ended => return fail(&format_args!("it has ended with status {status}")),
            (Readiness::Healthy, Some("healthy")) => return Ok(()),
            (Readiness::Healthy, Some("unhealthy")) => return fail(&"its health check fails"),
            (Readiness::Healthy, None | Some("none" | "")) => {
                return fail(&"it has no health check, so it is never healthy");
            }
            _ => {}
        }
        if deadline.has_passed() {
            return fail(&format_args!("it was not ready within {} s; see its timeout", sidecar.timeout.as_secs_f32()));
        }
        present(waiter)?;
        std::thread::sleep(INTERVAL);
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == ""
}
