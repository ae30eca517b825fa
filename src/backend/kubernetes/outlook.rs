//! What a pod's status and its events say of its start.

use serde_json::Value as Json;

use super::Error;

/// Reasons why a container waits that are about its image. Kubelets try again, for ever; a user is told at once.
const IMAGE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// Reasons why a container waits that do not go away by themselves.
const CONFIGURATION: [&str; 4] =
    ["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"];

/// What there is to say of a pod that is gone.
pub(super) const DELETED: &str = "it was deleted";

/// What a pod's status says.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// Whether it has a node, whose kubelet can be asked.
    pub is_scheduled: bool,
    /// Whether the user's container runs.
    pub is_running: bool,
    /// Why it waits for a node: a word, and the scheduler's own words.
    pub unscheduled: Option<(String, String)>,
    /// Why it will not start.
    pub failure: Option<Error>,
}

impl Outlook {
    /// Of a pod, whose user is in the container `console`.
    pub(super) fn of(pod: &Json, console: &str) -> Outlook {
        let status = &pod["status"];
        let mut outlook = Outlook {
            is_scheduled: pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()),
            ..Outlook::default()
        };
        for condition in items(&status["conditions"]) {
            if condition["type"] == "PodScheduled" && condition["status"] == "False" {
                outlook.unscheduled = Some((text(&condition["reason"]), text(&condition["message"])));
            }
        }
        let init = items(&status["initContainerStatuses"]);
        for container in init.chain(items(&status["containerStatuses"])) {
            let (name, state) = (text(&container["name"]), &container["state"]);
            outlook.is_running |= name == console && state["running"].is_object();
            let (reason, message) = (text(&state["waiting"]["reason"]), text(&state["waiting"]["message"]));
            let found = if IMAGE.contains(&reason.as_str()) {
                Error::Image { image: image(pod, container, &message), reason, message }
            } else if CONFIGURATION.contains(&reason.as_str()) {
                Error::NotStarting { reason, message }
            } else if let ended = &state["terminated"]
                && matches!(ended["reason"].as_str(), Some("StartError" | "ContainerCannotRun"))
            {
                Error::NotStarting { reason: text(&ended["reason"]), message: text(&ended["message"]) }
            } else {
                continue;
            };
            outlook.failure.get_or_insert(found);
        }
        if matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")) {
            let message = end(pod).unwrap_or_else(|| "all of its containers have ended".to_owned());
            outlook.failure.get_or_insert(Error::Ended { message });
        }
        outlook
    }
}

/// The image that a container waits for, by the message of its kubelet: its own, or one that is a volume of the pod's.
fn image(pod: &Json, container: &Json, message: &str) -> String {
    let own = text(&container["image"]);
    let volumes = items(&pod["spec"]["volumes"]).filter_map(|volume| volume["image"]["reference"].as_str());
    let named = |image: &&str| !image.is_empty() && message.contains(*image);
    // One name may be a part of another.
    let found = volumes.chain([own.as_str()]).filter(named).max_by_key(|image| image.len());
    found.map_or_else(|| own.clone(), str::to_owned)
}

