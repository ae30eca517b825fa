//! Pods that are there before their users, and stay: `kubernetes.pod.mode: persistent`.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::cluster::{Namespace, api};
use crate::common::{Answer, Berth, DEADLINE, PASSWORD, WebhookServer, eventually, key};
use crate::with;

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
        // What a user leaves behind goes on, as the pod does.
        let left = berth.exec("sleep 1234 & echo in; cat").stdin(Stdio::piped()).spawn();
        left.stdout.line("in");
        left.signal(Signal::KILL);
        let count = || berth.exec("ps | grep -c '[s]leep 1234'").run().text();
        eventually("what was left", DEADLINE, || count() == format!("{}\n", number + 1));
        assert!(running());
    }
    let berth = with(|kubernetes| {
        kubernetes["pod"]["mode"] = "persistent".into();
        kubernetes["pod"]["metadata"] = json!({"namespace": namespace.0, "name": "other-%u"});
    });
    berth.exec("true").run().exits(255).says("there is no container for other-alice");
}

/// Users get into the pod that is named after them, which is made where it is missing.
fn with_missing_ones_made(namespace: &Namespace, change: impl FnOnce(&mut Value)) -> Berth {
    with(|kubernetes| {
        let pod = &mut kubernetes["pod"];
        pod["mode"] = "persistent".into();
        pod["createMissingPods"] = true.into();
        pod["metadata"] = json!({"namespace": namespace.0, "name": "own-%u", "labels": {"owner": "%u"}});
        change(pod);
    })
}

#[test]
fn a_pod_that_is_missing_is_made_and_stays() {
    let namespace = Namespace::new();
    let berth = with_missing_ones_made(&namespace, |_| ());
    let path = format!("/api/v1/namespaces/{}/pods", namespace.0);
    // Both want to make it.
    let sessions: Vec<_> = (0..2).map(|_| berth.exec("hostname; echo more >>/kept; cat").input("").spawn()).collect();
    for session in sessions {
        session.wait().succeeds().prints("own-alice\n");
    }
    berth.exec("wc -l </kept").run().succeeds().prints("2\n");
    let pods = &api("GET", &format!("{path}?labelSelector=owner%3Dalice"), None)["items"];
    assert_eq!(pods.as_array().unwrap().len(), 1);
    berth.reload(|config| config["kubernetes"]["pod"]["spec"]["hostname"] = "other".into());
    berth.exec("wc -l </kept").run().succeeds().prints("2\n");
    berth.log().line("pod own-alice was made with another spec");
    drop(berth);
    // Without an agent, too.
    let berth = with_missing_ones_made(&namespace, |pod| pod["disableAgent"] = true.into());
    berth.exec("wc -l </kept; exit 3").run().exits(3).prints("2\n");
}

#[test]
fn what_webhooks_give_is_in_a_pod_that_was_there_before() {
    let namespace = Namespace::new();
    let server = WebhookServer::start(|_, question| {
        Answer::Json(json!({
            "success": true,
            "metadata": {"TEAM": {"value": "blue 'x"}},
            "environment": {"LOGIN": {"value": question["connectionId"]}, "LC_TEAM": {"value": "green"}},
        }))
    });
    for without_agent in [false, true] {
        let berth = with_missing_ones_made(&namespace, |pod| {
            pod["disableAgent"] = without_agent.into();
            pod["exposeAuthMetadataAsEnv"] = json!({"TEAM": "HIS_TEAM"});
        });
        berth.reload(|config| {
            config["auth"] = json!({"password": {"method": "webhook", "webhook": {"url": server.url()}}});
        });
        // Those of this login, whoever has logged in before, and whatever the client sets.
        for _ in 0..2 {
            let ssh = berth.openssh_with_password("ssh", PASSWORD, 1).args(["-o", "SetEnv=LC_TEAM=own", "-T", "berth"]);
            let said = ssh.arg("echo $HIS_TEAM $LC_TEAM $LOGIN").run().succeeds().text();
            let login = server.questions().pop().unwrap().1["connectionId"].as_str().unwrap().to_owned();
            assert_eq!(said, format!("blue 'x green {login}\n"), "without_agent: {without_agent}");
        }
    }
}

/// A pod of two containers, of which the image of the first has bash.
fn pod_with_a_proxy(name: &str, annotations: Value) -> Value {
    let container = |name: &str, image: &str| json!({"name": name, "image": image, "imagePullPolicy": "Never", "command": ["sleep", "1000"]});
    let containers = [container("proxy", "berth-test/tools"), container("shell", "berth-test/busybox")];
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 0},
    })
}

