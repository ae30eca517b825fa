//! Persistent mode: the agent joins a pod that is there before its user comes, and that stays.
//!
//! Nothing can be mounted into such a pod. The agent's binary is written by a shell in the container to where it may
//! write, and removes itself once it runs. Its stream is its standard input and output.

use serde_json::{Map, Value as Json};

use super::call::Call;
use super::exec::Place;
use super::{Error, Kubernetes, native, pod};
use crate::backend::{Container, Request, Waiter};
use crate::config::ContainerName;
use crate::http::{Deadline, encode};

/// Finds the user's pod, and starts an agent in it.
pub(super) fn start(cluster: &Kubernetes, request: &Request, waiter: &dyn Waiter) -> Result<Container, Error> {
    let settings = &cluster.settings;
    let deadline = Deadline::after(settings.pod_start);
    let place = find(cluster, request, deadline)?;
    if settings.disable_agent {
        return native::start(cluster, request, place, None);
    }
    let call = Call { api: &cluster.shared.api, place: &place, waiter, deadline, patience: settings.pod_start };
    let script = |size| pod::upload_to_stay(size, &request.id());
    let stream = call.upload(&cluster.agent, script)??;
    Ok(Container { stream: Box::new(stream), lease: Box::new(()) })
}

/// The running pod of the configured name or, without one, with the configured labels.
fn find(cluster: &Kubernetes, request: &Request, deadline: Deadline) -> Result<Place, Error> {
    let (settings, namespace) = (&cluster.settings, cluster.namespace()?);
    let missing = |name: &str| Error::NoPod { name: name.to_owned() };
    let fill = |template: &str| {
        let template = ContainerName::parse(template).map_err(|detail| Error::Settings(detail.to_owned()))?;
        template.fill(&request.user).ok_or_else(|| missing(&request.user))
    };
    let (what, selector) = match settings.metadata.get("name").and_then(Json::as_str) {
        Some(name) => {
            let name = fill(name)?;
            (name.clone(), format!("fieldSelector={}", encode(&format!("metadata.name={name}"))))
        }
        None => {
            let labels = settings.metadata.get("labels").and_then(Json::as_object);
            let labels = labels.into_iter().flat_map(Map::iter);
            let labels: Result<Vec<String>, Error> = labels
                .map(|(name, value)| Ok(format!("{name}={}", fill(value.as_str().unwrap_or_default())?)))
                .collect();
            let labels = labels?.join(",");
            (labels.clone(), format!("labelSelector={}", encode(&labels)))
        }
    };
    let path = format!("/v1/namespaces/{}/pods?{selector}", encode(&namespace));
    let list = cluster.shared.api.call("look for the pod", "GET", &path, None, deadline)?;
    let mut running = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null());
    let found = match (running.next(), running.next()) {
        (Some(pod), None) => pod,
        (None, _) => return Err(missing(&what)),
        (Some(_), Some(_)) => return Err(Error::ManyPods { labels: what }),
    };
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let container = &found["spec"]["containers"][settings.console_container]["name"];
    Ok(Place { namespace, pod: text(&found["metadata"]["name"]), container: text(container) })
}