/// Why a pod has ended or is about to, as far as it says so.
pub(super) fn end(pod: &Json) -> Option<String> {
    let status = &pod["status"];
    let disruptions = items(&status["conditions"]).filter(|condition| condition["type"] == "DisruptionTarget");
    let reasons = disruptions.chain([status]).flat_map(|reason| [text(&reason["reason"]), text(&reason["message"])]);
    let mut words: Vec<String> = reasons.filter(|word| !word.is_empty()).collect();
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        words.push(DELETED.to_owned());
    }
    let init = items(&status["initContainerStatuses"]);
    for container in init.chain(items(&status["containerStatuses"])) {
        let state = &container["state"]["terminated"];
        if let Some(code) = state["exitCode"].as_i64().filter(|code| *code != 0) {
            let (name, reason) = (text(&container["name"]), text(&state["reason"]));
            words
                .push(format!("container {name} ended with exit status {code} ({reason}) {}", text(&state["message"])));
        }
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// An event's reason and message, if it is about something wrong.
pub(super) fn warning(event: &Json) -> Option<(String, String)> {
    (event["type"] == "Warning").then(|| (text(&event["reason"]), text(&event["message"])))
}

/// What is in a list, if it is one.
pub(super) fn items(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(status: Json) -> Option<String> {
        Outlook::of(&json!({ "status": status }), "shell").failure.map(|error| error.to_string())
    }

    #[test]
    fn a_container_that_runs_is_good() {
        let status = json!({
            "phase": "Running",
            "containerStatuses": [{"name": "other", "state": {"running": {}}}, {"name": "shell", "state": {"waiting": {"reason": "ContainerCreating"}}}],
        });
        let mut pod = json!({ "spec": {"nodeName": "node"}, "status": status });
        let outlook = Outlook::of(&pod, "shell");
        assert!(outlook.is_scheduled && !outlook.is_running && outlook.failure.is_none());
        pod["status"]["containerStatuses"][1]["state"] = json!({"running": {}});
        assert!(Outlook::of(&pod, "shell").is_running);
    }

    #[test]
    fn images_and_configurations_that_fail_are_told_apart() {
        let waiting = |reason: &str| json!({"initContainerStatuses": [{"name": "i", "image": "x:y", "state": {"waiting": {"reason": reason, "message": "why"}}}]});
        assert!(failure(waiting("ErrImagePull")).unwrap().contains("image x:y: ErrImagePull: why"));
        assert!(failure(waiting("CreateContainerConfigError")).unwrap().contains("cannot start"));
        assert_eq!(failure(waiting("PodInitializing")), None);
    }

    #[test]
    fn a_pod_that_has_ended_says_why() {
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
        assert!(failure(evicted).unwrap().contains("Evicted, low on memory"));
        let init = json!({
            "phase": "Failed",
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
        });
        assert!(failure(init).unwrap().contains("container i ended with exit status 3"));
        let missing = json!({
            "phase": "Failed",
            "containerStatuses": [{"name": "shell", "state": {"terminated": {"reason": "StartError", "message": "no /bin/sh"}}}],
        });
        assert!(failure(missing).unwrap().contains("StartError: no /bin/sh"));
    }

    #[test]
    fn a_pod_that_has_to_go_says_why() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "EvictionByEvictionAPI", "message": "evicting"});
        let mut pod = json!({"status": {"phase": "Running", "conditions": [condition("Ready")]}});
        assert_eq!(end(&pod), None);
        pod["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(end(&pod).unwrap(), "it was deleted");
        pod["status"]["conditions"] = json!([condition("DisruptionTarget")]);
        assert_eq!(end(&pod).unwrap(), "EvictionByEvictionAPI, evicting, it was deleted");
    }

    #[test]
    fn an_image_that_is_a_volume_is_named_where_it_is_the_one() {
        let failed = |message: &str| {
            let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": message}});
            let pod = json!({
                "spec": {"volumes": [{"name": "d", "emptyDir": {}}, {"name": "i", "image": {"reference": "some/data"}}]},
                "status": {"containerStatuses": [{"name": "shell", "image": "some/data-shell", "state": waiting}]},
            });
            match Outlook::of(&pod, "shell").failure {
                Some(Error::Image { image, .. }) => image,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(failed("failed to pull \"docker.io/some/data:latest\""), "some/data");
        assert_eq!(failed("failed to pull \"docker.io/some/data-shell:latest\""), "some/data-shell");
        assert_eq!(failed("no route to host"), "some/data-shell");
    }

    #[test]
    fn a_pod_without_a_node_says_why() {
        for (reason, message) in [("Unschedulable", "no room"), ("SchedulingGated", "gated"), ("SchedulerError", "bug")]
        {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
            let outlook = Outlook::of(&json!({ "status": {"phase": "Pending", "conditions": [condition]} }), "shell");
            assert_eq!(outlook.unscheduled, Some((reason.to_owned(), message.to_owned())));
            assert!(!outlook.is_scheduled && outlook.failure.is_none());
        }
    }
}
