//! What a configuration server says, over what a file says.

use serde_json::json;

use crate::config::tests::{error, good, place};
use crate::config::{ImagePullPolicy, parse};

#[test]
fn with_a_configuration_server_the_file_need_not_be_whole() {
    for section in [
        "backend: sshproxy",
        "backend: sshproxy\nsshproxy: {port: 2022, hostKeyAlgos: [ssh-rsa]}",
        "backend: kubernetes\nkubernetes: {pod: {mode: persistent}}",
        "backend: kubernetes\nkubernetes: {pod: {spec: {containers: [{name: shell}]}}}",
        "backend: kubernetes\nkubernetes: {pod: {createMissingPods: true, consoleContainerNumber: 3}}",
        "docker: {execution: {mode: persistent}}",
        "docker: {execution: {containername: web}}",
        "auth: {users: {alice: {docker: {execution: {mode: persistent}}}}}",
    ] {
        let server = "configserver: {url: 'https://a'}\n";
        let config = parse(&format!("{server}{section}"), &place());
        assert!(config.is_ok(), "{section}: {:?}", config.err());
        if !section.starts_with("auth") {
            assert!(parse(section, &place()).is_err(), "{section}");
        }
    }
    let text = "configserver: {url: 'https://a'}\nbackend: sshproxy\nsshproxy: {username: guest, password: b}";
    let config = parse(text, &place()).unwrap();
    let fingerprint = "SHA256:0123456789012345678901234567890123456789012";
    let answer = json!({"sshproxy": {"server": "a", "allowedHostKeyFingerprints": [fingerprint]}});
    let whole = config.with_answer("alice", &answer).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!((whole.sshproxy.server.as_str(), whole.sshproxy.username.as_str()), ("a", "guest"));
    let errors = config.with_answer("alice", &json!({"sshproxy": {"server": "a"}})).unwrap_err();
    assert!(matches!(&errors[..], [one] if one.key == "sshproxy.allowedHostKeyFingerprints"), "{errors:?}");
}

#[test]
fn an_answers_keys_may_be_in_any_case() {
    let config = good("configserver: {url: 'https://a'}");
    let answer =
        json!({"Docker": {"EXECUTION": {"imagepullpolicy": "Never", "Container": {"IMAGE": "b"}}}, "Backend": ""});
    let docker = config.with_answer("alice", &answer).unwrap_or_else(|errors| panic!("{errors:?}")).docker;
    assert_eq!((docker.image_pull_policy, &docker.container["Image"]), (ImagePullPolicy::Never, &json!("b")));
    let answer = json!({"Docker": {"Connection": {"Host": "tcp://other:2375"}}});
    let docker = config.with_answer("alice", &answer).unwrap_or_else(|errors| panic!("{errors:?}")).docker;
    assert_eq!(docker.connection.host, "tcp://other:2375");
    let twice = json!({"docker": {"execution": {"Mode": "session", "MODE": "connection"}}});
    let errors = config.with_answer("alice", &twice).unwrap_err();
    assert!(errors[0].message.starts_with("given twice"), "{errors:?}");
    // A file's may not.
    assert!(error("Ssh: {}").starts_with("2: Ssh: unknown key"));
}
