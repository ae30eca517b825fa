//! Pods in containers' place.

use serde_json::{Map, Value, json};

use super::cluster;

/// `kubernetes`, for busybox in a pod.
pub fn settings() -> Value {
    json!({
        "connection": {"kubeconfig": cluster::kubeconfig()},
        "pod": {
            "metadata": {"namespace": cluster::NAMESPACE},
            "spec": {"containers": [{"name": "shell", "image": "berth-test/busybox", "imagePullPolicy": "Never"}]},
        },
    })
}

/// Says of the pod what a test has said of Docker's container, in `docker.execution`.
pub fn translate(config: &mut Value) {
    let execution = config["docker"]["execution"].take();
    config.as_object_mut().unwrap().remove("docker");
    let pod = &mut config["kubernetes"]["pod"];
    let entries = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (key, value) in entries(&execution) {
        match key.as_str() {
            "container" => container(pod, entries(&value)),
            "host" => host(pod, entries(&value)),
            _ => pod[key] = value,
        }
    }
    // No shell is in it that could take an upload.
    if pod["spec"]["containers"][0]["image"] == "berth-test/scratch" && pod["disableAgent"] != true {
        pod["agentImage"] = cluster::agent_image().into();
    }
}

fn container(pod: &mut Value, settings: Map<String, Value>) {
    for (key, value) in settings {
        let container = &mut pod["spec"]["containers"][0];
        match key.as_str() {
            "image" => container["image"] = value,
            "user" => {
                let id = if value == "alice" { 1000 } else { value.as_str().unwrap().parse().unwrap() };
                container["securityContext"] = json!({"runAsUser": id, "runAsGroup": id});
            }
            "env" => {
                let variables = value.as_array().unwrap().iter().map(|variable| {
                    let (name, value) = variable.as_str().unwrap().split_once('=').unwrap();
                    json!({"name": name, "value": value})
                });
                container["env"] = variables.collect();
            }
            "cmd" => container["command"] = value,
            "workingDir" => container["workingDir"] = value,
            "hostname" => pod["spec"]["hostname"] = value,
            other => panic!("container.{other}: what is that of a pod's?"),
        }
    }
}

fn host(pod: &mut Value, settings: Map<String, Value>) {
    for (key, value) in settings {
        match key.as_str() {
            // See `reach_this_machine`.
            "networkMode" => {}
            "binds" => {
                let binds =
                    value.as_array().unwrap().iter().map(|bind| bind.as_str().unwrap().split_once(':').unwrap());
                let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
                for (number, (source, target)) in binds.enumerate() {
                    let name = format!("bind-{number}");
                    volumes.push(json!({"name": name, "hostPath": {"path": source, "type": "Directory"}}));
                    mounts.push(json!({"name": name, "mountPath": target}));
                }
                pod["spec"]["volumes"] = volumes.into();
                pod["spec"]["containers"][0]["volumeMounts"] = mounts.into();
            }
            other => panic!("host.{other}: what is that of a pod's?"),
        }
    }
}
