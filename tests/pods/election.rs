//! Servers of one instance in one namespace: one serves.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::cluster::{NAMESPACE, api};
use crate::common::{Berth, Client, DEADLINE, Running, eventually};
use crate::{SOON, session};

/// What a server logs where another one may have been killed.
const WAITS: &str = "its lease ends in 15 s if it was killed";

/// Another server of an instance, with a run directory of its own.
fn second(first: &Berth) -> Berth {
    Berth::with(|config| config["instance"] = first.instance.as_str().into())
}

/// One of which it is not known whether it will serve.
fn try_second(first: &Berth) -> Running {
    let config = std::fs::read_to_string(first.path("config.yaml")).unwrap();
    let other = config.replace("\"runDirectory\": \"run\"", "\"runDirectory\": \"other\"");
    assert_ne!(config, other);
    std::fs::write(first.path("other.yaml"), other).unwrap();
    Client::new(env!("CARGO_BIN_EXE_berth")).args(["serve", "--config"]).arg(first.path("other.yaml")).spawn()
}

/// The instance's leases.
fn leases(instance: &str) -> Vec<Value> {
    let selector = format!("labelSelector=berth.instance%3D{instance}");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases?{selector}");
    api("GET", &path, None)["items"].as_array().unwrap().clone()
}

#[test]
fn a_second_server_of_an_instance_refuses_to_start_and_leaves_the_firsts_pods_alone() {
    let first = Berth::start();
    let mut kept = session(&first);
    let pods = first.containers();
    let second = try_second(&first);
    second.stderr.line(WAITS);
    let ran = second.wait().exits(1);
    let ran = ran.says(&format!("another berth serves as instance \"{0}\" (lease berth-{0}, held by ", first.instance));
    assert!(!ran.stderr.contains("listening on"), "{ran:?}");
    assert_eq!(first.containers(), pods);
    kept.write(b"still here\n");
    kept.stdout.line("still here");
    kept.wait().succeeds();
}

#[test]
fn another_server_takes_the_place_of_one_that_was_killed_and_removes_what_it_has_left() {
    let mut first = Berth::start();
    let lost = session(&first);
    first.end(Signal::KILL);
    lost.wait().exits(255);
    assert_eq!(first.containers().len(), 1);
    let second = second(&first);
    second.log().line(WAITS);
    second.has_containers(0, SOON);
    second.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_server_that_was_killed_has_its_lease_again_at_once_and_gives_it_up_when_it_ends() {
    let mut berth = Berth::start();
    let holder = leases(&berth.instance)[0]["spec"]["holderIdentity"].clone();
    berth.end(Signal::KILL);
    berth.restart();
    assert!(!berth.log().text().contains(WAITS), "{}", berth.log().text());
    assert_eq!(leases(&berth.instance)[0]["spec"]["holderIdentity"], holder);
    berth.end(Signal::TERM).succeeds();
    assert_eq!(leases(&berth.instance), [Value::Null; 0]);
    let second = second(&berth);
    assert!(!second.log().text().contains(WAITS), "{}", second.log().text());
}

#[test]
fn a_server_that_has_lost_its_lease_makes_and_removes_no_pods_until_it_has_it_again() {
    let first = Berth::start();
    let signal = |signal| kill_process(Pid::from_raw(first.id().try_into().unwrap()).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    let mut second = second(&first);
    let kept = session(&second);
    signal(Signal::CONT);
    first.log().line("has come to serve as instance");
    first.exec("true").run().exits(255).says("berth: the container service is misconfigured\n");
    // The reaper looks again.
    first.reload(|_| ());
    assert_eq!(second.containers().len(), 1);
    kept.wait().succeeds();
    second.end(Signal::TERM).succeeds();
    eventually("the lease", DEADLINE, || first.log().text().matches("this berth serves as instance").count() == 2);
    first.exec("echo in").run().succeeds().prints("in\n");
}
