//! The Docker API's objects as typed.

use serde_json::json;

use crate::config::parse;
use crate::config::tests::{docker, docker_error, error, place};

#[test]
fn keys_of_the_docker_api_are_taken_in_any_case_and_given_in_its_own() {
    let docker = docker(
        "host: {networkmode: bridge, nanocpus: 5, MOUNTS: [{type: bind, READONLY: true, bindoptions: {nonrecursive: \
         false}}], portbindings: {80/tcp: [{hostip: 127.0.0.1, hostport: 8080}]}, dns: [1.1.1.1], blkiodevicereadiops: \
         [{path: /d, rate: 1}]}, network: {endpointsconfig: {myNet: {ipamconfig: {ipv4address: 10.0.0.2}, \
         driveropts: {X.y: 1}}}}",
    )
    .unwrap();
    assert_eq!(
        json!(docker.host_config),
        json!({
            "NetworkMode": "bridge",
            "NanoCpus": 5,
            "Mounts": [{"Type": "bind", "ReadOnly": true, "BindOptions": {"NonRecursive": false}}],
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
            "Dns": ["1.1.1.1"],
            "BlkioDeviceReadIOps": [{"Path": "/d", "Rate": 1}],
        })
    );
    assert_eq!(
        json!(docker.networking_config),
        json!({"EndpointsConfig": {"myNet": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "DriverOpts": {"X.y": "1"}}}})
    );
}

#[test]
fn values_of_the_docker_api_have_its_types() {
    let container = |keys: &str| {
        let text = format!("docker: {{execution: {{container: {{image: a, {keys}}}}}}}");
        parse(&text, &place()).map(|config| json!(config.docker.container))
    };
    let good = container(
        "user: 1000, labels: {a: true, b: 1.10}, cmd: [sleep, 10], entrypoint: /bin/sh, tty: false, stopTimeout: 3, \
         exposedPorts: {80/tcp: {}, 90/tcp: }, volumes: {/v: {}}, env: [A=b], healthcheck: {test: [NONE], interval: 30s, \
         timeout: 5000000000, startPeriod: 1m30s}, hostname: ",
    );
    assert_eq!(
        good.unwrap(),
        json!({
            "Image": "a", "User": "1000", "Labels": {"a": "true", "b": "1.10"}, "Cmd": ["sleep", "10"],
            "Entrypoint": "/bin/sh", "Tty": false, "StopTimeout": 3,
            "ExposedPorts": {"80/tcp": {}, "90/tcp": {}}, "Volumes": {"/v": {}}, "Env": ["A=b"],
            "Healthcheck": {
                "Test": ["NONE"], "Interval": 30_000_000_000i64, "Timeout": 5_000_000_000i64,
                "StartPeriod": 90_000_000_000i64,
            },
        })
    );
    for (keys, message) in [
        ("tty: 1", "Tty: must be true or false, without quotes"),
        ("tty: 'true'", "Tty: must be true or false, without quotes"),
        ("tty: maybe", "Tty: must be true or false, without quotes"),
        ("env: A=b", "Env: must be a list"),
        ("env: {A: b}", "Env: must be a list, not a mapping"),
        ("labels: [a]", "Labels: must be a mapping, not a list"),
        ("labels: {a: }", "Labels.a: must be a text, not nothing"),
        ("user: [a]", "User: must be a text, not a list"),
        ("stopTimeout: 010", "StopTimeout: must be a number, without quotes and leading zeros"),
        ("volumes: {/v: x}", "Volumes./v: must be an empty mapping, {}"),
        (
            "healthcheck: {interval: soon}",
            "interval: must be a number of nanoseconds, or a time with a unit, such as 30s",
        ),
        ("healthcheck: {intervall: 1s}", "intervall: unknown key; did you mean interval?"),
    ] {
        let errors = container(keys).expect_err(keys);
        let found = format!("{}: {}", errors[0].key, errors[0].message);
        assert!(errors.len() == 1 && found.to_lowercase().ends_with(&message.to_lowercase()), "{keys}: {errors:?}");
    }
}

#[test]
fn sizes_may_have_a_unit() {
    let memory =
        |text: &str| docker(&format!("host: {{memory: {text}}}")).map(|docker| docker.host_config["Memory"].clone());
    for (text, bytes) in
        [("5", 5_i64), ("64k", 65_536), ("512m", 536_870_912), ("2G", 2_147_483_648), ("1kb", 1024), ("-1", -1i64)]
    {
        assert_eq!(memory(text).unwrap(), json!(bytes), "{text}");
    }
    for bad in ["much", "1x", "1.5g", "m", "9999999999g", "[1]"] {
        assert!(memory(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name_with_the_reason() {
    for (execution, message) in [
        (
            "mode: persistent",
            "docker.execution.mode: persistent: which container? Set containername, containerLabels, \
             selectableContainers or create",
        ),
        (
            "mode: konnection",
            "docker.execution.mode: must be connection, session or persistent; did you mean connection?",
        ),
        (
            "containername: web",
            "docker.execution.containername: is for mode: persistent; else each connection has a container, which berth names",
        ),
        (
            "imagePullPolicy: always",
            "docker.execution.imagePullPolicy: must be Always, IfNotPresent or Never; did you mean Always?",
        ),
        ("host: {resources: {memry: 1}}", "docker.execution.host.resources.memry: unknown key; did you mean memory?"),
        ("platform: [linux]", "docker.execution.platform: must be a platform, not a list"),
        ("platform: Linux/x", "docker.execution.platform: must be a platform such as linux/arm64 or linux/arm/v7"),
        (
            "host: {restartPolicy: {name: always}}",
            "docker.execution.host.restartPolicy.name: a container ends with its connection and is not started again; remove it",
        ),
    ] {
        assert_eq!(docker_error(execution), message);
    }
    assert!(docker("host: {init: false, restartPolicy: {name: 'no'}}").is_ok());
    assert_eq!(error("security: {tty: {mode: allow}}"), "2: security.tty.mode: must be enable, filter or disable");
}

#[test]
fn a_platform_is_a_text_or_its_parts() {
    let platform = |text: &str| docker(&format!("platform: {text}")).unwrap().platform;
    assert_eq!(platform("linux/arm64"), Some("linux/arm64".into()));
    assert_eq!(platform("{architecture: arm, os: linux, variant: v7}"), Some("linux/arm/v7".into()));
    assert_eq!(platform("~"), None);
}

#[test]
fn an_init_of_dockers_own_is_for_containers_without_an_agent() {
    let init = |more: &str| docker(&format!("host: {{init: true}}{more}"));
    assert!(init(", disableAgent: true").is_ok());
    assert!(docker("sidecars: [{name: a, container: {image: b}, host: {init: true}}]").is_ok());
    assert_eq!(
        docker_error("host: {init: true}"),
        "docker.execution.host.init: the agent is the container's init; remove it"
    );
}

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
