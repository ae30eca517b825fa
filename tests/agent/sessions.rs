//! What a session runs, and how it ends.

use std::process::Command;

use berth::connection::forward::Listening;

use crate::harness::{Outcome, Server};

#[test]
fn a_command_has_its_output_errors_and_exit_status_kept_apart() {
    let mut server = Server::start();
    let outcome = server.run("echo out; echo err >&2; exit 7");
    assert_eq!((outcome.text().as_str(), outcome.error().as_str()), ("out\n", "err\n"));
    let events = outcome.events();
    assert!(events == "eof, exit 7, close" || events == "exit 7, eof, close", "{events}");
}

#[test]
fn a_signal_is_reported_by_name() {
    let mut server = Server::start();
    assert!(server.run("ulimit -c 0; kill -TERM $$").events().contains("signal TERM"));
    assert!(server.run("ulimit -c 0; kill -BUS $$").events().contains("signal SIG@openssh.com"));
}

#[test]
fn cat_ends_with_the_clients_eof() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "cat");
    server.data(channel, b"hello");
    server.eof(channel);
    let outcome = server.outcome();
    assert_eq!(outcome.stdout, b"hello");
    assert!(outcome.events().contains("exit 0"));
}

#[test]
fn an_early_eof_loses_neither_output_nor_exit_status() {
    let mut server = Server::start();
    for _ in 0..30 {
        let channel = server.open();
        server.eof(channel);
        server.exec(channel, "head -c 300000 /dev/zero; exit 3");
        let outcome = server.outcome();
        assert_eq!(outcome.stdout.len(), 300_000);
        assert!(outcome.events().contains("exit 3"), "{}", outcome.events());
        server.close(channel);
    }
}

#[test]
fn the_environment_is_the_images_the_users_the_servers_and_the_clients() {
    let mut server = Server::start_with(&[("FROM_SERVER", "server")], Listening::default());
    let channel = server.open();
    assert!(server.env(channel, "FROM_CLIENT", "client"));
    assert!(!server.env(channel, "A=B", "client"));
    server.exec(channel, "echo $FROM_IMAGE $FROM_SERVER $FROM_CLIENT $USER $LOGNAME $HOME $SHELL; umask");
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid = Command::new("id").arg("-u").output().unwrap().stdout;
    let uid = String::from_utf8(uid).unwrap();
    let user: Vec<_> = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[2] == uid.trim()).unwrap();
    let expected = format!("image server client {0} {0} {1} {2}\n0022\n", user[0], user[5], user[6]);
    assert_eq!(server.outcome().text(), expected);
}

#[test]
fn a_program_starts_with_default_signals_no_extra_descriptors_and_its_own_session() {
    let mut server = Server::start();
    let text = server.run("exec grep -E 'Sig(Blk|Ign)' /proc/self/status").text();
    for line in text.lines() {
        // The C library keeps signals 32 and 33 to itself.
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(mask & !0x1_8000_0000, 0, "{line}");
    }
    assert_eq!(server.run("exec ls /proc/self/fd").text(), "0\n1\n2\n3\n", "3 is the directory");
    let text = server.run("ps -o pid=,sid=,tty= -p $$; echo $$").text();
    let fields: Vec<_> = text.split_whitespace().collect();
    assert_eq!((fields[1], fields[2], fields[3]), (fields[0], "?", fields[0]));
}

#[test]
fn a_signal_request_reaches_the_process_group() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(!server.string_request(channel, "signal", "TERM"), "there is no process yet");
    server.exec(channel, "echo ready; sleep 100; echo never");
    let mut outcome = Outcome::default();
    server.until(&mut outcome, "ready");
    assert!(!server.string_request(channel, "signal", "SIGTERM"), "names have no SIG");
    // Not INT: a shell that is about to start the next command may take that for itself.
    assert!(server.string_request(channel, "signal", "TERM"));
    assert!(server.outcome().events().contains("signal TERM"));
}

#[test]
fn unknown_requests_and_second_starts_fail() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(!server.request(channel, "hostname", b""));
    server.exec(channel, "cat");
    assert!(!server.request(channel, "shell", b""));
    assert!(!server.string_request(channel, "exec", "true"));
    assert!(!server.env(channel, "A", "B"));
}

#[test]
fn the_sftp_subsystem_is_this_program() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.string_request(channel, "subsystem", "internal-sftp"));
    assert!(!server.string_request(channel, "signal", "TERM"), "a subsystem gets no signals");
    server.data(channel, &[0, 0, 0, 5, 1, 0, 0, 0, 3]);
    server.eof(channel);
    let outcome = server.outcome();
    assert!(!outcome.stdout.is_empty());
    assert!(outcome.events().contains("exit 0"), "{}", outcome.events());
}

#[test]
fn another_subsystem_is_a_command_whose_errors_are_not_the_clients() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.string_request(channel, "subsystem", "echo problem >&2; cat; exit 4"));
    assert!(!server.string_request(channel, "signal", "TERM"));
    server.data(channel, b"to and fro");
    server.eof(channel);
    let outcome = server.outcome();
    assert_eq!((outcome.text().as_str(), outcome.error().as_str()), ("to and fro", ""));
    assert!(outcome.events().contains("exit 4"), "{}", outcome.events());
}

#[test]
fn without_a_terminal_a_background_job_keeps_the_channel_open() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "(read x </dev/null; cat <&3; echo late) 3<&0 & exit 2");
    let mut outcome = Outcome::default();
    while outcome.events.is_empty() {
        server.step(&mut outcome);
    }
    assert_eq!(outcome.events(), "exit 2", "the status is told at once, and nothing else");
    // The end of the program closed our end of its input, so the job reads end of file and ends.
    let rest = server.outcome();
    assert_eq!(rest.text(), "late\n");
    assert_eq!(rest.events(), "eof, close");
}

#[test]
fn a_shell_that_cannot_run_says_so_like_a_shell() {
    let mut server = Server::start();
    let outcome = server.run("/nonexistent/program");
    assert!(outcome.events().contains("exit 127"), "{outcome:?}");
}
