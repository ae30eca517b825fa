//! Daemons that are reached by TCP and TLS, and agents that are reached by attaching: `docker.connection`.
//!
//! `BERTH_TEST_DOCKER=tcp`, `tls` or `attach` lets all the other tests take that way, too.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::common::{Berth, Client, DEADLINE, Relay, Terminal, Way, daemon, directory_of, docker};

/// What is promised of a container whose client is gone.
const SOON: Duration = Duration::from_secs(10);

fn over_tls() -> Berth {
    Berth::over(Way::Tls, |_| ())
}

/// With a relay of the test's own, and this configuration of the way to it.
fn by_relay(relay: &Relay, connection: serde_json::Value) -> Berth {
    let mut connection = connection;
    connection["host"] = format!("tcp://127.0.0.1:{}", relay.port).into();
    Berth::over(Way::Socket, |config| config["docker"]["connection"] = connection)
}

fn all_bytes() -> Vec<u8> {
    (0..=255).cycle().take(3_000_000).collect()
}

#[test]
fn streams_are_separate_and_whole_over_tls_tcp_and_a_socket_to_attach_by() {
    for way in [Way::Tls, Way::Tcp, Way::Attach] {
        let berth = Berth::over(way, |_| ());
        let ran = berth.exec("cat; echo mistake >&2; exit 41").input(all_bytes()).run().exits(41);
        assert!(ran.stdout == all_bytes(), "{way:?}: {} bytes came back", ran.stdout.len());
        assert_eq!(ran.stderr, "mistake\n", "{way:?}");
    }
}

#[test]
fn much_data_flows_both_ways_at_once_over_tls() {
    let berth = over_tls();
    let script = r#"head -c 100000000 /dev/urandom | tee >(sha256sum >&2) | "$@" | sha256sum"#;
    let ran = Client::new("bash").args(["-c", script, "bash"]).args(berth.exec("cat").words()).run().succeeds();
    assert_eq!(ran.text(), ran.stderr);
}

#[test]
fn sessions_share_a_connection_over_tls() {
    let berth = over_tls();
    let master = berth.master();
    let sessions: Vec<_> =
        (0..10).map(|number| master.exec("cat; exit 3").input(format!("{number}\n").repeat(50_000)).spawn()).collect();
    for (number, session) in sessions.into_iter().enumerate() {
        let ran = session.wait().exits(3);
        assert!(ran.text() == format!("{number}\n").repeat(50_000), "session {number}: {} bytes", ran.stdout.len());
    }
    assert_eq!(berth.containers().len(), 1);
}

#[test]
fn a_person_has_a_terminal_over_tls() {
    let berth = over_tls();
    let mut terminal = Terminal::open(&berth.ssh(["berth"]), 24, 80, "");
    terminal.shows("# ");
    terminal.type_in("stty size\n");
    terminal.shows("24 80");
    terminal.type_in("exit 4\n");
    terminal.wait().exits(4);
}

#[test]
fn files_and_ports_come_through_over_tls() {
    let berth = over_tls();
    let (file, back) = (berth.path("file"), berth.path("back"));
    fs::write(&file, all_bytes()).unwrap();
    let batch = format!("put {} f\nget f {}\n", file.display(), back.display());
    berth.openssh("sftp").args(["-b", "-", "berth"]).input(batch).run().succeeds();
    assert!(fs::read(&back).unwrap() == all_bytes());
    let ran = berth.ssh(["-W", "localhost:7999", "berth"]).run().exits(255);
    ran.says("open failed: connect failed");
}

#[test]
fn nothing_is_left_over_tls_by_a_client_or_a_server_that_is_killed() {
    let mut berth = over_tls();
    let session = |berth: &Berth| {
        let session = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
        session.stdout.line("in");
        session
    };
    session(&berth).signal(Signal::KILL);
    berth.has_containers(0, SOON);
    let left = session(&berth);
    berth.end(Signal::KILL);
    berth.has_containers(0, SOON);
    left.wait().exits(255);
}

#[test]
fn a_container_that_cannot_start_is_told_over_tls_too() {
    let berth = Berth::over(Way::Tls, |config| {
        config["docker"]["execution"]["container"]["user"] = "no-such-user".into();
    });
    berth.exec("true").run().exits(255).says("berth: the container cannot be started");
    berth.log().line("no-such-user");
    berth.has_containers(0, SOON);
}

