//! What whole texts become, and what is said of them.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const REFERENCE: &str = include_str!("../../config.yaml");

pub(super) fn place() -> Place {
    Place {
        file: "c.yaml".into(),
        directory: "/etc/berth".into(),
        host_name: "host".into(),
        run_directory: "/run/berth".into(),
        docker: DockerEnvironment::default(),
        kubernetes: KubernetesEnvironment::default(),
    }
}

/// A configuration with an image and limits, and these lines.
fn with(lines: &str) -> Result<Config, Vec<Error>> {
    let limits = "host: {pidsLimit: 9, memory: 1g}";
    parse(&format!("docker: {{execution: {{container: {{image: a}}, {limits}}}}}\n{lines}"), &place())
}

pub(super) fn good(lines: &str) -> Config {
    with(lines).unwrap_or_else(|errors| panic!("{lines}: {errors:?}"))
}

/// What is wrong, without the file's name.
fn errors(lines: &str) -> Vec<String> {
    let errors = with(lines).expect_err(lines);
    errors.iter().map(|error| error.to_string().split_once(':').unwrap().1.to_owned()).collect()
}

pub(super) fn error(lines: &str) -> String {
    let errors = errors(lines);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

/// The configuration of a container, made of flow mappings.
pub(super) fn docker(execution: &str) -> Result<Docker, Vec<Error>> {
    let text = format!("docker: {{execution: {{container: {{image: a}}, {execution}}}}}");
    parse(&text, &place()).map(|config| config.docker)
}

pub(super) fn docker_error(execution: &str) -> String {
    let errors = docker(execution).expect_err(execution);
    assert_eq!(errors.len(), 1, "{errors:?}");
    format!("{}: {}", errors[0].key, errors[0].message)
}

/// The reference with its examples switched on: `#key: value` in place of what it stands for.
fn reference_with_examples() -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        let bare = line.trim_start();
        match bare.strip_prefix('#') {
            Some(example)
                if example.starts_with(|c: char| c.is_ascii_alphabetic()) || is_continued(&lines, example) =>
            {
                let indent = &line[..line.len() - bare.len()];
                let key = format!("{indent}{}:", example.split(':').next().unwrap());
                // The example stands below the default, in the same section.
                let is_above = |line: &String| !line.trim().is_empty() && !line.starts_with(indent);
                let section = lines.iter().rposition(is_above).map_or(0, |above| above + 1);
                if let Some(default) = lines[section..].iter().rposition(|line| line.starts_with(&key)) {
                    lines.remove(section + default);
                }
                lines.push(format!("{indent}{example}"));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n").replace("$6$...", HASH)
}

/// Whether an example's line goes on from the one above.
fn is_continued(lines: &[String], example: &str) -> bool {
    let above = lines.last().map_or("", |line| line.trim());
    example.starts_with("  ") && !above.is_empty() && !above.starts_with("# ")
}

/// Of the password "secret".
const HASH: &str = "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiN\
    uHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1";

#[test]
fn the_reference_is_good_and_holds_the_defaults() {
    let reference = parse(REFERENCE, &place()).unwrap();
    let defaults = good("auth: {users: {alice: }}");
    let normal = |mut config: Config| {
        config.docker.container.clear();
        config.docker.host_config.clear();
        // What it comes to is in the rest.
        config.docker_connection = docker_connection::Typed::default();
        // Of the same, in other lines.
        config.warnings.clear();
        format!("{config:#?}")
    };
    assert_eq!(normal(reference), normal(defaults));
}

#[test]
fn the_reference_holds_every_key() {
    let text = reference_with_examples();
    let mut errors = parse(&text, &place()).err().unwrap_or_default();
    // A host excludes a context, and the files are not there.
    let is_file = |error: &Error| {
        ["ca.pem", "registry-password", "oauth2-secret", "cluster-", "guest-password"]
            .iter()
            .any(|name| error.message.contains(name))
    };
    errors.retain(|error| !error.key.starts_with("docker.connection.") && !is_file(error));
    // Its mode is another.
    errors.retain(|error| !error.message.starts_with("is for mode: persistent"));
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    let root = yaml::parse(&text).unwrap();
    for key in keys() {
        let path: Vec<&str> = key.split('.').map(|name| if name == "*" { "alice" } else { name }).collect();
        if matches!(path[..], ["auth", "publicKey" | "authz", _, ..]) {
            // As with passwords.
            continue;
        }
        assert!(root.at(&path).is_some(), "{key} is not in the reference");
    }
}

#[test]
fn the_smallest_configuration_has_the_defaults_of_the_contract() {
    let config = good("");
    assert_eq!(config.ssh.listen, ["127.0.0.1:2222".parse().unwrap()]);
    assert_eq!(config.ssh.host_keys, [Pem::File("/etc/berth/ssh_host_ed25519_key".into())]);
    assert_eq!(config.ssh.login_grace_time, Duration::from_secs(120));
    assert_eq!((config.ssh.max_auth_tries, config.ssh.max_startups.full, config.ssh.max_connections), (6, 100, 0));
    assert_eq!(config.instance, "host-127.0.0.1:2222");
    assert_eq!(config.run_directory, Path::new("/run/berth/host-127.0.0.1:2222"));
    assert_eq!(config.docker.container["Image"], "a");
    assert!(config.users.is_empty());
}

#[test]
fn an_image_is_needed() {
    let text = |text: &str| parse(text, &place()).unwrap_err()[0].to_string();
    let message = "docker.execution.container.image: missing; name the image that containers are made of";
    assert_eq!(text(""), format!("c.yaml: {message}"));
    assert_eq!(text("docker:\n  execution:\n    host: {}\n"), format!("c.yaml:2: {message}"));
    assert!(text("docker: {execution: {container: {image: ''}}}").ends_with("must be the name of an image"));
    // Beside what is wrong elsewhere, too; but not where it is just misspelt.
    let count = |text: &str| parse(text, &place()).unwrap_err().len();
    assert_eq!(count("log: {levl: info}"), 2);
    assert_eq!(count("docker: {execution: {container: {imag: a}}}"), 1);
}

#[test]
fn every_error_is_told_at_once_in_the_order_of_lines() {
    let text = "\
ssh:
  listn: :22
  maxAuthTries: many
docker:
  execution:
    host: {init: true}
    container:
      imag: a
      env: [A=b, [c]]
bakend: docker
";
    let errors = parse(text, &place()).unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "c.yaml:2: ssh.listn: unknown key; did you mean listen?",
            "c.yaml:3: ssh.maxAuthTries: must be a number from 1 to 100",
            "c.yaml:6: docker.execution.host.init: the agent is the container's init; remove it",
            "c.yaml:8: docker.execution.container.imag: unknown key; did you mean image?",
            "c.yaml:9: docker.execution.container.env[1]: must be a text, not a list",
            "c.yaml:10: bakend: unknown key; did you mean backend?",
        ]
    );
}

