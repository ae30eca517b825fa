//! What clients may have forwarded, and what they are told.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use berth::config::Forwarding;

use crate::harness::{Killed, Server, listener, text, until};
use crate::port::free_port;

#[test]
fn why_a_connection_is_not_made_is_told() {
    let server = Server::start();
    let port = free_port();
    for (user, target, reason) in [
        ("alice", format!("127.0.0.1:{port}"), "connect failed: Connection refused"),
        ("alice", format!("{}:80", "x".repeat(300)), "connect failed: Name or service not known"),
        ("nowhere", "127.0.0.1:80".into(), "connect failed: no container today"),
        ("no-forwarding", "127.0.0.1:80".into(), "administratively prohibited: open failed"),
        ("only-localhost", "127.0.0.1:80".into(), "administratively prohibited: open failed"),
    ] {
        let (_, _, stderr) = server.run(user, &["-W", &target, "localhost"]);
        assert!(stderr.contains(reason), "{stderr}");
    }
}

#[test]
fn any_number_of_connections_waits_for_the_container() {
    const COUNT: usize = 100;
    let server = Server::start();
    let ((target, port), local, log) = (listener(), free_port(), server.directory.join("log"));
    let forward = format!("{local}:localhost:{port}");
    let options = ["-v", "-E", text(&log), "-N", "-L", &forward, "localhost"];
    let _ssh = Killed(server.ssh("late", &options).spawn().unwrap());
    until("ssh listens", || TcpStream::connect(("127.0.0.1", local)).is_ok());
    // With the one that has found out.
    let connections: Vec<_> = (1..COUNT).map(|_| TcpStream::connect(("127.0.0.1", local)).unwrap()).collect();
    let logged = |words: &str| fs::read_to_string(&log).unwrap_or_default().matches(words).count();
    until("ssh has accepted all", || logged("requested.") == COUNT);
    fs::write(server.directory.join("begin"), "").unwrap();
    target.set_nonblocking(true).unwrap();
    let mut accepted = Vec::new();
    until("all are connected", || {
        accepted.extend(target.accept());
        accepted.len() == COUNT
    });
    drop(connections);
}

#[test]
fn what_cannot_or_may_not_be_listened_on_is_refused() {
    let server = Server::start();
    let (_taken, port) = listener();
    for (user, forward) in [
        ("alice", format!("127.0.0.1:{port}:localhost:1")),
        ("nowhere", "0:localhost:1".into()),
        ("no-forwarding", "0:localhost:1".into()),
        ("no-forwarding", "/nowhere/at/all:localhost:1".into()),
        ("only-localhost", format!("*:{}:localhost:1", free_port())),
    ] {
        let (status, _, stderr) = server.run(user, &["-N", "-R", &forward, "localhost"]);
        assert_eq!(status, Some(255), "{user} {forward}: {stderr}");
        assert!(stderr.contains("remote port forwarding failed"), "{user} {forward}: {stderr}");
    }
    let allowed = format!("localhost:{}:localhost:1", free_port());
    server.forward("only-localhost", &["-R", &allowed, "localhost"], "remote forward success");
}

#[test]
fn the_configuration_turns_forwarding_off() {
    let off =
        Forwarding { connect: false, listen: false, connect_unix: false, listen_unix: false, ..Forwarding::default() };
    let server = Server::start_with(off);
    let (_, _, stderr) = server.run("alice", &["-W", "localhost:1", "localhost"]);
    assert!(stderr.contains("administratively prohibited"), "{stderr}");
    for forward in ["0:localhost:1".into(), format!("{}:localhost:1", text(&server.directory.join("s")))] {
        let (_, _, stderr) = server.run("alice", &["-N", "-R", &forward, "localhost"]);
        assert!(stderr.contains("remote port forwarding failed"), "{stderr}");
    }
}

#[test]
fn the_clients_keys_are_lent_only_where_that_is_allowed() {
    let server = Server::start();
    let socket = server.directory.join("authentication-agent");
    let _agent =
        Killed(Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap());
    until("ssh-agent listens", || UnixStream::connect(&socket).is_ok());
    let add = Command::new("ssh-add").arg(server.directory.join("key")).env("SSH_AUTH_SOCK", &socket).output();
    assert!(add.unwrap().status.success());
    let list = |server: &Server, user: &str| {
        let mut ssh = server.ssh(user, &["-A", "localhost", "echo ${SSH_AUTH_SOCK-none}; ssh-add -l"]);
        let output = ssh.env("SSH_AUTH_SOCK", &socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let lent = list(&server, "alice");
    assert!(lent.starts_with("/tmp/ssh-") && lent.contains("ED25519"), "{lent}");
    assert_eq!(list(&server, "no-forwarding"), "none\n");
    let default = Server::start_with(Forwarding::default());
    assert_eq!(list(&default, "alice"), "none\n");
}

#[test]
fn whose_password_is_not_looked_at_hears_that_it_is_the_server() {
    let server = Server::start();
    let ssh = |user| {
        // Of two values the first counts.
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "BatchMode=no", "-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1"]);
        ssh.args(server.ssh(user, &["localhost", "true"]).get_args()).stdin(Stdio::null());
        // It prints the question, which will do for a password.
        ssh.env("SSH_ASKPASS", "/bin/echo").env("SSH_ASKPASS_REQUIRE", "force");
        String::from_utf8(ssh.output().unwrap().stderr).unwrap()
    };
    let stderr = ssh("unlucky");
    assert!(stderr.contains("the server cannot serve you at this time; try again later"), "{stderr}");
    let stderr = ssh("alice");
    assert!(stderr.contains("Permission denied"), "{stderr}");
}
