//! What a pod is made of: `kubernetes.pod`.

use std::process::Stdio;

use serde_json::json;

use crate::common::cluster::{Namespace, agent_image, cluster, pod};
use crate::common::{Answer, Berth, PASSWORD, WebhookServer};
use crate::with;

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
        pod["consoleContainerName"] = "own".into();
        pod["metadata"]["labels"] = json!({"team": "red"});
        pod["metadata"]["generateName"] = "guest-".into();
        pod["spec"]["hostname"] = "island".into();
        pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
        let image = json!({"image": "berth-test/busybox", "imagePullPolicy": "Never"});
        let (mut beside, mut own) = (image.clone(), image);
        beside["name"] = "beside".into();
        beside["command"] = json!(["httpd", "-f", "-p", "127.0.0.1:80", "-h", "/etc"]);
        own["name"] = "own".into();
        // What is not a text where the API wants one becomes one.
        own["env"] = json!([{"name": "COLOUR", "value": "blue"}, {"name": "PORT", "value": 8080}]);
        pod["metadata"]["labels"]["app"] = 1.into();
        pod["spec"]["enableServiceLinks"] = false.into();
        own["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        pod["spec"]["containers"] = json!([beside, own]);
    });
    let running = berth.exec("hostname; echo $COLOUR $PORT; ls -d /scratch; wget -qO- 127.0.0.1/hostname; cat");
    let running = running.stdin(Stdio::piped()).spawn();
    for line in ["island", "blue 8080", "/scratch", "island"] {
        running.stdout.line(line);
    }
    let pod = pod(&berth.containers()[0]);
    let metadata = &pod["metadata"];
    assert!(metadata["name"].as_str().unwrap().starts_with("guest-"), "{metadata}");
    assert_eq!((&metadata["labels"]["team"], &metadata["labels"]["app"]), (&json!("red"), &json!("1")));
    assert_eq!(metadata["annotations"]["berth.user"], "alice");
    // As ContainerSSH has them.
    assert_eq!(metadata["labels"]["containerssh_username"], "alice");
    assert_eq!(metadata["labels"]["containerssh_connection_id"], metadata["labels"]["berth.connection"]);
    assert_eq!(metadata["annotations"]["containerssh_ip"], "127.0.0.1");
    assert!(metadata["annotations"]["berth.client"].as_str().unwrap().starts_with("127.0.0.1:"));
    running.wait().succeeds();
}

#[test]
fn what_webhooks_give_is_in_the_pod_before_its_user() {
    let server = WebhookServer::start(|_, _| {
        Answer::Json(json!({
            "success": true,
            "metadata": {"TEAM": {"value": "blue"}, "FLOOR": {"value": "3"}},
            "environment": {"COLOUR": {"value": "green"}},
            "files": {
                "/etc/deep/er/key": {"value": "AAEC/w==", "sensitive": true},
                "/tmp/motd": {"value": "aGVsbG8K"},
                "/tmp/empty": {"value": ""},
            },
        }))
    });
    for without_agent in [false, true] {
        let berth = Berth::with(|config| {
            config["auth"] = json!({"password": {"method": "webhook", "webhook": {"url": server.url()}}});
            let pod = &mut config["kubernetes"]["pod"];
            pod["disableAgent"] = without_agent.into();
            pod["exposeAuthMetadataAsEnv"] = json!({"TEAM": "HIS_TEAM"});
            pod["exposeAuthMetadataAsLabels"] = json!({"TEAM": "team", "NONE": "none"});
            pod["exposeAuthMetadataAsAnnotations"] = json!({"FLOOR": "example.com/floor"});
        });
        let command = "echo $HIS_TEAM $COLOUR $FLOOR; stat -c %a /etc/deep/er/key /tmp/motd; cat /tmp/empty /tmp/motd; \
            md5sum </etc/deep/er/key; cat";
        let ssh = berth.openssh_with_password("ssh", PASSWORD, 1).args(["-T", "berth", command]);
        let running = ssh.stdin(Stdio::piped()).spawn();
        running.stdout.line("  -");
        let metadata = &pod(&berth.containers()[0])["metadata"];
        assert_eq!((&metadata["labels"]["team"], &metadata["labels"]["none"]), (&json!("blue"), &json!(null)));
        assert_eq!(metadata["annotations"]["example.com/floor"], "3");
        let sum = "0416dab819887333af831f8c765ac2ae";
        running.wait().succeeds().prints(&format!("blue green\n600\n644\nhello\n{sum}  -\n"));
    }
}