#[test]
fn errors_without_end_are_counted() {
    let lines: Vec<String> = (0..1000).map(|n| format!("key{n}: 1\n")).collect();
    let errors = errors(&lines.concat());
    assert_eq!(errors.len(), 201);
    assert_eq!(errors[200], " 800 more errors");
}

#[test]
fn a_syntax_error_has_a_column() {
    let error = parse("ssh:\n  listen: [1, 2\nauth: {}\n", &place()).unwrap_err();
    assert_eq!((error.len(), error[0].line, error[0].column), (1, Some(3), Some(5)));
    assert!(error[0].to_string().starts_with("c.yaml:3:5: "), "{}", error[0]);
}

#[test]
fn a_key_that_comes_twice_is_an_error() {
    assert_eq!(error("ssh: {kex: curve25519-sha256}\nssh: {}\n"), "3: ssh: given twice; the first is in line 2");
    let message = docker_error("host: {memory: 1, Memory: 2}");
    assert_eq!(message, "docker.execution.host.Memory: given twice; the first is in line 1");
    assert_eq!(docker("host: {sysctls: {a: 1, A: 2}}").unwrap().host_config["Sysctls"], json!({"a": "1", "A": "2"}));
}

#[test]
fn a_key_without_a_value_has_its_default() {
    assert_eq!(good("ssh:\nauth: {users: }\nlog: {level: ~}").ssh.max_auth_tries, 6);
    assert_eq!(errors("ssh: []"), ["2: ssh: must be a mapping of keys to values, not a list"]);
    assert!(parse("- a", &place()).is_err());
}

