//! What of a client's requests the configuration grants.

use serde_json::json;

use crate::common::Berth;

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
