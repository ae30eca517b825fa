//! Pods in a real Kubernetes: `backend: kubernetes`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::cluster::{NAMESPACE, Use, agent_image, api, cluster, kubeconfig, pod, pods, server};
use crate::common::{Berth, Client, DEADLINE, Running, eventually, unique};

/// A kubelet looks once in a second, and a pod's end takes several looks.
const SOON: Duration = Duration::from_secs(20);

/// With these changes of `kubernetes`.
fn with(change: impl FnOnce(&mut Value)) -> Berth {
    Berth::with(|config| change(&mut config["kubernetes"]))
}

/// A session that runs until its input ends.
fn session(berth: &Berth) -> Running {
    let session = berth.exec("echo in; cat").stdin(Stdio::piped()).within(Duration::from_secs(180)).spawn();
    session.stdout.line("in");
    session
}

#[test]
fn a_killed_client_leaves_no_pod() {
    let berth = Berth::start();
    session(&berth).signal(Signal::KILL);
    berth.has_containers(0, SOON);
    let starting = berth.exec("true").spawn();
    eventually("a pod", DEADLINE, || !berth.containers().is_empty());
    starting.signal(Signal::KILL);
    berth.has_containers(0, SOON);
}

#[test]
fn the_pods_of_a_killed_server_end_by_themselves_and_its_next_start_removes_them() {
    let mut berth = Berth::start();
    let session = session(&berth);
    let name = berth.containers().remove(0);
    berth.end(Signal::KILL);
    session.wait().exits(255);
    eventually("the pod's end", SOON, || pod(&name)["status"]["phase"] == "Succeeded");
    // Another instance's is none of its business.
    let other = format!("{}-other", berth.instance);
    let strangers = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": &other, "labels": {"berth.instance": &other, "berth.connection": "0"}},
        "spec": {"containers": [{"name": "a", "image": "berth-test/busybox", "imagePullPolicy": "Never",
            "command": ["sleep", "1000"]}]},
    });
    api("POST", &format!("/api/v1/namespaces/{NAMESPACE}/pods"), Some(&strangers));
    berth.restart();
    berth.has_containers(0, SOON);
    assert_eq!(pods(&other).len(), 1);
    api("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{other}?gracePeriodSeconds=0"), None);
}

#[test]
fn a_pod_that_is_deleted_ends_its_connection() {
    let berth = Berth::start();
    let session = berth.exec("echo in; sleep 1000").spawn();
    session.stdout.line("in");
    let name = berth.containers().remove(0);
    api("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), None);
    session.wait().exits(255);
    berth.has_containers(0, SOON);
}

#[test]
fn an_image_that_cannot_be_pulled_is_told_within_seconds() {
    let berth = with(|kubernetes| {
        let container = &mut kubernetes["pod"]["spec"]["containers"][0];
        container["image"] = "127.0.0.1:1/no-such-image".into();
        container["imagePullPolicy"] = "Always".into();
    });
    let begin = Instant::now();
    berth.exec("true").run().exits(255).says("image 127.0.0.1:1/no-such-image cannot be pulled");
    assert!(begin.elapsed() < DEADLINE / 2, "{:?}", begin.elapsed());
    berth.log().line("ErrImagePull");
}

#[test]
fn a_cluster_without_room_is_told_to_the_waiting_user() {
    let berth = with(|kubernetes| {
        kubernetes["pod"]["spec"]["nodeSelector"] = json!({"no": "such-node"});
        kubernetes["timeouts"]["podStart"] = "3s".into();
    });
    let ran = berth.exec("true").run().exits(255);
    let ran = ran.says("the cluster has no room for the container yet");
    ran.says("the container cannot be started (Unschedulable)");
    berth.log().line("didn't match Pod's node affinity/selector");
}

#[test]
fn a_quota_that_is_used_up_is_told() {
    let namespace = Namespace::new();
    let name = &namespace.0;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}}});
    api("POST", &format!("/api/v1/namespaces/{name}/resourcequotas"), Some(&quota));
    let berth = with(|kubernetes| kubernetes["pod"]["metadata"]["namespace"] = name.as_str().into());
    eventually("the quota", DEADLINE, || {
        let ran = berth.exec("true").run();
        ran.stderr.contains("no room: the quota is used up")
    });
}

#[test]
fn an_image_with_nothing_in_it_has_sessions_by_an_init_container() {
    let berth = with(|kubernetes| {
        kubernetes["pod"]["agentImage"] = agent_image().into();
        kubernetes["pod"]["spec"]["containers"][0]["image"] = "berth-test/scratch".into();
        kubernetes["pod"]["spec"]["containers"][0]["command"] = json!(["/cat"]);
    });
    berth.ssh(["-T", "berth"]).input("hello\n").run().succeeds().prints("hello\n");
}

#[test]
fn a_restricted_pod_with_a_read_only_root_works_with_both_ways_to_deliver_the_agent() {
    let namespace = Namespace::new();
    let name = &namespace.0;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cluster(&["kubectl", "label", "namespace", name, label]).run().succeeds();
    for image in [None, Some(agent_image())] {
        let berth = with(|kubernetes| {
            kubernetes["pod"]["agentImage"] = image.into();
            kubernetes["pod"]["metadata"]["namespace"] = name.as_str().into();
            let container = &mut kubernetes["pod"]["spec"]["containers"][0];
            container["securityContext"] = json!({
                "runAsUser": 1000, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            });
        });
        berth.exec("id -u; touch /x || cat").input("hello\n").run().succeeds().prints("1000\nhello\n");
    }
}

