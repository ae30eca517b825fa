//! The Docker API's objects as typed.

use serde_json::json;

use crate::config::parse;
use crate::config::tests::{docker, docker_error, place};

#[test]
fn keys_that_a_newer_api_brings_are_passed_on_where_they_are_named() {
    let execution = "additionalKeys: [NewThing, Deep], host: {NewThing: {a: [1, 'x', true]}, mounts: [{Deep: no}]}";
    let docker = docker(execution).unwrap();
    assert_eq!(json!(docker.host_config), json!({"NewThing": {"a": [1, "x", true]}, "Mounts": [{"Deep": "no"}]}));
    assert!(docker_error("additionalKeys: Newer, host: {NewThing: 1}").ends_with("unknown key"));
}

#[test]
fn resources_stand_for_the_keys_around_them() {
    let docker = docker("host: {resources: {memory: 1k, cpusetcpus: '1'}, privileged: false}").unwrap();
    assert_eq!(json!(docker.host_config), json!({"Memory": 1024, "CpusetCpus": "1", "Privileged": false}));
}

#[test]
fn a_percent_sign_that_stands_for_nothing_is_told_of() {
    for (execution, key) in [
        ("host: {binds: ['/srv/homes/%u:/home/user']}", "host.binds[0]"),
        ("host: {mounts: [{type: volume, source: 'home-%u', target: /h}]}", "host.mounts[0].source"),
        (
            "host: {mounts: [{type: volume, source: a, target: /h, volumeOptions: {subpath: '%u'}}]}",
            "volumeOptions.subpath",
        ),
        ("host: {networkMode: 'net-%u'}", "host.networkMode"),
        ("sidecars: [{name: a, container: {image: b}, host: {binds: ['/%h:/h']}}]", "sidecars[0].host.binds[0]"),
    ] {
        let message = docker_error(execution);
        assert!(message.contains(&format!("{key}: % stands for nothing here")), "{execution}: {message}");
    }
    let host = "host: {pidsLimit: 9, memory: 1g}";
    let text = |more: &str| format!("docker:\n  execution:\n    container: {{image: a, {more}}}\n    {host}");
    assert!(parse(&text("hostname: '%u'"), &place()).unwrap_err()[0].to_string().starts_with("c.yaml:3: "));
    let config =
        parse(&text("env: ['A=%u'], labels: {a: '%u'}, cmd: [date, +%u], workingDir: /a%%b"), &place()).unwrap();
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warnings, ["docker.execution.container.env[0]", "docker.execution.container.labels.a"]);
    assert_eq!(
        (&config.docker.container["WorkingDir"], &config.docker.container["Env"]),
        (&json!("/a%b"), &json!(["A=%u"]))
    );
    // Whoever answers knows whom it is for.
    let answer = json!({"docker": {"execution": {"host": {"Binds": ["/srv/a%u:/b"]}}}});
    let docker = config.with_answer("a%u", &answer).unwrap_or_else(|errors| panic!("{errors:?}")).docker;
    assert_eq!(docker.host_config["Binds"], json!(["/srv/a%u:/b"]));
}
