//! Persistent mode: the agent joins a pod that is there before its user comes, and that stays.
//!
//! Nothing can be mounted into such a pod. The agent's binary is written by a shell in the container to where it may
//! write, and removes itself once it runs. Its stream is its standard input and output.

use std::io;

use serde_json::{Map, Value as Json, json};

use super::call::Call;
use super::exec::Place;
use super::lease::Lease;
use super::pod::Owner;
use super::start::{Agent, Starting};
use super::{Error, Kubernetes, native, pod};
use crate::backend::{Container, Request, Waiter, mark, selection};
use crate::config::{ContainerName, NameOf};
use crate::http::{Deadline, encode};
use crate::random;

/// Finds the user's pod, or makes it where that is wanted, and starts an agent in it.
pub(super) fn start(cluster: &Kubernetes, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
    let settings = &cluster.settings;
    let deadline = Deadline::after(settings.pod_start);
    let namespace = cluster.namespace()?;
    let pod = find_or_create(cluster, request, &namespace, deadline)?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let lease = Lease::new(&cluster.shared, request, &namespace, &name);
    let is_made = settings.create_missing && request.container.is_none();
    let container = pod::found_console_name(settings, &pod, is_made);
    let place = Place { namespace, pod: name, container };
    let call = Call { api: &cluster.shared.api, place: &place, waiter, deadline, patience: settings.pod_start };
    if pod["status"]["phase"] != "Running" {
        Starting { call, created: &pod, agent: Agent::None }.accept()?;
    }
    call.put_files(&request.metadata)?;
    if settings.disable_agent {
        return native::start(cluster, request, place, lease);
    }
    let failed = |error: io::Error| Error::Command { step: "name the agent's file", detail: error.to_string() };
    let id = random::name().map_err(failed)?;
    let script = |size| pod::upload_to_stay(size, &id);
    let stream = call.upload(&cluster.agent, script)??;
    Ok(Container { stream: Box::new(stream), lease: Box::new(lease) })
}

fn find_or_create(cluster: &Kubernetes, request: &Request, namespace: &str, deadline: Deadline) -> Result<Json, Error> {
    let (api, settings) = (&cluster.shared.api, &cluster.settings);
    let path = format!("/v1/namespaces/{}/pods", encode(namespace));
    if let Some(name) = &request.container {
        if !selection::may_have(request, name, NameOf::Pod, &settings.selectable, "kubernetes.pod.selectablePods") {
            return Err(Error::NoPod { name: name.clone() });
        }
        return find(cluster, request, Some(name), &path, deadline);
    }
    let name = settings
        .metadata
        .get("name")
        .and_then(Json::as_str)
        .map(|name| fill(name, request, NameOf::Pod))
        .transpose()?;
    let find = || find(cluster, request, name.as_deref(), &path, deadline);
    match (find(), &name) {
        (Err(Error::NoPod { .. }), Some(name)) if settings.create_missing => {
            let body = pod::body(settings, Owner::User, request, namespace, name);
            match api.call("create the pod", "POST", &path, Some(&body), deadline) {
                // Another connection of the user's was faster.
                Err(error) if error.is_status(409) => find().or(Err(error)),
                result => result.inspect(|_| log::info!("{}: made pod {name}", request.connection)),
            }
        }
        (result, _) => result.inspect(|pod| tell_of_changes(cluster, request, pod)),
    }
}

/// Says that a pod was made with another spec.
fn tell_of_changes(cluster: &Kubernetes, request: &Request, pod: &Json) {
    let (metadata, spec) = (&pod["metadata"], &cluster.settings.spec);
    if mark::differs(&metadata["annotations"][mark::MARK], &json!(spec)) {
        let name = metadata["name"].as_str().unwrap_or_default();
        log::warn!(
            "{}: pod {name} was made with another spec, and has that until it is removed: by kubectl delete pod",
            request.connection
        );
    }
}

/// Puts the user's name in.
fn fill(template: &str, request: &Request, what: NameOf) -> Result<String, Error> {
    let template = ContainerName::parse(template).map_err(|detail| Error::Settings(detail.to_owned()))?;
    Ok(selection::name_for(request, &template, what))
}

/// The pod of this name or, without one, with the configured labels, which runs or is about to. `path` is that of pods.
fn find(
    cluster: &Kubernetes,
    request: &Request,
    name: Option<&str>,
    path: &str,
    deadline: Deadline,
) -> Result<Json, Error> {
    let (what, selector) = match name {
        Some(name) => (name.to_owned(), format!("fieldSelector={}", encode(&format!("metadata.name={name}")))),
        None => {
            let labels = cluster.settings.metadata.get("labels").and_then(Json::as_object);
            let labels = labels.into_iter().flat_map(Map::iter);
            let labels: Result<Vec<String>, Error> = labels
                .map(|(name, value)| {
                    Ok(format!("{name}={}", fill(value.as_str().unwrap_or_default(), request, NameOf::Label)?))
                })
                .collect();
            let labels = labels?.join(",");
            if labels.is_empty() {
                // All pods would fit.
                return Err(Error::NoPod { name: request.user.clone() });
            }
            (labels.clone(), format!("labelSelector={}", encode(&labels)))
        }
    };
    let mut list = cluster.shared.api.call("look for the pod", "GET", &format!("{path}?{selector}"), None, deadline)?;
    let mut list = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let phase = |pod: &Json, phase: &str| pod["status"]["phase"] == phase;
    list.retain(|pod| {
        (phase(pod, "Running") || phase(pod, "Pending")) && pod["metadata"]["deletionTimestamp"].is_null()
    });
    if list.iter().any(|pod| phase(pod, "Running")) {
        list.retain(|pod| phase(pod, "Running"));
    }
    match (list.pop(), list.is_empty()) {
        (Some(pod), true) => Ok(pod),
        (None, _) => Err(Error::NoPod { name: what }),
        (Some(_), false) => Err(Error::ManyPods { labels: what }),
    }
}
