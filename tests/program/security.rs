//! What of a client's requests the configuration grants.

use serde_json::json;

use crate::common::{Berth, Client, key};

fn with_security(security: serde_json::Value) -> Berth {
    Berth::with(|config| config["security"] = security)
}

#[test]
fn only_commands_on_the_list_are_run_and_to_the_letter() {
    let berth = with_security(json!({"command": {"mode": "filter", "allow": ["echo in"]}}));
    berth.exec("echo in").run().succeeds().prints("in\n");
    for other in ["echo in ", "echo in; id", "id", ""] {
        berth.ssh(["-T", "berth", other, "<&-"]).run().exits(255).prints("");
    }
}

#[test]
fn what_is_disabled_by_default_takes_a_mode_of_its_own() {
    let berth = with_security(json!({"defaultMode": "disable", "subsystem": {"mode": "filter", "allow": ["sftp"]}}));
    berth.exec("echo in").run().exits(255).prints("").says("exec request failed on channel 0");
    berth.ssh(["-T", "berth"]).run().exits(255).prints("").says("shell request failed on channel 0");
    berth.ssh(["-W", "localhost:1", "berth"]).run().exits(255).says("administratively prohibited");
    berth.openssh("sftp").args(["-b", "-", "berth"]).input("pwd\n").run().succeeds();
}

#[test]
fn shells_and_terminals_may_be_disabled() {
    let berth = with_security(json!({"shell": {"mode": "disable"}, "tty": {"mode": "filter"}}));
    berth.ssh(["-T", "berth"]).run().exits(255).prints("").says("shell request failed on channel 0");
    berth.ssh(["-tt", "berth", "tty"]).run().says("PTY allocation request failed on channel 0");
}

#[test]
fn subsystems_may_be_denied() {
    let berth = with_security(json!({"subsystem": {"mode": "enable", "deny": ["sftp"]}}));
    berth.openssh("sftp").args(["-b", "-", "berth"]).input("pwd\n").run().exits(255);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn variables_are_filtered_in_place_of_what_is_accepted_otherwise() {
    let show = "echo $LC_ONE $TWO $THREE";
    let client = |berth: &Berth| {
        let ssh = berth.ssh(["-T", "-o", "SendEnv=LC_ONE TWO THREE", "berth", show]);
        ssh.env("LC_ONE", "1").env("TWO", "2").env("THREE", "3").run().succeeds().text()
    };
    assert_eq!(client(&with_security(json!({}))), "1\n");
    assert_eq!(client(&with_security(json!({"env": {"mode": "filter", "allow": ["TWO"]}}))), "2\n");
    assert_eq!(client(&with_security(json!({"env": {"mode": "enable", "deny": ["TWO"]}}))), "1 3\n");
    assert_eq!(client(&with_security(json!({"env": {"mode": "disable"}}))), "\n");
}

/// A batch for sftp, which ends with the first command that fails.
fn sftp(berth: &Berth, batch: &str) -> Client {
    berth.openssh("sftp").args(["-b", "-", "berth"]).input(batch)
}

#[test]
fn sftp_that_may_only_read_stays_so_whoever_serves_it() {
    let forced = || with_security(json!({"forceCommand": "internal-sftp -R"}));
    let by_key = || {
        let line = format!("command=\"internal-sftp -R\" {}", key("ed25519").public);
        Berth::with(|config| config["auth"]["users"]["alice"]["authorizedKeys"] = json!([line]))
    };
    let subsystem = |image: &str, command: &str| {
        Berth::with(|config| {
            config["docker"]["execution"]["container"]["image"] = image.into();
            config["docker"]["execution"]["subsystems"] = json!({"sftp": command});
        })
    };
    for berth in [
        forced(),
        by_key(),
        subsystem("berth-test/busybox", "internal-sftp -R"),
        subsystem("berth-test/scratch", "internal-sftp -R"),
        // There is none in this image, or none at all, and then there is.
        subsystem("berth-test/busybox", "/usr/lib/openssh/sftp-server -R"),
        subsystem("berth-test/scratch", "/usr/lib/openssh/sftp-server -R"),
        subsystem("berth-test/tools", "/usr/lib/openssh/sftp-server -R"),
        with_security(json!({"forceCommand": "/usr/lib/openssh/sftp-server -R"})),
    ] {
        let file = berth.path("file");
        std::fs::write(&file, "mine").unwrap();
        let put = format!("put {} /new", file.display());
        sftp(&berth, &put).run().exits(1).says("Permission denied");
        sftp(&berth, "mkdir /new\n").run().exits(1).says("Permission denied");
        sftp(&berth, "-rm /bin/sh\nls -l /\n").run().succeeds().says("Permission denied");
        let copied = berth.openssh("scp").arg("-q").arg(&file).arg("berth:/new").run();
        assert!(copied.code != Some(0) && copied.stderr.contains("Permission denied"), "{copied:?}");
    }
}

#[test]
fn sftp_is_served_with_its_options_or_not_at_all() {
    let options = "-d / -u 0077 -P remove,rename,posix-rename";
    let berth = with_security(json!({"forceCommand": format!("internal-sftp {options}")}));
    let file = berth.path("file");
    std::fs::write(&file, "mine").unwrap();
    let batch = format!("put {} new\nls -l new\n-rm new\n-rename new newer\npwd\n", file.display());
    let ran = sftp(&berth, &batch).run().succeeds();
    let shown = ran.text();
    assert!(shown.contains("-rw-------") && shown.contains("Remote working directory: /\n"), "{shown}");
    assert_eq!(ran.stderr.matches("Permission denied").count(), 2, "{ran:?}");
    // One that is not of the configuration cannot be looked at before.
    let berth = Berth::with(|config| {
        let keys = crate::common::directory_of(config).join("keys");
        let line = format!("command=\"internal-sftp -R -P unlink\" {}", key("ed25519").public);
        std::fs::write(&keys, line).unwrap();
        let alice = &mut config["auth"]["users"]["alice"];
        alice["authorizedKeys"] = json!([]);
        alice["authorizedKeysFile"] = keys.to_str().unwrap().into();
    });
    let message = "berth: internal-sftp: -P: there is no request \"unlink\"";
    sftp(&berth, "pwd\n").run().exits(255).says(message);
    berth.exec("id").run().exits(255).prints("").says(message);
    berth.log().line("cannot be run: -P: there is no request");
}