#[test]
fn the_pods_spec_and_metadata_are_the_apis_own() {
    let berth = with(|kubernetes| {
        let pod = &mut kubernetes["pod"];
        pod["consoleContainerNumber"] = 1.into();
        pod["metadata"]["labels"] = json!({"team": "red"});
        pod["metadata"]["generateName"] = "guest-".into();
        pod["spec"]["hostname"] = "island".into();
        pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
        let image = json!({"image": "berth-test/busybox", "imagePullPolicy": "Never"});
        let (mut beside, mut own) = (image.clone(), image);
        beside["name"] = "beside".into();
        beside["command"] = json!(["httpd", "-f", "-p", "127.0.0.1:80", "-h", "/etc"]);
        own["name"] = "own".into();
        own["env"] = json!([{"name": "COLOUR", "value": "blue"}]);
        own["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        pod["spec"]["containers"] = json!([beside, own]);
    });
    let running = berth.exec("hostname; echo $COLOUR; ls -d /scratch; wget -qO- 127.0.0.1/hostname; cat");
    let running = running.stdin(Stdio::piped()).spawn();
    for line in ["island", "blue", "/scratch", "island"] {
        running.stdout.line(line);
    }
    let pod = pod(&berth.containers()[0]);
    let metadata = &pod["metadata"];
    assert!(metadata["name"].as_str().unwrap().starts_with("guest-"), "{metadata}");
    assert_eq!(metadata["labels"]["team"], "red");
    assert_eq!(metadata["annotations"]["berth.user"], "alice");
    assert!(metadata["annotations"]["berth.client"].as_str().unwrap().starts_with("127.0.0.1:"));
    running.wait().succeeds();
}

/// A namespace of a test's own.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = unique();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &name}});
        api("POST", "/api/v1/namespaces", Some(&namespace));
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        eventually("the service account", DEADLINE, || api("GET", &accounts, None)["items"] != json!([]));
        Namespace(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        cluster(&["kubectl", "delete", "namespace", "--wait=false", &self.0]).run();
    }
}

/// A token of the service account `berth` in a namespace.
fn token(namespace: &str) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/berth/token");
    api("POST", &path, Some(&request))["status"]["token"].as_str().unwrap().to_owned()
}

#[test]
fn the_role_that_comes_with_berth_is_enough_and_less_is_told() {
    let namespace = Namespace::new();
    let apply = ["kubectl", "--namespace", &namespace.0, "apply", "-f", "packaging/kubernetes/role.yaml"];
    cluster(&apply).run().succeeds();
    let berth = with(|kubernetes| {
        kubernetes["connection"] = json!({
            "host": server(),
            "bearerToken": token(&namespace.0),
            "cacertFile": kubeconfig().with_file_name("pki").join("ca.crt"),
        });
        kubernetes["pod"]["metadata"]["namespace"] = namespace.0.as_str().into();
    });
    berth.exec("cat").input("hello\n").run().succeeds().prints("hello\n");
    let log = berth.log().text();
    assert!(!log.contains("forbidden"), "{log}");
    berth.has_containers(0, SOON);
    cluster(&["kubectl", "--namespace", &namespace.0, "delete", "rolebinding", "berth"]).run().succeeds();
    berth.exec("true").run().exits(255).says("the container service refuses to start containers");
    berth.log().line("pods is forbidden");
}

#[test]
fn sessions_end_with_the_api_server_and_new_ones_work_when_it_is_back() {
    let _alone = Use::alone();
    let berth = Berth::start();
    let session = session(&berth);
    cluster(&["signal", "KILL", "apiserver"]).run().succeeds();
    session.wait().exits(255).says("the container is lost");
    eventually("the API server", DEADLINE, || {
        Client::new("curl").args(["--insecure", "--silent", &format!("{}/readyz", server())]).run().text() == "ok"
    });
    eventually("a session", DEADLINE, || berth.exec("echo again").run().text() == "again\n");
}

#[test]
fn users_get_into_pods_that_are_there_and_stay() {
    let namespace = Namespace::new();
    let container = json!({"name": "web", "image": "berth-test/busybox", "imagePullPolicy": "Never",
        "command": ["sleep", "1000"]});
    let alices = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "dev-alice", "labels": {"owner": "alice"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    });
    let path = format!("/api/v1/namespaces/{}/pods", namespace.0);
    api("POST", &path, Some(&alices));
    let running = || api("GET", &format!("{path}/dev-alice"), None)["status"]["phase"] == "Running";
    eventually("the pod", DEADLINE, running);
    for (number, found_by) in [json!({"name": "dev-%u"}), json!({"labels": {"owner": "%u"}})].into_iter().enumerate() {
        let berth = with(|kubernetes| {
            kubernetes["pod"]["mode"] = "persistent".into();
            kubernetes["pod"]["spec"] = json!({});
            kubernetes["pod"]["metadata"] = found_by;
            kubernetes["pod"]["metadata"]["namespace"] = namespace.0.as_str().into();
        });
        let command = "hostname; echo more >>/kept; wc -l </kept; ls -A /tmp /var/tmp /dev/shm | grep berth; cat";
        let ran = berth.exec(command).input("hello\n").run().succeeds();
        assert_eq!(ran.text(), format!("dev-alice\n{}\nhello\n", number + 1));
        // What a user leaves behind ends with the connection, and the pod does not.
        let left = berth.exec("sleep 1234 & echo in; cat").stdin(Stdio::piped()).spawn();
        left.stdout.line("in");
        left.signal(Signal::KILL);
        let count = || berth.exec("ps | grep -c '[s]leep 1234'").run().text();
        eventually("the end of what was left", DEADLINE, || count() == "0\n");
        assert!(running());
    }
    let berth = with(|kubernetes| {
        kubernetes["pod"]["mode"] = "persistent".into();
        kubernetes["pod"]["metadata"] = json!({"namespace": namespace.0, "name": "other-%u"});
    });
    berth.exec("true").run().exits(255).says("there is no container for other-alice");
}
