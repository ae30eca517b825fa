//! Images and the daemon: pulls, and what a user hears when there is no container to be had.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clients::dbclient;
use crate::common::{Berth, Client, PASSWORD, Registry, Terminal, daemon, directory_of, docker, eventually, free_port};
use crate::libssh2;

/// What "at once" is.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A session that gets no container says one line, and ends at once.
#[track_caller]
fn fails_at_once(berth: &Berth, line: &str) {
    let began = Instant::now();
    let ran = berth.exec("echo in").run().exits(255).prints("");
    assert!(began.elapsed() < AT_ONCE, "after {:?}", began.elapsed());
    assert_eq!(ran.stderr.lines().last(), Some(format!("berth: {line}").as_str()), "{ran:?}");
}

fn with_image(image: &str, policy: &str) -> Berth {
    Berth::with(|config| set_image(config, image, policy))
}

fn set_image(config: &mut Value, image: &str, policy: &str) {
    config["docker"]["execution"]["container"]["image"] = image.into();
    config["docker"]["execution"]["imagePullPolicy"] = policy.into();
    // A daemon that is busy with other tests may be silent for some time.
    config["docker"]["timeouts"]["http"] = "60s".into();
}

#[test]
fn a_daemon_that_is_down_is_told_at_once_and_may_come_later() {
    let berth = Berth::with(|config| {
        let socket = format!("unix://{}", directory_of(config).join("docker.sock").display());
        config["docker"]["connection"] = json!({"host": socket});
    });
    berth.log().line("is unavailable");
    fails_at_once(&berth, "the container service is unavailable");
    let sftp = berth.openssh("sftp").args(["berth"]).run().exits(255);
    sftp.says("berth: the container service is unavailable");
    let terminal = berth.ssh(["-tt", "berth"]).run().exits(255);
    assert!(terminal.stderr.contains("berth: the container service is unavailable\r\n"), "{terminal:?}");
    let listen = format!("UNIX-LISTEN:{},fork", berth.path("docker.sock").display());
    let _daemon = Client::new("socat").args([&listen, &daemon()]).spawn();
    eventually("a daemon", AT_ONCE, || berth.path("docker.sock").exists());
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    let berth = Berth::with(|config| {
        let socket = directory_of(config).join("docker.sock");
        config["docker"]["connection"] = json!({"host": format!("unix://{}", socket.display())});
        config["docker"]["timeouts"] = json!({"http": "2s"});
    });
    let listen = format!("UNIX-LISTEN:{},fork", berth.path("docker.sock").display());
    let _daemon = Client::new("socat").args([&listen, "EXEC:sleep 100"]).spawn();
    eventually("a daemon", AT_ONCE, || berth.path("docker.sock").exists());
    fails_at_once(&berth, "the container service does not answer");
}

#[test]
fn a_missing_image_is_told_at_once() {
    let berth = with_image("berth-test/no-such-image", "Never");
    fails_at_once(&berth, "image berth-test/no-such-image not found");
    berth.log().line("pull it or set imagePullPolicy");
}

#[test]
fn all_sessions_of_a_connection_are_told() {
    let berth = with_image("berth-test/no-such-image", "Never");
    let master = berth.master();
    for _ in 0..3 {
        master.exec("echo in").run().exits(255).prints("").says("image berth-test/no-such-image not found");
    }
}

#[test]
fn a_registry_that_is_down_is_told_at_once() {
    let image = format!("127.0.0.1:{}/guest", free_port());
    fails_at_once(&with_image(&image, "IfNotPresent"), &format!("image {image} cannot be pulled"));
}

#[test]
fn an_image_that_its_registry_has_not_is_told_at_once() {
    let registry = Registry::start();
    let image = registry.image("no-such-image");
    fails_at_once(&with_image(&image, "IfNotPresent"), &format!("image {image} not found"));
}

#[test]
fn a_container_that_cannot_start_is_told_at_once() {
    let berth = Berth::with(|config| config["docker"]["execution"]["container"]["user"] = "no-such-user".into());
    fails_at_once(&berth, "the container cannot be started");
    berth.log().line("no-such-user");
    berth.has_containers(0, AT_ONCE);
}

