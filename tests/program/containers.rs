//! The life of containers, and that none is left whatever happens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Berth, Client, DEADLINE, Running, docker, eventually};

/// What is promised of a container whose client is gone.
const SOON: Duration = Duration::from_secs(5);

/// Held alone by the test that keeps the daemon busy, and by those together that promise [`SOON`].
static LOAD: RwLock<()> = RwLock::new(());

fn without_load() -> RwLockReadGuard<'static, ()> {
    LOAD.read().unwrap_or_else(PoisonError::into_inner)
}

/// A session that runs until its input ends.
fn session(berth: &Berth) -> Running {
    let session = berth.exec("echo in; cat").stdin(Stdio::piped()).within(Duration::from_secs(180)).spawn();
    session.stdout.line("in");
    session
}

#[test]
fn every_connection_has_a_container_of_its_own_until_it_ends() {
    let _quiet = without_load();
    let berth = Berth::start();
    let sessions = [session(&berth), session(&berth)];
    assert_eq!(berth.containers().len(), 2);
    let name = |berth: &Berth| berth.exec("hostname").run().succeeds().text();
    assert_ne!(name(&berth), name(&berth));
    for session in sessions {
        session.wait().succeeds();
    }
    berth.has_containers(0, SOON);
}

/// A container that berth would have made for a connection, stopped.
fn stray(instance: &str) -> String {
    let label = format!("berth.instance={instance}");
    docker(&["create", "--label", &label, "berth-test/busybox", "true"])
}

#[test]
fn what_comes_into_being_late_for_a_server_that_was_killed_goes_soon() {
    let berth = Berth::with(|config| drop(stray(config["instance"].as_str().unwrap())));
    berth.log().line("removed 1 containers that no connection owned");
    stray(&berth.instance);
    berth.has_containers(0, Duration::from_secs(55));
}

#[test]
fn two_servers_of_one_instance_leave_each_other_what_they_have_and_say_so() {
    let first = Berth::start();
    let mut kept = session(&first);
    let mut second = Berth::with(|config| config["instance"] = first.instance.as_str().into());
    second.log().line("another berth serves as instance");
    let other = session(&second);
    kept.write(b"still here\n");
    kept.stdout.line("still here");
    other.wait().succeeds();
    // One that was killed is found again by the next one with its run directory, which takes what it has left.
    let other = session(&second);
    second.end(Signal::KILL);
    other.wait().exits(255);
    second.restart();
    eventually("the other's container is left", DEADLINE, || second.containers().len() == 1);
    kept.write(b"still here, too\n");
    kept.stdout.line("still here, too");
    kept.wait().succeeds();
    drop(first);
    drop(second);
}

#[test]
fn what_the_daemon_warns_of_is_in_the_log_once() {
    // Docker's own warning; Podman has none.
    if std::env::var_os("DOCKER_HOST").is_some() {
        return;
    }
    let berth = Berth::with(|config| config["docker"]["execution"]["host"]["oomKillDisable"] = true.into());
    berth.exec("true").run().succeeds();
    berth.exec("true").run().succeeds();
    assert_eq!(berth.log().text().matches("docker: the daemon, of a new container: ").count(), 1);
}

#[test]
fn a_connection_without_a_session_has_no_container() {
    let berth = Berth::start();
    let _master = berth.master();
    berth.log().line("accepted ");
    assert_eq!(berth.containers().len(), 0);
}

#[test]
fn containers_are_labelled_with_instance_connection_user_and_client() {
    let berth = Berth::start();
    let session = session(&berth);
    let format = r#"{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}"#;
    let labels = docker(&["inspect", "--format", format, &berth.containers()[0]]);
    assert!(labels.contains(&format!("berth.instance={} ", berth.instance)), "{labels}");
    assert!(labels.contains("berth.user=alice"), "{labels}");
    assert!(labels.contains("berth.client=127.0.0.1:"), "{labels}");
    let line = berth.log().line("accepted ");
    let connection = line.split_whitespace().nth(2).unwrap().trim_end_matches(':');
    assert!(labels.contains(&format!("berth.connection={connection} ")), "{labels}");
    // And as ContainerSSH labels them.
    for (name, value) in [("connection_id", connection), ("ip", "127.0.0.1"), ("username", "alice")] {
        assert!(labels.contains(&format!("containerssh_{name}={value}")), "{labels}");
    }
    session.wait().succeeds();
}

#[test]
fn the_containers_settings_are_dockers_own() {
    let berth = Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["container"]["hostname"] = "guest".into();
        execution["host"]["tmpfs"] = serde_json::json!({"/scratch": "size=1m"});
        execution["host"]["pidsLimit"] = 100.into();
    });
    berth.exec("hostname; stat -f -c %b /scratch").run().succeeds().prints("guest\n256\n");
}