#[test]
fn users_are_in_their_own_container_where_another_was_put_before_it() {
    let namespace = Namespace::new();
    let path = format!("/api/v1/namespaces/{}/pods", namespace.0);
    // As what a mesh makes of the pod that is to be made, and as pods of others.
    let default = json!({"kubectl.kubernetes.io/default-container": "shell"});
    for (name, annotations) in [("own-alice", json!({})), ("other-alice", default), ("plain-alice", json!({}))] {
        api("POST", &path, Some(&pod_with_a_proxy(name, annotations)));
    }
    let enter = |made: &str, without_agent: bool| {
        let berth = with_missing_ones_made(&namespace, |pod| {
            pod["createMissingPods"] = (made == "own").into();
            pod["metadata"]["name"] = format!("{made}-%u").into();
            pod["disableAgent"] = without_agent.into();
        });
        eventually("the pod", DEADLINE, || {
            api("GET", &format!("{path}/{made}-alice"), None)["status"]["phase"] == "Running"
        });
        berth.exec("test -e /bin/bash && echo proxy || echo shell").run().succeeds().text()
    };
    for without_agent in [false, true] {
        assert_eq!(enter("own", without_agent), "shell\n");
        assert_eq!(enter("other", without_agent), "shell\n");
        assert_eq!(enter("plain", without_agent), "proxy\n");
    }
}

#[test]
fn a_user_whose_name_cannot_be_a_pods_has_one_all_the_same() {
    let namespace = Namespace::new();
    let berth = with_missing_ones_made(&namespace, |_| ());
    berth.reload(|config| config["auth"]["users"] = json!({"*": config["auth"]["users"]["alice"]}));
    let key = key("ed25519").path.display().to_string();
    let name = "own-user-corp-example--0131e1ce1d19d9e9";
    berth
        .ssh(["-T", "-i", &key, "-l", "user@corp.example", "berth", "hostname"])
        .run()
        .succeeds()
        .prints(&format!("{name}\n"));
    berth.ssh(["-T", "-i", &key, "-l", "Alice", "berth", "hostname"]).run().succeeds();
    let pods = format!("/api/v1/namespaces/{}/pods", namespace.0);
    let labels = api("GET", &format!("{pods}/{name}"), None)["metadata"]["labels"].clone();
    assert_eq!((&labels["owner"], &labels["containerssh_username"]), (&json!(name[4..]), &json!(name[4..])));
}

#[test]
fn users_choose_among_the_pods_that_they_may_have() {
    let namespace = Namespace::new();
    let path = format!("/api/v1/namespaces/{}/pods", namespace.0);
    for name in ["web", "alice-db", "bob-db"] {
        let container = json!({"name": "a", "image": "berth-test/busybox", "imagePullPolicy": "Never",
            "command": ["sleep", "1000"]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}});
        api("POST", &path, Some(&pod));
    }
    let choosing = |more: Value| {
        with(|kubernetes| {
            let pod = &mut kubernetes["pod"];
            pod["mode"] = "persistent".into();
            pod["selectablePods"] = json!(["web", "%u-*", "missing"]);
            pod["metadata"] = json!({"namespace": namespace.0});
            pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        })
    };
    let choose = |berth: &Berth, name: &str| {
        berth.ssh(["-l", &format!("alice+{name}"), "berth", "hostname; cat"]).input("").run()
    };
    let berth = choosing(json!({}));
    choose(&berth, "web").succeeds().prints("web\n");
    choose(&berth, "alice-db").succeeds().prints("alice-db\n");
    // Nobody gets one by another field of the selector, or by a part of a path.
    for name in ["bob-db", "missing", "we", "", "alice-db,metadata.name!=web", "alice-none,x", "alice-/../web", "%2e"] {
        choose(&berth, name).exits(255).says("berth: there is no container for ");
    }
    berth.log().line(": refused: kubernetes.pod.selectablePods has no \"bob-db\"");
    // Without a choice there is none.
    berth.exec("true").run().exits(255).says("berth: there is no container for alice");
    // Or there is, and it alone is made where it is missing; and without an agent it is the same.
    let berth = choosing(json!({
        "metadata": {"namespace": namespace.0, "name": "own-%u"}, "createMissingPods": true, "disableAgent": true,
    }));
    berth.exec("hostname").run().succeeds().prints("own-alice\n");
    choose(&berth, "web").succeeds().prints("web\n");
    choose(&berth, "missing").exits(255).says("berth: there is no container for missing");
}
