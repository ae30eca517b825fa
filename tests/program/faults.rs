//! Calls that fail, and calls that hang, between the server and the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::common::{Berth, DEADLINE, Fate, Interposer, directory_of, eventually};

/// A server whose calls are judged, with a changed configuration.
fn judged(judge: impl Fn(&str) -> Fate + Send + Sync + 'static, change: impl Fn(&mut Value)) -> (Berth, Interposer) {
    let mut interposer = None;
    let berth = Berth::with(|config| {
        let socket = directory_of(config).join("docker.sock");
        config["docker"]["connection"] = json!({"host": format!("unix://{}", socket.display())});
        interposer = Some(Interposer::listen(&socket, judge));
        change(config);
    });
    (berth, interposer.unwrap())
}

#[test]
fn an_exit_status_that_cannot_be_had_at_once_is_asked_for_again() {
    let failures = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failures);
    let judge = move |call: &str| {
        let looks = call.starts_with("GET ") && call.contains("/exec/") && call.contains("/json ");
        if looks && count.fetch_add(1, Ordering::Relaxed) < 3 { Fate::Cut } else { Fate::Pass }
    };
    let (berth, _interposer) = judged(judge, |config| config["docker"]["execution"]["disableAgent"] = true.into());
    let ran = berth.exec("echo out; exit 7").run().exits(7).prints("out\n");
    assert_eq!(ran.stderr, "");
    assert!(failures.load(Ordering::Relaxed) > 3);
}

#[test]
fn a_start_that_hangs_is_told_when_its_time_is_over_however_long_the_removal_takes() {
    // Not what brings the agent, which is for the servers of all tests.
    let judge = |call: &str| {
        let starts = call.starts_with("POST ") && call.contains("/start ");
        let is_own = call.contains("/containers/berth-") && !call.contains("/containers/berth-agent-");
        if is_own && (starts || call.starts_with("DELETE ")) { Fate::Hold } else { Fate::Pass }
    };
    for without_agent in [false, true] {
        let (mut berth, interposer) = judged(judge, |config| {
            config["docker"]["execution"]["disableAgent"] = without_agent.into();
            config["docker"]["timeouts"] = json!({"containerStart": "6s", "containerStop": "300s", "http": "60s"});
        });
        let master = berth.master();
        master.exec("true").run().exits(255).says("berth: the container ");
        eventually("a removal", DEADLINE, || interposer.held() > 0);
        assert_eq!(berth.containers().len(), 1);
        // Nor does it keep the connection.
        master.exec("true").run().exits(255).says("berth: the container ");
        // The server's end waits for the removals.
        interposer.release();
        drop(master);
        berth.end(rustix::process::Signal::TERM).succeeds();
        berth.has_containers(0, DEADLINE);
    }
}
