//! Who berth is in the cluster, and that it may no more than it needs.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::Berth;
use crate::common::cluster::{Namespace, api, cluster, kubeconfig, server};
use crate::{SOON, session, with};

/// A token of the service account `berth` in a namespace.
fn token(namespace: &str) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/berth/token");
    api("POST", &path, Some(&request))["status"]["token"].as_str().unwrap().to_owned()
}

/// A namespace with the role that comes with berth.
fn with_role() -> Namespace {
    let namespace = Namespace::new();
    let apply = ["kubectl", "--namespace", &namespace.0, "apply", "-f", "packaging/kubernetes/role.yaml"];
    cluster(&apply).run().succeeds();
    namespace
}

/// Has berth make pods in this namespace, as its service account.
fn speak_as_role(kubernetes: &mut Value, namespace: &Namespace) {
    kubernetes["connection"] = json!({
        "host": server(),
        "bearerToken": token(&namespace.0),
        "cacertFile": kubeconfig().with_file_name("pki").join("ca.crt"),
    });
    kubernetes["pod"]["metadata"]["namespace"] = namespace.0.as_str().into();
}

/// A server that is the service account `berth` of a namespace.
fn serve(namespace: &Namespace, mode: &str, without_agent: bool) -> Berth {
    with(|kubernetes| {
        speak_as_role(kubernetes, namespace);
        let pod = &mut kubernetes["pod"];
        pod["mode"] = mode.into();
        pod["disableAgent"] = without_agent.into();
        if mode == "persistent" {
            pod["createMissingPods"] = true.into();
            pod["metadata"]["name"] = "own-%u".into();
        }
    })
}

#[test]
fn the_role_that_comes_with_berth_is_enough_and_less_is_told() {
    let namespace = with_role();
    for mode in ["connection", "session", "persistent"] {
        for without_agent in [false, true] {
            let berth = serve(&namespace, mode, without_agent);
            berth.exec("cat").input("hello\n").run().succeeds().prints("hello\n");
            let log = berth.log().text();
            assert!(!log.contains("forbidden"), "{log}");
            berth.has_containers(0, SOON);
        }
    }
    let berth = serve(&namespace, "connection", false);
    let running = berth.exec("echo in; sleep 1000").spawn();
    running.stdout.line("in");
    let path = format!("/api/v1/namespaces/{}/pods/{}", namespace.0, berth.containers()[0]);
    api("DELETE", &path, None);
    running.wait().exits(255);
    berth.log().line(" ends: it was deleted");
    cluster(&["kubectl", "--namespace", &namespace.0, "delete", "rolebinding", "berth"]).run().succeeds();
    berth.exec("true").run().exits(255).says("the container service refuses to start containers");
    berth.log().line("pods is forbidden");
}

#[test]
fn a_role_without_all_that_executing_programs_takes_is_told_what_it_lacks() {
    let namespace = with_role();
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/berth", namespace.0);
    let allow = |verb: &str| {
        let mut role = api("GET", &path, None);
        let rules = role["rules"].as_array_mut().unwrap();
        let exec = rules.iter_mut().find(|rule| rule["resources"] == json!(["pods/exec"])).unwrap();
        exec["verbs"] = json!([verb]);
        api("PUT", &path, Some(&role));
    };
    let lacks = |verb: &str, said: &str, without_agent: bool| {
        let berth = serve(&namespace, "connection", without_agent);
        let ran = berth.exec("true").run();
        // Kubernetes before 1.35 asks for no more than a GET does.
        if verb == "create" && ran.code == Some(0) {
            return;
        }
        let ran = ran.exits(255);
        assert!(!ran.stderr.contains("forbidden"), "{ran:?}");
        berth.log().line(said);
        berth.has_containers(0, SOON);
    };
    let get = "cannot get resource \"pods/exec\"";
    let create = "is forbidden: the role lacks the verb \"create\" on \"pods/exec\"";
    for (allowed, missing, said) in [("create", "get", get), ("get", "create", create)] {
        allow(allowed);
        for without_agent in [false, true] {
            lacks(missing, said, without_agent);
        }
    }
}

#[test]
fn without_the_right_to_leases_berth_says_what_is_missing_once_and_serves() {
    let namespace = with_role();
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/berth", namespace.0);
    let mut role = api("GET", &path, None);
    role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["leases"]));
    api("PUT", &path, Some(&role));
    let mut berth = with(|kubernetes| speak_as_role(kubernetes, &namespace));
    let session = session(&berth);
    berth.end(Signal::KILL);
    session.wait().exits(255);
    // As before there was one: the next start removes what is left.
    berth.restart();
    berth.has_containers(0, SOON);
    berth.exec("echo in").run().succeeds().prints("in\n");
    let log = berth.log().text();
    assert_eq!(log.matches("the API server gives no lease (leases.coordination.k8s.io ").count(), 1, "{log}");
    assert_eq!(log.matches("the role lacks a rule: apiGroups [coordination.k8s.io], resources [leases]").count(), 1);
}