#[test]
fn without_an_agent_a_session_with_a_container_of_its_own_is_that_containers_command() {
    let berth = Berth::with(|config| {
        let execution = &mut config["docker"]["execution"];
        execution["disableAgent"] = true.into();
        execution["mode"] = "session".into();
        execution["container"]["cmd"] = ["sh", "-c", "echo default $SSH_CONNECTION; exit 8"].into();
    });
    let ran = berth.ssh(["-T", "berth"]).run().exits(8);
    assert!(ran.text().starts_with("default 127.0.0.1 "), "{ran:?}");
    berth.exec("echo $$").run().succeeds().prints("1\n");
}

#[test]
fn fifty_connections_are_served_at_once() {
    let _alone = LOAD.write().unwrap_or_else(PoisonError::into_inner);
    let berth = Berth::start();
    let start = || berth.exec("echo in; cat").stdin(Stdio::piped()).within(Duration::from_secs(180)).spawn();
    let sessions: Vec<_> = (0..50).map(|_| start()).collect();
    for session in &sessions {
        session.stdout.line("in");
    }
    assert_eq!(berth.containers().len(), 50);
    for (number, mut session) in sessions.into_iter().enumerate() {
        session.write(format!("{number}\n").as_bytes());
        session.wait().succeeds().prints(&format!("in\n{number}\n"));
    }
}

#[test]
fn a_killed_client_leaves_no_container() {
    let _quiet = without_load();
    let berth = Berth::start();
    let session = session(&berth);
    assert_eq!(berth.containers().len(), 1);
    session.signal(Signal::KILL);
    berth.has_containers(0, SOON);
}

#[test]
fn a_client_killed_while_its_container_starts_leaves_none() {
    let _quiet = without_load();
    let berth = Berth::start();
    let starting = berth.exec("true").spawn();
    berth.log().line("accepted ");
    eventually("a container", DEADLINE, || !berth.containers().is_empty());
    starting.signal(Signal::KILL);
    berth.log().line(": done");
    berth.has_containers(0, SOON);
}

#[test]
fn a_running_command_does_not_outlive_its_client() {
    let _quiet = without_load();
    let berth = Berth::start();
    let command = "trap '' HUP TERM PIPE; echo in; sleep 1000; sleep 1000";
    let session = berth.exec(command).spawn();
    session.stdout.line("in");
    session.signal(Signal::TERM);
    berth.has_containers(0, SOON);
}

#[test]
fn a_container_that_is_killed_ends_its_connection() {
    let berth = Berth::start();
    let session = session(&berth);
    berth.kill_container(&berth.containers()[0]);
    session.wait().exits(255).says("the container has ended");
}

#[test]
fn a_container_that_is_stopped_ends_its_sessions_and_says_so() {
    let berth = Berth::start();
    let session = session(&berth);
    // Podman kills at once unless it is told how long to wait.
    docker(&["stop", "-t", "10", &berth.containers()[0]]);
    session.wait().exits(255).says("berth: the container is being stopped\n");
    berth.log().line(": the container is being stopped");
}

#[test]
fn sigterm_ends_the_connections_and_removes_their_containers() {
    let mut berth = Berth::start();
    let sessions = [session(&berth), session(&berth)];
    berth.end(Signal::TERM).succeeds();
    assert_eq!(berth.containers().len(), 0);
    for session in sessions {
        session.wait().exits(255).says("the server is shutting down");
    }
}

#[test]
fn sigint_ends_it_too_while_a_container_starts() {
    let mut berth = Berth::start();
    let starting = berth.exec("sleep 100").spawn();
    berth.log().line("accepted ");
    berth.end(Signal::INT).succeeds();
    assert_eq!(berth.containers().len(), 0);
    starting.wait().exits(255);
}

#[test]
fn a_killed_server_leaves_no_running_container() {
    let _quiet = without_load();
    let mut berth = Berth::start();
    let session = session(&berth);
    berth.end(Signal::KILL);
    berth.has_containers(0, SOON);
    session.wait().exits(255);
}