#[test]
fn listening_addresses_are_as_in_go() {
    let listen = |text: &str| {
        let list = good(&format!("ssh: {{listen: {text}}}")).ssh.listen;
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listen("0.0.0.0:22"), "0.0.0.0:22");
    assert_eq!(listen("\"[::1]:22\""), "[::1]:22");
    assert_eq!(listen(":2222"), "[::]:2222");
    assert_eq!(listen("[\"127.0.0.1:0\", \"[fe80::1]:22\"]"), "127.0.0.1:0 [fe80::1]:22");
    // Nobody could tell whether that is this host alone, or all addresses.
    assert!(error("ssh: {listen: 2222}").contains("must be an address and port"));
    for bad in ["2222", "127.0.0.1", "127.0.0.1:65536", "localhost:22", "::1:22", ":", "-1"] {
        let message = error(&format!("ssh: {{listen: \"{bad}\"}}"));
        assert!(message.contains("must be an address and port"), "{bad}: {message}");
    }
    assert_eq!(error("ssh: {listen: []}"), "2: ssh.listen: must have one entry at least");
    assert!(error("ssh:\n  listen:\n  - :1\n  - x").starts_with("5: ssh.listen[1]: "));
}

#[test]
fn times_are_as_in_go_or_in_seconds() {
    let time = |text: &str| good(&format!("ssh: {{loginGraceTime: {text}}}")).ssh.login_grace_time;
    for (text, milliseconds) in
        [("60s", 60_000), ("1m30s", 90_000), ("1.5m", 90_000), ("1500ms", 1500), ("90", 90_000), ("'90'", 90_000)]
    {
        assert_eq!(time(text), Duration::from_millis(milliseconds), "{text}");
    }
    for bad in ["0", "2h", "s", "1x", "1m-1s", "-1s", "1s ", "1..5s", ".s", "1e3s", "999999999999999999999h"] {
        let message = errors(&format!("ssh: {{loginGraceTime: '{bad}'}}"));
        let allowed = "2: ssh.loginGraceTime: must be a time from 1s to 1h, such as 90s or 1m30s";
        assert_eq!(message, [allowed], "{bad}");
    }
    assert!(error("ssh: {loginGraceTime: 60000000000}").contains("needs a unit"));
    assert_eq!(good("ssh: {clientAliveInterval: 0}").ssh.client_alive_interval, Duration::ZERO);
    assert_eq!(good("ssh: {clientAliveInterval: 0s}").ssh.client_alive_interval, Duration::ZERO);
    assert!(error("ssh: {clientAliveInterval: 1ms}").contains("must be 0 (off), or a time from 1s to 24h"));
}

#[test]
fn numbers_have_a_range_and_no_quotes() {
    assert_eq!(good("ssh: {maxStartups: 0x10}").ssh.max_startups.full, 16);
    for bad in ["0", "65536", "1.0", "010", "0o9", "0x", "+-1", "-1", "99999999999999999999", "[1]", "true"] {
        let message = error(&format!("ssh: {{maxStartups: {bad}}}"));
        assert!(message.starts_with("2: ssh.maxStartups: must be a number from 1 to 65535"), "{bad}: {message}");
    }
    assert!(error("ssh: {maxAuthTries: \"10\"}").ends_with(", without quotes"));
}

#[test]
fn only_algorithms_on_offer_can_be_chosen() {
    assert_eq!(good("ssh: {ciphers: [aes128-ctr, aes256-ctr]}").ssh.ciphers, ["aes128-ctr", "aes256-ctr"]);
    let message = error("ssh: {macs: [hmac-sha2-256, hmac-sha1]}");
    assert!(message.starts_with("2: ssh.macs[1]: not offered"), "{message}");
    assert!(message.ends_with("hmac-sha2-256, hmac-sha2-512"), "{message}");
    for (key, bad) in [("ciphers", "3des-cbc"), ("kex", "diffie-hellman-group1-sha1"), ("hostKeyAlgorithms", "ssh-dss")]
    {
        assert!(error(&format!("ssh: {{{key}: {bad}}}")).contains("not offered"));
    }
}

