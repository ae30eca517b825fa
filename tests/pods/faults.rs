//! What goes wrong: in the cluster, with a pod, and with who berth is there.

use std::fs;
use std::time::Instant;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Name};
use serde_json::{Value, json};

use crate::common::cluster::{NAMESPACE, Namespace, Use, api, cluster, kubeconfig, server};
use crate::common::{Berth, Client, DEADLINE, eventually};
use crate::{SOON, session, with};

/// Waits until the API server does.
fn answers() {
    eventually("the API server", DEADLINE, || {
        Client::new("curl").args(["--insecure", "--silent", &format!("{}/readyz", server())]).run().text() == "ok"
    });
}

#[test]
fn sessions_end_with_the_api_server_and_new_ones_work_when_it_is_back() {
    let _alone = Use::alone();
    let berth = Berth::start();
    let without_agent = with(|kubernetes| kubernetes["pod"]["disableAgent"] = true.into());
    let sessions = [session(&berth), session(&without_agent)];
    cluster(&["signal", "KILL", "apiserver"]).run().succeeds();
    let [session, without_agent] = sessions.map(|session| session.wait().exits(255));
    session.says("the container is lost");
    without_agent.says("berth: the container has ended\n");
    answers();
    eventually("a session", DEADLINE, || berth.exec("echo again").run().text() == "again\n");
}

#[test]
fn sessions_end_with_the_kubelet_and_new_ones_work_when_it_is_back() {
    let _alone = Use::alone();
    let berth = Berth::start();
    let session = session(&berth);
    cluster(&["signal", "KILL", "kubelet"]).run().succeeds();
    // By the words of Kubernetes before 1.36, or since: its API server only carries the stream.
    let ran = session.wait().exits(255);
    assert!(["has ended", "is lost"].iter().any(|end| ran.stderr.contains(&format!("the container {end}"))), "{ran:?}");
    eventually("a session", DEADLINE, || berth.exec("echo again").run().text() == "again\n");
}

/// An API server that has stopped. It goes on when this is dropped.
struct Stopped;

impl Stopped {
    fn new() -> Self {
        cluster(&["signal", "STOP", "apiserver"]).run().succeeds();
        Stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        cluster(&["signal", "CONT", "apiserver"]).run();
    }
}

#[test]
fn an_api_server_that_does_not_answer_is_told_and_users_come_in_when_it_does() {
    let _alone = Use::alone();
    let berth = with(|kubernetes| kubernetes["timeouts"] = json!({"http": "2s"}));
    let stopped = Stopped::new();
    let begin = Instant::now();
    berth.exec("true").run().exits(255).says("the container service");
    assert!(begin.elapsed() < DEADLINE / 2, "{:?}", begin.elapsed());
    drop(stopped);
    answers();
    eventually("a session", DEADLINE, || berth.exec("echo again").run().text() == "again\n");
}

