//! Podman in Docker's place, with root and without.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Berth, Client, DEADLINE, Podman, Terminal, eventually};

/// What everything else is built upon.
fn serves(podman: &Podman, start: impl Fn(&dyn Fn(&mut Value)) -> Berth) {
    let connect = |transport: &str| {
        let connection = json!({"host": format!("unix://{}", podman.socket().display()), "agentTransport": transport});
        start(&move |config: &mut Value| {
            config["docker"]["connection"] = connection.clone();
            // Its storage copies whole files, which takes its time on a busy machine.
            config["docker"]["timeouts"]["http"] = "60s".into();
        })
    };
    for transport in ["auto", "attach"] {
        let berth = connect(transport);
        let ran = berth.exec("cat; echo mistake >&2; exit 41").input("hello").run().exits(41).prints("hello");
        assert_eq!(ran.stderr, "mistake\n");
        let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", "stty size; read word; exit $word"]), 24, 80, "");
        terminal.shows("24 80\r\n");
        terminal.type_in("6\n");
        terminal.wait().exits(6);
        let (file, back) = (berth.path("file"), berth.path("back"));
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        fs::write(&file, &bytes).unwrap();
        let master = berth.master();
        master.client("scp").arg(&file).arg("berth:/tmp/there").run().succeeds();
        master.client("scp").arg("berth:/tmp/there").arg(&back).run().succeeds();
        assert!(fs::read(&back).unwrap() == bytes);
        drop(master);
        let killed = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
        killed.stdout.line("in");
        assert_eq!(podman.containers().lines().count(), 1);
        killed.signal(Signal::KILL);
        eventually("all containers are gone", DEADLINE, || podman.containers().is_empty());
    }
}

#[test]
fn podman_serves_in_dockers_place() {
    if rustix::process::getuid().is_root() {
        serves(&Podman::start(false), |change| Berth::with(change));
    }
}

#[test]
fn podman_without_root_does_so_too() {
    fn serve(directory: &std::path::Path) -> Client {
        let binary = directory.join("berth");
        fs::copy(env!("CARGO_BIN_EXE_berth"), &binary).unwrap();
        let serve = [binary.as_os_str(), "serve".as_ref(), "--config".as_ref()];
        let client = match rustix::process::getuid().is_root() {
            true => {
                Client::new("chown").args(["-R", "nobody:nogroup"]).arg(directory).run().succeeds();
                Client::new("setpriv").args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            }
            false => Client::new("env"),
        };
        client.args(serve).arg(directory.join("config.yaml"))
    }
    serves(&Podman::start(true), |change| Berth::by(serve, change));
}

/// A server over Podman with root, with a changed configuration.
fn berth(podman: &Podman, change: impl Fn(&mut Value)) -> Berth {
    Berth::with(|config| {
        config["docker"]["connection"] = json!({"host": format!("unix://{}", podman.socket().display())});
        change(config);
    })
}

#[test]
fn podman_serves_containers_without_an_agent() {
    if rustix::process::getuid().is_root() {
        let podman = Podman::start(false);
        let berth = berth(&podman, |config| config["docker"]["execution"]["disableAgent"] = true.into());
        let ran = berth.exec("cat; echo mistake >&2; exit 41").input("hello").run().exits(41).prints("hello");
        assert_eq!(ran.stderr, "mistake\n");
        // Podman sets it once the program runs.
        let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", "stty size"]), 31, 97, "");
        terminal.shows("31 97\r\n");
        terminal.wait().succeeds();
        eventually("all containers are gone", DEADLINE, || podman.containers().is_empty());
    }
}

#[test]
fn a_killed_server_leaves_nothing_in_podman() {
    if rustix::process::getuid().is_root() {
        let podman = Podman::start(false);
        let mut berth = berth(&podman, |_| ());
        let session = berth.exec("echo in; cat").stdin(Stdio::piped()).spawn();
        session.stdout.line("in");
        berth.end(Signal::KILL);
        eventually("all containers are gone", DEADLINE, || podman.containers().is_empty());
        session.wait().exits(255);
    }
}

#[test]
fn what_podman_cannot_start_is_told_in_one_line() {
    if rustix::process::getuid().is_root() {
        let podman = Podman::start(false);
        let set = |key: &'static str, value: &'static str| {
            berth(&podman, |config| config["docker"]["execution"]["container"][key] = value.into())
        };
        let missing = set("image", "berth-test/no-such");
        missing.exec("true").run().exits(255).says("berth: image berth-test/no-such not found");
        let user = set("user", "no-such-user");
        user.exec("true").run().exits(255).says("berth: the container cannot be started");
        user.log().line("no-such-user");
        assert_eq!(podman.containers(), "");
    }
}
