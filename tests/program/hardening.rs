//! What an intruder would find: the server's process, and its algorithms.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::common::{Berth, Client, libraries};

#[test]
fn the_server_gains_no_privileges_and_writes_no_core() {
    let berth = Berth::start();
    let process = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", berth.id())).unwrap();
    let (status, limits) = (process("status"), process("limits"));
    assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    let core: Vec<_> = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split(' ').collect();
    assert_eq!(core.iter().filter(|word| **word == "0").count(), 2, "{limits}");
}

#[test]
fn the_servers_memory_is_not_its_users_to_read() {
    let berth = Berth::by_another_user();
    let owner = |file: &str| fs::metadata(format!("/proc/{}/{file}", berth.id())).unwrap().uid();
    assert_ne!(fs::metadata(berth.path("config.yaml")).unwrap().uid(), 0, "berth's user is not root");
    // The kernel gives a process that is not dumpable to root: its memory, environment and descriptors.
    assert_eq!(["mem", "environ", "fd"].map(owner), [0; 3]);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn what_runs_in_containers_may_gain_privileges() {
    let berth = Berth::start();
    berth.exec("grep NoNewPrivs /proc/self/status").run().succeeds().prints("NoNewPrivs:\t0\n");
}

/// What ssh-audit says against the defaults of OpenSSH 10's server, by kind. These algorithms stay for clients that know
/// no others; what it says of their kin says no more.
const SSHDS: [(&str, &str); 5] = [
    ("kex", "does not provide protection against post-quantum attacks"),
    ("kex", "using elliptic curves that are suspected as being backdoored by the U.S. National Security Agency"),
    ("key", "using elliptic curves that are suspected as being backdoored by the U.S. National Security Agency"),
    ("key", "using weak random number generator could reveal the key"),
    ("mac", "using encrypt-and-MAC mode"),
];

#[test]
fn ssh_audit_says_nothing_that_it_does_not_say_of_sshd() {
    let berth = Berth::with(|config| config["ssh"]["hostkeys"] = json!(["host_key", "host_key_ecdsa", "host_key_rsa"]));
    let audit = Client::new(libraries().join("python/bin/ssh-audit"));
    let report = audit.args(["--skip-rate-test", "--json", "--port", &berth.port.to_string(), "127.0.0.1"]).run();
    let report: Value = serde_json::from_str(&report.text()).unwrap();
    let mut said = BTreeSet::new();
    for kind in ["kex", "key", "enc", "mac"] {
        let algorithms = report[kind].as_array().unwrap();
        assert!(!algorithms.is_empty(), "{report:#}");
        for algorithm in algorithms {
            let notes =
                ["fail", "warn"].iter().filter_map(|severity| algorithm["notes"][severity].as_array()).flatten();
            said.extend(notes.map(|note| (kind, note.as_str().unwrap(), algorithm["algorithm"].as_str().unwrap())));
        }
    }
    said.retain(|(kind, note, _)| !SSHDS.contains(&(kind, note)));
    assert!(said.is_empty(), "{said:#?}");
    assert_eq!(report["cves"], json!([]), "{report:#}");
}