#[test]
fn what_an_agent_complains_of_is_in_the_log() {
    let berth = over_tls();
    // The agent's own standard error. Docker keeps no order between it and what else the agent says.
    let session = berth.exec("echo a complaint >/proc/1/fd/2; cat").stdin(Stdio::piped()).spawn();
    berth.log().line("a complaint");
    session.wait().succeeds();
}

#[test]
fn nothing_that_a_user_does_is_in_dockers_log() {
    let berth = Berth::over(Way::Attach, |config| {
        config["docker"]["execution"]["host"]["logConfig"] = json!({"type": "json-file"});
    });
    let session = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
    session.stdout.line("in");
    let driver = docker(&["inspect", "--format", "{{.HostConfig.LogConfig.Type}}", &berth.containers()[0]]);
    assert_eq!(driver, "none");
    session.wait().succeeds();
}

#[test]
fn a_daemon_that_may_not_be_trusted_is_not_used() {
    let (mine, other) = (over_tls(), over_tls());
    let relay = Relay::tls(&mine.path("daemon"), &daemon());
    let files = |authority: &Berth, client: &Berth| {
        json!({"cacertFile": authority.path("daemon/ca.pem"), "certFile": client.path("daemon/cert.pem"),
            "keyFile": client.path("daemon/key.pem")})
    };
    for (connection, reason) in [
        (files(&other, &mine), "certificate verify failed: self-signed certificate in certificate chain"),
        (json!({"cacertFile": mine.path("daemon/ca.pem")}), "certificate required"),
        (files(&mine, &other), "unknown ca"),
        (json!({"cacertFile": mine.path("daemon/ca.pem"), "serverName": "other"}), "hostname mismatch"),
    ] {
        let berth = by_relay(&relay, connection);
        berth.exec("true").run().exits(255).says("berth: the container service is unavailable");
        berth.log().line(reason);
    }
    let berth = by_relay(&relay, files(&mine, &mine));
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_context_of_dockers_client_leads_to_its_daemon() {
    let relay = Relay::tcp();
    let berth = Berth::by(
        |directory| {
            let berth = Client::new(env!("CARGO_BIN_EXE_berth")).args(["serve", "--config"]);
            // Which comes first.
            let berth = berth.arg(directory.join("config.yaml")).without("DOCKER_HOST");
            berth.env("DOCKER_CONFIG", directory.join("docker")).env("DOCKER_CONTEXT", "far")
        },
        |config| {
            config["docker"]["connection"] = json!({});
            let create = ["context", "create", "far", "--docker", &format!("host=tcp://127.0.0.1:{}", relay.port)];
            let directory = directory_of(config).join("docker");
            Client::new("docker").args(create).env("DOCKER_CONFIG", directory).run().succeeds();
        },
    );
    berth.exec("echo in").run().succeeds().prints("in\n");
    drop(relay);
    berth.exec("echo in").run().exits(255).says("the container service is unavailable");
}

#[test]
fn a_run_directory_that_the_daemon_does_not_see_is_done_without() {
    // In a mount namespace of its own, as in a container.
    let berth = Berth::by(
        |directory| {
            let script = r#"mount -t tmpfs none "$0/run" && exec "$@""#;
            let serve = [env!("CARGO_BIN_EXE_berth"), "serve", "--config"];
            Client::new("unshare")
                .args(["--mount", "sh", "-c", script])
                .arg(directory)
                .args(serve)
                .arg(directory.join("config.yaml"))
        },
        |config| {
            let run = directory_of(config).join("run");
            fs::create_dir(&run).unwrap();
            config["docker"]["connection"] = json!({});
        },
    );
    berth.exec("cat; exit 3").input("hello\n").run().exits(3).prints("hello\n");
    berth.log().line("does not see berth's run directory");
    berth.exec("echo again").run().succeeds().prints("again\n");
}

#[test]
fn a_daemon_that_has_gone_ends_what_it_carried() {
    let relay = Relay::tcp();
    let berth = by_relay(&relay, json!({}));
    let session = berth.exec("echo in; sleep 100").stdin(Stdio::piped()).spawn();
    session.stdout.line("in");
    drop(relay);
    // Ended or lost, as the kernel tells it.
    session.wait().exits(255).says("the container ");
    // Attached to nobody, the agent has ended, and its container with it.
    berth.has_containers(0, DEADLINE);
}
