//! Who berth is in the cluster, and that it may no more than it needs.

use serde_json::json;

use crate::common::cluster::{Namespace, api, cluster, kubeconfig, server};
use crate::{SOON, with};

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
    let serve = |mode: &str, without_agent: bool| {
        with(|kubernetes| {
            kubernetes["connection"] = json!({
                "host": server(),
                "bearerToken": token(&namespace.0),
                "cacertFile": kubeconfig().with_file_name("pki").join("ca.crt"),
            });
            let pod = &mut kubernetes["pod"];
            pod["metadata"]["namespace"] = namespace.0.as_str().into();
            pod["mode"] = mode.into();
            pod["disableAgent"] = without_agent.into();
            if mode == "persistent" {
                pod["createMissingPods"] = true.into();
                pod["metadata"]["name"] = "own-%u".into();
            }
        })
    };
    for mode in ["connection", "session", "persistent"] {
        for without_agent in [false, true] {
            let berth = serve(mode, without_agent);
            berth.exec("cat").input("hello\n").run().succeeds().prints("hello\n");
            let log = berth.log().text();
            assert!(!log.contains("forbidden"), "{log}");
            berth.has_containers(0, SOON);
        }
    }
    let berth = serve("connection", false);
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