#[test]
fn a_missing_image_is_pulled_while_the_user_is_told() {
    let registry = Registry::start();
    let image = registry.push("guest", "one");
    docker(&["rmi", &image]);
    let berth = with_image(&image, "IfNotPresent");
    let ran = berth.ssh(["-tt", "berth", "cat /version"]).run().succeeds().prints("one\r\n");
    assert!(ran.stderr.starts_with(&format!("berth: Pulling {image}\r\n")), "{ran:?}");
    // It is there now.
    let ran = berth.ssh(["-tt", "berth", "cat /version"]).run().succeeds().prints("one\r\n");
    assert!(!ran.stderr.contains("Pulling"), "{ran:?}");
}

#[test]
fn a_command_without_a_terminal_hears_of_a_pull_only_what_is_really_fetched() {
    let registry = Registry::start();
    let image = registry.push("guest", "one");
    let berth = with_image(&image, "Always");
    let command = "cat /version; cat";
    // Its newest version is there already.
    let ran = berth.exec(command).input("and input\n").run().succeeds().prints("one\nand input\n");
    assert_eq!(ran.stderr, "");
    let ran = berth.ssh(["-tt", "berth", "cat /version"]).run().succeeds();
    assert!(ran.stderr.starts_with(&format!("berth: Pulling {image}\r\n")), "{ran:?}");
    docker(&["rmi", &image]);
    let ran = berth.exec(command).input("and input\n").run().succeeds().prints("one\nand input\n");
    // That takes no second, unless much else goes on.
    let is_progress = |line: &str| line.starts_with(&format!("berth: Pulling {image}: "));
    assert!(ran.stderr.lines().all(is_progress), "{ran:?}");
}

#[test]
fn an_image_is_pulled_as_often_as_the_policy_says() {
    let registry = Registry::start();
    let image = registry.push("guest", "one");
    docker(&["rmi", &image]);
    let (seldom, always) = (with_image(&image, "IfNotPresent"), with_image(&image, "Always"));
    seldom.exec("cat /version").run().succeeds().prints("one\n");
    registry.push("guest", "two");
    // The daemon has got the old one again, under the name of the new one.
    docker(&["rmi", &image]);
    docker(&["tag", &registry.local("one"), &image]);
    seldom.exec("cat /version").run().succeeds().prints("one\n");
    always.exec("cat /version").run().succeeds().prints("two\n");
}

#[test]
fn a_client_that_leaves_during_a_pull_leaves_nothing() {
    let registry = Registry::start();
    let image = registry.push("guest", "one");
    docker(&["rmi", &image]);
    let berth = with_image(&image, "IfNotPresent");
    let running = berth.ssh(["-tt", "berth", "true"]).spawn();
    running.stderr.line("Pulling");
    running.signal(Signal::KILL);
    berth.log().line(": done");
    berth.has_containers(0, AT_ONCE);
}

#[test]
fn no_client_takes_a_session_that_the_server_ends_during_a_pull_for_success() {
    let registry = Registry::start();
    let image = registry.push("guest", "one");
    docker(&["rmi", &image]);
    let mut berth = with_image(&image, "IfNotPresent");
    let mut terminal = Terminal::open(&dbclient(&berth, &["-t"]).arg("sleep 1000"), 24, 80, "");
    terminal.shows("Pulling");
    berth.end(Signal::TERM).succeeds();
    terminal.wait().exits(255);
}

#[test]
fn a_registrys_password_is_the_configurations() {
    let registry = Registry::with_password();
    let image = registry.push("secret", "1");
    docker(&["rmi", &image]);
    let with_auth = |auth: Value| {
        let berth = Berth::with(|config| {
            set_image(config, &image, "Always");
            config["docker"]["execution"]["auth"] = auth;
        });
        (berth.exec("cat /version").run(), berth.log().text())
    };
    let (right, log) = with_auth(json!({"username": "berth", "password": PASSWORD}));
    right.succeeds().prints("1\n");
    assert!(!log.contains(PASSWORD));
    with_auth(json!({"username": "berth", "password": "wrong"})).0.exits(255).prints("");
    with_auth(json!(null)).0.exits(255).prints("");
}

#[test]
fn a_copy_by_libssh2_to_a_container_that_is_not_to_be_had_ends() {
    let berth = with_image("berth-test/none", "Never");
    let session = libssh2::connect(&berth);
    session.userauth_password("alice", PASSWORD).unwrap();
    // It takes a closed channel for one that may get a window yet.
    let mut copy = session.scp_send(Path::new("/tmp/x"), 0o640, 100_000, None).unwrap();
    copy.write_all(&[b'x'; 100_000]).unwrap();
    copy.wait_close().unwrap();
    assert_eq!(copy.exit_status().unwrap(), 255);
}