#[test]
fn an_identification_is_one() {
    let version = |text: &str| with(&format!("ssh: {{serverVersion: \"{text}\"}}"));
    assert_eq!(version("SSH-2.0-ContainerSSH").unwrap().ssh.server_version, "ContainerSSH");
    assert_eq!(version("SSH-2.0-a_1 some comment").unwrap().ssh.server_version, "a_1 some comment");
    let long = format!("SSH-2.0-{}", "x".repeat(250));
    for bad in ["berth", "SSH-2.0-", "SSH-2.0-a-b", "SSH-1.99-a", "SSH-2.0- a", "SSH-2.0-a\\nb", "SSH-2.0-é", &long] {
        assert!(version(bad).is_err(), "{bad}");
    }
}

#[test]
fn users_have_names_hashes_keys_and_files() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFoqUkd9mc55KqwDORXdRJaOtKLCcE7z0E6IakEdb4Z4 alice";
    let lines = format!(
        "auth:\n  users:\n    alice:\n      password: \"{HASH}\"\n      authorizedKeys: [\"{key}\"]\n      \
         authorizedKeysFile: [keys, /abs]\n    bob: {{authorizedKeysFile: bob}}\n    1000: {{}}\n"
    );
    let users = good(&lines).users;
    assert_eq!(users.keys().collect::<Vec<_>>(), ["1000", "alice", "bob"]);
    let alice = &users["alice"];
    assert!(alice.password.is_some());
    assert_eq!(alice.authorized_keys.len(), 1);
    assert_eq!(alice.authorized_keys_files, [Path::new("/etc/berth/keys"), Path::new("/abs")]);
    assert_eq!(users["bob"].authorized_keys_files, [Path::new("/etc/berth/bob")]);
    for bad in ["", "a\\nb", &"x".repeat(1025)] {
        assert!(error(&format!("auth: {{users: {{\"{bad}\": {{}}}}}}")).contains("its name must be"), "{bad}");
    }
    assert!(error("auth: {users: {a: {password: plain}}}").starts_with("2: auth.users.a.password: "));
    assert!(
        error("auth: {users: {a.b: {authorizedKeys: [x]}}}").starts_with("2: auth.users.\"a.b\".authorizedKeys[0]: ")
    );
    assert!(error("auth: {webhook: {}}").contains("unknown key"));
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "c2VjcmV0IG9mIGFsaWNl";
    for value in
        [secret.to_owned(), format!("$6$rounds=1${secret}"), format!("ssh-rsa {secret}"), format!("[{secret}]")]
    {
        let keys = ["password", "authorizedKeys", "authorizedKeysFile", "pasword"];
        for key in keys.iter().map(|key| format!("auth: {{users: {{a: {{{key}: {value}}}}}}}")) {
            let Err(errors) = with(&key) else { continue };
            assert!(!format!("{errors:?}").contains(secret), "{errors:?}");
        }
        for key in
            ["ssh: {hostkeys", "ssh: {banner", "ssh: {kex", "ssh: {listen", "docker: {connection: {key", "log: {level"]
        {
            let Err(errors) = with(&format!("{key}: {value}{}", "}".repeat(key.matches('{').count()))) else {
                continue;
            };
            assert!(!format!("{errors:?}").contains(secret), "{errors:?}");
        }
    }
}

#[test]
fn levels_have_the_names_of_syslog() {
    let level = |text: &str| good(&format!("log: {{level: {text}}}")).log.level;
    assert_eq!((level("debug"), level("notice")), (log::LevelFilter::Debug, log::LevelFilter::Info));
    assert_eq!((level("warning"), level("crit")), (log::LevelFilter::Warn, log::LevelFilter::Error));
    assert!(error("log: {level: warnin}").ends_with("did you mean warning?"));
    assert_eq!((level("7"), level("4")), (log::LevelFilter::Debug, log::LevelFilter::Warn));
    assert!(error("log: {level: 8}").contains("must be debug, info, notice"));
}

