//! Containers beside a user's own: `docker.execution.sidecars`.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Berth, DEADLINE, docker};

/// A server whose users have these sidecars.
fn with(sidecars: Value) -> Berth {
    Berth::with(|config| config["docker"]["execution"]["sidecars"] = sidecars)
}

/// A sidecar in busybox, with this as its command.
fn sidecar(name: &str, command: &str) -> Value {
    json!({"name": name, "container": {"image": "berth-test/busybox", "cmd": ["sh", "-c", command]}})
}

/// So many containers has a connection with so many sidecars: the user's own, and the network's.
const MORE: usize = 2;

#[test]
fn sidecars_start_first_and_in_order_and_share_network_and_volumes() {
    let mut first = sidecar("first", "echo one >/shared/order; exit 0");
    first["readiness"] = "completed".into();
    first["container"]["volumes"] = json!({"/shared": {}});
    let mut second =
        sidecar("second", "cat /shared/order >/shared/more; echo two >>/shared/more; nc -ll -p 8080 -e echo hello");
    second["host"] = json!({"volumesFrom": ["first"]});
    second["container"]["healthcheck"] =
        json!({"test": ["CMD-SHELL", "netstat -lnt | grep -q :8080"], "interval": "200ms", "timeout": "5s"});
    second["readiness"] = "healthy".into();
    let berth = Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["sidecars"] = json!([first, second]);
        execution["host"]["volumesFrom"] = json!(["second:ro"]);
        execution["container"]["hostname"] = "guest".into();
    });
    let command = "hostname; cat /shared/more; nc 127.0.0.1 8080 </dev/null; touch /shared/x 2>&1; echo in; cat";
    let mut session = berth.exec(command).stdin(Stdio::piped()).spawn();
    session.stdout.line("in");
    assert_eq!(berth.containers().len(), 2 + MORE);
    session.write(b"end\n");
    let text = session.wait().succeeds().text();
    assert!(text.starts_with("guest\none\ntwo\nhello\n") && text.contains("Read-only"), "{text}");
    berth.has_containers(0, DEADLINE);
}

#[test]
fn a_sidecar_that_does_not_get_ready_is_told_and_nothing_is_left() {
    let mut failing = sidecar("failing", "exit 3");
    failing["readiness"] = "completed".into();
    let mut slow = sidecar("slow", "sleep 1000");
    slow["readiness"] = "completed".into();
    slow["timeout"] = "300ms".into();
    let mut unchecked = sidecar("unchecked", "sleep 1000");
    unchecked["readiness"] = "healthy".into();
    let mut missing = sidecar("missing", "");
    missing["container"]["image"] = "berth-test/no-such-image".into();
    for (last, reason) in [
        (failing, "it has ended with status 3"),
        (slow, "it was not ready within 0.3 s"),
        (unchecked, "it has no health check"),
        (missing, "berth-test/no-such-image not found"),
    ] {
        let berth = with(json!([sidecar("good", "sleep 1000"), last]));
        let ran = berth.exec("true").run().exits(255);
        assert!(ran.stderr.contains("berth: "), "{ran:?}");
        berth.log().line(reason);
        berth.has_containers(0, DEADLINE);
    }
}

#[test]
fn sidecars_go_with_their_container_whoever_ends_it() {
    let mut berth = with(json!([sidecar("one", "sleep 1000"), sidecar("two", "sleep 1000")]));
    let hold = |berth: &Berth| {
        let session = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
        session.stdout.line("in");
        assert_eq!(berth.containers().len(), 2 + MORE);
        session
    };
    hold(&berth).signal(Signal::KILL);
    berth.has_containers(0, DEADLINE);
    let session = hold(&berth);
    let own = docker(&["ps", "--quiet", "--filter", &format!("label=berth.instance={}", berth.instance), "--latest"]);
    berth.kill_container(&own);
    session.wait().exits(255);
    berth.has_containers(0, DEADLINE);
    let session = hold(&berth);
    berth.end(Signal::KILL);
    session.wait().exits(255);
    berth.restart();
    berth.has_containers(0, DEADLINE);
}

#[test]
fn each_session_has_its_own_sidecars_where_it_has_a_container() {
    let berth = Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["mode"] = "session".into();
        execution["sidecars"] = json!([sidecar("one", "sleep 1000")]);
    });
    let master = berth.master();
    let sessions = [(); 2].map(|()| master.exec("echo in; cat").stdin(Stdio::piped()).spawn());
    sessions.iter().for_each(|session| drop(session.stdout.line("in")));
    assert_eq!(berth.containers().len(), 2 * (1 + MORE));
    let [first, second] = sessions;
    first.wait().succeeds();
    berth.has_containers(1 + MORE, DEADLINE);
    second.wait().succeeds();
    berth.has_containers(0, DEADLINE);
}
