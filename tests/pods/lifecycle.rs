//! The life of pods, and that none is left whatever happens.

use rustix::process::Signal;
use serde_json::json;

use crate::common::cluster::{NAMESPACE, api, pod, pods};
use crate::common::{Berth, DEADLINE, eventually};
use crate::{SOON, session, with};

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
fn a_pods_end_is_seen_to_by_the_kubelet_once_its_connection_has_ended() {
    let berth = Berth::start();
    let session = session(&berth);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?fieldSelector=metadata.name%3D{}", berth.containers()[0]);
    session.wait().succeeds();
    eventually("nothing of the pod", SOON, || api("GET", &path, None)["items"] == json!([]));
}

#[test]
fn the_pods_of_a_killed_server_end_by_themselves_and_its_next_start_removes_them() {
    let mut berth = Berth::start();
    let session = session(&berth);
    let name = berth.containers().remove(0);
    berth.end(Signal::KILL);
    session.wait().exits(255);
    eventually("the pod's end", SOON, || pod(&name)["status"]["phase"] == "Succeeded");
    berth.restart();
    berth.has_containers(0, SOON);
}

#[test]
fn instances_in_one_namespace_leave_each_others_pods_alone() {
    // Also where one's name is the beginning of the other's.
    let mut berth = Berth::start();
    let other = Berth::with(|config| config["instance"] = format!("{}-other", berth.instance).into());
    let (doomed, kept) = (session(&berth), session(&other));
    berth.end(Signal::KILL);
    doomed.wait().exits(255);
    // Nor are they that nobody is in any more, whose server may come back.
    let (name, orphan) = (other.containers().remove(0), format!("{}-orphan", berth.instance));
    let strangers = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": &orphan, "labels": {"berth.instance": &orphan, "berth.connection": "0"}},
        "spec": {"containers": [{"name": "a", "image": "berth-test/busybox", "imagePullPolicy": "Never",
            "command": ["sleep", "1000"]}]},
    });
    api("POST", &format!("/api/v1/namespaces/{NAMESPACE}/pods"), Some(&strangers));
    berth.restart();
    berth.has_containers(0, SOON);
    assert_eq!(other.containers(), [name]);
    assert_eq!(pods(&orphan).len(), 1);
    api("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{orphan}?gracePeriodSeconds=0"), None);
    kept.wait().succeeds();
}

#[test]
fn a_pod_that_has_run_for_as_long_as_its_spec_allows_ends_its_connection() {
    for without_agent in [false, true] {
        let berth = with(|kubernetes| {
            kubernetes["pod"]["disableAgent"] = without_agent.into();
            kubernetes["pod"]["spec"]["activeDeadlineSeconds"] = 15.into();
        });
        let session = berth.exec("echo in; exec sleep 1000").spawn();
        session.stdout.line("in");
        let words = if without_agent { "the container has ended" } else { "the container is being stopped" };
        session.wait().exits(255).says(&format!("berth: {words}\n"));
        berth.log().line(" ends: DeadlineExceeded");
    }
}