#[test]
fn a_pod_that_is_deleted_ends_its_connection_and_says_so() {
    let berth = Berth::start();
    let session = berth.exec("echo in; sleep 1000").spawn();
    session.stdout.line("in");
    let name = berth.containers().remove(0);
    api("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), None);
    session.wait().exits(255).says("berth: the container is being stopped\n");
    berth.log().line(&format!(": pod {name} ends: it was deleted"));
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
fn a_pod_that_a_scheduling_gate_holds_back_is_told() {
    let berth = with(|kubernetes| {
        kubernetes["pod"]["spec"]["schedulingGates"] = json!([{"name": "example.com/queue"}]);
        kubernetes["timeouts"]["podStart"] = "3s".into();
    });
    let ran = berth.exec("true").run().exits(255);
    let ran = ran.says("the cluster gives the container no place yet (SchedulingGated)");
    ran.says("the container cannot be started (SchedulingGated)");
    berth.log().line("the pod cannot start: SchedulingGated: Scheduling is blocked due to non-empty scheduling gates");
}

#[test]
fn an_image_that_is_to_be_a_volume_and_is_missing_is_named() {
    let berth = with(|kubernetes| {
        let spec = &mut kubernetes["pod"]["spec"];
        let image = json!({"reference": "berth-test/no-such-volume", "pullPolicy": "Never"});
        spec["volumes"] = json!([{"name": "data", "image": image}]);
        spec["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    });
    berth.exec("true").run().exits(255).says("berth: image berth-test/no-such-volume cannot be pulled");
    berth.log().line("image berth-test/no-such-volume: ErrImageNeverPull");
}

#[test]
fn what_the_api_server_warns_of_is_logged_once() {
    let namespace = Namespace::new();
    let label = "pod-security.kubernetes.io/warn=restricted";
    cluster(&["kubectl", "label", "namespace", &namespace.0, label]).run().succeeds();
    let berth = with(|kubernetes| kubernetes["pod"]["metadata"]["namespace"] = namespace.0.as_str().into());
    for _ in 0..2 {
        let ran = berth.exec("echo in").run().succeeds();
        assert_eq!(ran.stderr, "");
    }
    let log = berth.log().text();
    assert_eq!(log.matches("the API server warns: would violate PodSecurity").count(), 1, "{log}");
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
fn a_pod_that_is_evicted_ends_its_connection_and_says_so() {
    let berth = Berth::start();
    let session = berth.exec("echo in; sleep 1000").spawn();
    session.stdout.line("in");
    let name = berth.containers().remove(0);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    api("POST", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"), Some(&eviction));
    session.wait().exits(255).says("berth: the container is being stopped\n");
    berth.log().line(&format!(": pod {name} ends: EvictionByEvictionAPI"));
    berth.has_containers(0, SOON);
}

#[test]
fn without_an_agent_the_end_of_a_pod_is_told_and_no_status_of_the_programs() {
    let berth = with(|kubernetes| kubernetes["pod"]["disableAgent"] = true.into());
    let running = || {
        let session = berth.exec("echo in; exec sleep 1000").spawn();
        session.stdout.line("in");
        (session, berth.containers().remove(0))
    };
    let path = |name: &str| format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}");
    let (session, deleted) = running();
    api("DELETE", &path(&deleted), None);
    session.wait().exits(255).says("berth: the container has ended\n");
    berth.log().line(&format!(": pod {deleted} ends: it was deleted"));
    berth.has_containers(0, SOON);
    let (session, evicted) = running();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted}});
    api("POST", &format!("{}/eviction", path(&evicted)), Some(&eviction));
    session.wait().exits(255).says("berth: the container has ended\n");
    berth.log().line(&format!(": pod {evicted} ends: EvictionByEvictionAPI"));
    // What is killed alone has its status.
    berth.exec("kill -9 $$").run().exits(137);
}

#[test]
fn what_is_only_remarked_on_is_not_told_to_the_user() {
    let berth = Berth::start();
    let ran = berth.exec("echo in").run().succeeds();
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_client_certificate_that_has_expired_is_told_to_the_operator() {
    let read = |name: &str| fs::read(kubeconfig().with_file_name("pki").join(name)).unwrap();
    let (authority, key) =
        (X509::from_pem(&read("ca.crt")).unwrap(), PKey::private_key_from_pem(&read("ca.key")).unwrap());
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let own = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_nid(Nid::ORGANIZATIONNAME, "system:masters").unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, "late").unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&subject.build()).unwrap();
    certificate.set_issuer_name(authority.subject_name()).unwrap();
    certificate.set_pubkey(&own).unwrap();
    certificate.set_not_before(&Asn1Time::from_unix(1_600_000_000).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::from_unix(1_700_000_000).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |bytes: Vec<u8>| Value::from(String::from_utf8(bytes).unwrap());
    let berth = with(|kubernetes| {
        kubernetes["connection"] = json!({
            "host": server(),
            "cacertFile": kubeconfig().with_file_name("pki").join("ca.crt"),
            "cert": text(certificate.build().to_pem().unwrap()),
            "key": text(own.private_key_to_pem_pkcs8().unwrap()),
        });
    });
    berth.exec("true").run().exits(255).says("the container service refuses to start containers");
    berth.log().line("Unauthorized");
}