#[test]
fn the_next_start_removes_what_a_killed_server_left() {
    let mut berth = Berth::start();
    let other = format!("{}-other", berth.instance);
    berth.end(Signal::KILL);
    // What a server leaves that is killed between two calls: created and not started, or running without an agent.
    let create = |verb: &str, instance: &str| {
        let label = format!("berth.instance={instance}");
        let labels = ["--label", &label, "--label", "berth.connection=0123456789abcdef0123456789abcdef"];
        docker(&[&[verb][..], &labels, &["--network", "none", "berth-test/busybox", "sleep", "1000"]].concat())
    };
    create("create", &berth.instance);
    let label = format!("berth.instance={}", berth.instance);
    docker(&["run", "--detach", "--label", &label, "--network", "none", "berth-test/busybox", "sleep", "1000"]);
    let strangers = create("create", &other);
    assert_eq!(berth.containers().len(), 2);
    berth.restart();
    berth.has_containers(0, DEADLINE);
    // Another instance's container is none of its business.
    docker(&["rm", &strangers]);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn nothing_accumulates_in_the_server() {
    let berth = Berth::start();
    let process = format!("/proc/{}", berth.id());
    let count = |of: &str| fs::read_dir(format!("{process}/{of}")).unwrap().count();
    berth.exec("true").run().succeeds();
    berth.has_connections(0);
    let (descriptors, threads) = (count("fd"), count("task"));
    // So many connections to the daemon are kept for the next call.
    const KEPT: usize = 8;
    for _ in 0..KEPT {
        berth.exec("true").run().succeeds();
        berth.openssh_without_key("ssh").args(["berth", "true"]).run().exits(255);
        session(&berth).signal(Signal::KILL);
    }
    berth.has_connections(0);
    eventually("as many descriptors and threads as before", DEADLINE, || {
        count("fd") < descriptors + KEPT && count("task") == threads
    });
    // Without sockets there is no such directory.
    let run = berth.path("run");
    if run.exists() {
        // The server's name stays, for the next time.
        let left =
            Client::new("find").arg(&run).args(["-mindepth", "2", "!", "-name", "server"]).run().succeeds().text();
        assert_eq!(left, "");
    }
}

#[test]
fn any_user_who_may_open_the_docker_socket_may_serve() {
    let _quiet = without_load();
    let berth = Berth::by_another_user();
    let status = fs::read_to_string(format!("/proc/{}/status", berth.id())).unwrap();
    assert!(!status.contains("Uid:\t0\t"), "{status}");
    berth.exec("id -un; cat").input("hello\n").run().succeeds().prints("root\nhello\n");
    let session = session(&berth);
    session.signal(Signal::KILL);
    berth.has_containers(0, SOON);
}

/// Where this machine has what a container is given as the agent.
fn agent_of(container: &str) -> PathBuf {
    let source = r#"{{range .Mounts}}{{if eq .Destination "/.berth/bin"}}{{.Source}}{{end}}{{end}}"#;
    PathBuf::from(docker(&["inspect", "--format", source, container])).join("berth")
}

#[test]
fn an_agent_that_somebody_has_changed_is_noticed_and_replaced() {
    // Of another content than the other tests', and so with a volume of its own.
    let berth = Berth::by(
        |directory| {
            let mut binary = fs::read(env!("CARGO_BIN_EXE_berth")).unwrap();
            binary.extend_from_slice(directory.as_os_str().as_encoded_bytes());
            fs::write(directory.join("berth"), binary).unwrap();
            fs::set_permissions(directory.join("berth"), fs::Permissions::from_mode(0o755)).unwrap();
            Client::new(directory.join("berth")).arg("serve").arg("--config").arg(directory.join("config.yaml"))
        },
        |_| (),
    );
    let session = session(&berth);
    let agent = agent_of(&berth.containers()[0]);
    let content = fs::read(&agent).unwrap();
    assert!(content == fs::read(berth.path("berth")).unwrap());
    let mut changed = content.clone();
    *changed.last_mut().unwrap() ^= 1;
    // In another file, since this one is being executed.
    let new = agent.with_extension("new");
    fs::write(&new, changed).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &agent).unwrap();
    // Else it would be looked at in some minutes.
    berth.reload(|_| ());
    berth.exec("echo in").run().succeeds().prints("in\n");
    berth.log().line("is not this berth's agent");
    assert!(fs::read(&agent).unwrap() == content, "it is replaced");
    session.signal(Signal::KILL);
    let volume = agent.ancestors().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        name.starts_with("berth-agent-").then(|| name.to_owned())
    });
    drop(berth);
    docker(&["volume", "rm", &volume.unwrap()]);
}

#[test]
fn a_container_that_could_write_to_the_agents_volume_has_one_of_its_own() {
    let with = |host: Value| {
        let berth = Berth::with(|config| {
            for (key, value) in host.as_object().unwrap() {
                config["docker"]["execution"]["host"][key] = value.clone();
            }
        });
        let session = session(&berth);
        let agent = agent_of(&berth.containers()[0]);
        (berth, session, agent)
    };
    let shared = |agent: &Path| agent.to_string_lossy().contains("berth-agent-");
    let (_berth, _session, agent) = with(json!({"capAdd": ["NET_ADMIN"]}));
    assert!(shared(&agent));
    let (berth, session, agent) = with(json!({"capAdd": ["SYS_ADMIN"]}));
    assert!(!shared(&agent), "{}", agent.display());
    // Nothing is left of it.
    session.signal(Signal::KILL);
    berth.has_containers(0, DEADLINE);
    eventually("the volume's end", DEADLINE, || !agent.exists());
}

#[test]
fn an_init_of_dockers_own_may_reap() {
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["disableAgent"] = true.into();
        config["docker"]["execution"]["host"]["init"] = true.into();
    });
    let name = berth.exec("cat /proc/1/comm").run().succeeds().text();
    assert!(name.contains("init"), "{name}");
}
