//! What shares a container: `docker.execution.mode`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Berth, DEADLINE, Running, eventually};

/// What is promised of a container whose session has ended.
const SOON: Duration = Duration::from_secs(10);

fn a_container_per_session(config: &mut Value) {
    config["docker"]["execution"]["mode"] = "session".into();
}

/// A session that runs until its input ends.
fn held(client: crate::common::Client) -> Running {
    let session = client.stdin(Stdio::piped()).spawn();
    session.stdout.line("in");
    session
}

const HOLD: &str = "hostname >/tmp/name; echo in; cat; exit 7";

#[test]
fn each_session_of_a_connection_may_have_a_container_of_its_own_until_it_ends() {
    let berth = Berth::with(a_container_per_session);
    let master = berth.master();
    let sessions = [held(master.exec(HOLD)), held(master.exec(HOLD)), held(master.exec(HOLD))];
    assert_eq!(berth.containers().len(), 3);
    master.exec("ls /tmp").run().succeeds().prints("");
    let [first, second, third] = sessions;
    second.wait().exits(7);
    berth.has_containers(2, SOON);
    first.wait().exits(7);
    third.wait().exits(7);
    berth.has_containers(0, SOON);
    master.exec("echo again").run().succeeds().prints("again\n");
}

#[test]
fn a_session_whose_container_is_killed_ends_and_the_others_go_on() {
    let berth = Berth::with(a_container_per_session);
    let master = berth.master();
    // Not one that ends with its input.
    let doomed = held(master.exec("echo in; sleep 1000"));
    let [container] = &berth.containers()[..] else { panic!("one container") };
    let container = container.clone();
    let other = held(master.exec(HOLD));
    berth.kill_container(&container);
    let ran = doomed.wait().says("berth: the container ");
    assert_ne!(ran.code, Some(0), "{ran:?}");
    other.wait().exits(7);
    master.exec("echo again").run().succeeds().prints("again\n");
}

#[test]
fn a_port_is_forwarded_from_the_container_of_the_first_session() {
    let berth = Berth::with(a_container_per_session);
    let master = berth.master();
    let ask = |arguments: &[&str]| {
        master.client("ssh").arg("-O").args(arguments).args(["-R", "8080:localhost:1", "berth"]).run().succeeds()
    };
    ask(&["forward"]);
    assert_eq!(berth.containers().len(), 1);
    let listens = "netstat -lnt | grep -q :8080 && echo listens";
    // Somebody must be in it while the next one comes.
    let first = held(master.exec(&format!("{listens}; echo in; cat")));
    assert!(first.stdout.text().contains("listens\n"), "{}", first.stdout.text());
    master.exec(listens).run().exits(1).prints("");
    first.wait().succeeds();
    // It goes once nothing is forwarded from it any more.
    berth.has_containers(1, SOON);
    ask(&["cancel"]);
    berth.has_containers(0, SOON);
}

#[test]
fn a_connection_has_so_many_sessions_at_once() {
    let berth = Berth::with(|config| config["security"]["maxSessions"] = 2.into());
    let master = berth.master();
    let sessions = [held(master.exec(HOLD)), held(master.exec(HOLD))];
    let refused = master.exec("echo third").run();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    berth.log().line("security.maxSessions (2)");
    for session in sessions {
        session.wait().exits(7);
    }
    eventually("there is room again", DEADLINE, || master.exec("echo third").run().code == Some(0));
}
