//! What an intruder would find in the server's process.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::Berth;

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