#[test]
fn the_run_directory_is_short_enough_for_sockets() {
    let directory = |lines: &str| good(lines).run_directory.display().to_string();
    assert_eq!(directory("instance: a\nrunDirectory: run"), "/etc/berth/run/a");
    let (one, other) = (directory("instance: a/b"), directory("instance: a.b"));
    assert_ne!(one, other);
    assert!(one.starts_with("/run/berth/ab-"), "{one}");
    let long = directory(&format!("instance: {}", "x".repeat(128)));
    assert_eq!(long.len(), "/run/berth/".len() + 32);
    assert!(directory("instance: ..").starts_with("/run/berth/-"));
    let message = error(&format!("instance: a\nrunDirectory: /{}", "x".repeat(70)));
    assert!(message.starts_with("3: runDirectory: too long"), "{message}");
    assert!(error("instance: a b").contains("must be a name"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, &place());
    }

    #[test]
    fn no_yaml_panics(text in "([-?:,{}&*!|>'\"%@` \n\t#a~0]|\\[|\\]|- |: |ssh|listen){0,60}") {
        let _ = parse(&text, &place());
    }

    #[test]
    fn no_value_panics(key in 0..keys().len(), value in "[\\PC]{0,40}") {
        let path = keys()[key].replace('*', "alice");
        let depth = path.matches('.').count();
        let text = format!("{{{}: {}{}", path.replace('.', ": {"), json!(value), "}".repeat(depth + 1));
        let _ = parse(&text, &place());
    }

    #[test]
    fn what_go_writes_as_a_time_is_read(milliseconds in 0u64..1_000_000_000) {
        let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
        let text = format!("{minutes}m{}.{:03}s", rest / 1000, rest % 1000);
        prop_assert_eq!(kind::parse_duration(&text), Some(Duration::from_millis(milliseconds)));
    }
}

#[path = "drop_in_tests.rs"]
mod drop_in;

#[test]
fn a_groups_settings_go_over_everyones_and_a_users_over_those() {
    let config = good(
        "auth:\n  groups:\n    slow: {authorizedKeysFile: slow, docker: {execution: {host: {memory: 1m, cpuShares: 2}}}}\n    \
         quiet: {forwarding: {forwardingMode: disable, permitOpen: ['a:1']}}\n  users:\n    \"s*\": {groups: [slow, quiet]}\n    \
         sue: {groups: slow, authorizedKeysFile: sue, docker: {execution: {host: {memory: 2m}, container: {image: b}}}}\n    \
         bob: {}\n",
    );
    assert_eq!(config.users["s*"].authorized_keys_files, [Path::new("/etc/berth/slow")]);
    assert_eq!(config.users["sue"].authorized_keys_files, [Path::new("/etc/berth/sue")]);
    let (sam, sue) = (config.forwarding.of("sam"), config.forwarding.of("sue"));
    assert_eq!((sam.connect, sam.permit_open.is_some(), sue.connect), (false, true, true));
    let docker = |name| config.own.get(name).unwrap().as_ref().map(|own| &own.docker);
    let (sam, sue) = (docker("sam").unwrap(), docker("sue").unwrap());
    assert_eq!(json!(sam.host_config), json!({"Memory": 1_048_576, "CpuShares": 2, "PidsLimit": 9}));
    assert_eq!(json!(sue.host_config), json!({"Memory": 2_097_152, "CpuShares": 2, "PidsLimit": 9}));
    assert_eq!((&sam.container["Image"], &sue.container["Image"]), (&json!("a"), &json!("b")));
    assert!(docker("bob").is_none() && config.own.get("zoe").is_none());
}

#[test]
fn what_is_wrong_with_a_group_is_told_once() {
    assert_eq!(
        error("auth: {users: {a: {groups: [x]}}}"),
        "2: auth.users.a.groups: there is no group \"x\" in auth.groups"
    );
    let nested = error("auth: {groups: {x: {groups: [y]}}}");
    assert!(nested.starts_with("2: auth.groups.x.groups: unknown key"), "{nested}");
    let wrong =
        error("auth: {groups: {x: {docker: {execution: {modus: a}}}}, users: {a: {groups: x}, b: {groups: x}}}");
    assert!(wrong.starts_with("2: auth.groups.x.docker.execution.modus: unknown key"), "{wrong}");
    assert!(
        error("auth: {users: {a: {docker: {connection: {}}}}}").contains("auth.users.a.docker.connection: unknown key")
    );
}

#[test]
fn an_empty_list_of_host_keys_is_as_none() {
    let keys = |lines: &str| format!("{:?}", good(lines).ssh.host_keys);
    assert_eq!(keys("ssh: {hostkeys: []}"), keys(""));
}
