//! Sessions on terminals.

use std::process::Command;

use berth::connection::message::{MAXIMUM_PACKET, window_adjust};
use berth::connection::wire::Write;

use crate::harness::{Outcome, Server, is_running, number_in};

#[test]
fn a_shell_on_a_terminal_is_a_login_shell_of_the_asked_size() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.pty(channel, 91, 33, b""));
    assert!(!server.pty(channel, 91, 33, b""), "a second terminal");
    assert!(server.request(channel, "shell", b""));
    server.data(channel, b"stty size; echo $0 $TERM; test \"$SSH_TTY\" = \"$(tty)\" && echo same'-'tty; exit 5\n");
    let outcome = server.outcome();
    let text = outcome.text();
    assert!(text.contains("33 91\n") && text.contains(" xterm-test\n") && text.contains("same-tty\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with('-') && line.ends_with("sh xterm-test")), "{text}");
    assert!(outcome.events().contains("exit 5"));
    assert!(outcome.stderr.is_empty());
}

#[test]
fn a_window_change_reaches_the_program() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.pty(channel, 80, 24, b""));
    server.exec(channel, "trap 'stty size; exit' WINCH; echo ready; while :; do read -t 1 x; done");
    let mut outcome = Outcome::default();
    server.until(&mut outcome, "ready");
    let mut size = Vec::new();
    [120, 50, 0, 0].iter().for_each(|field| size.put_u32(*field));
    assert!(server.request(channel, "window-change", &size));
    server.until(&mut outcome, "50 120");
}

#[test]
fn terminal_modes_are_applied() {
    let mut server = Server::start();
    let channel = server.open();
    let mut modes = Vec::new();
    for (opcode, value) in [(1, 7), (9, 255), (42, 1), (53, 0), (72, 0), (128, 19200), (129, 19200)] {
        modes.put_u8(opcode);
        modes.put_u32(value);
    }
    modes.put_u8(0);
    assert!(server.pty(channel, 80, 24, &modes));
    server.exec(channel, "stty -a");
    let text = server.outcome().text();
    for expected in ["speed 19200 baud", "intr = ^G", "stop = <undef>", " iutf8", " -echo ", " -onlcr"] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}

#[test]
fn a_break_needs_a_terminal() {
    let mut server = Server::start();
    let (plain, terminal) = (server.open(), server.open());
    assert!(server.pty(terminal, 80, 24, b""));
    assert!(server.request(terminal, "break", &[0, 0, 1, 0]));
    assert!(!server.request(plain, "break", &[0, 0, 1, 0]));
}

#[test]
fn with_a_terminal_the_session_ends_with_its_program() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.pty(channel, 80, 24, b""));
    server.exec(channel, "trap '' HUP; sleep 30 & echo $!; exit 2");
    let outcome = server.outcome();
    assert!(outcome.events().contains("exit 2"));
    let pid = number_in(&outcome.text());
    assert!(is_running(pid));
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
}

#[test]
fn the_last_output_of_a_terminal_is_not_lost() {
    let mut server = Server::start();
    for _ in 0..20 {
        let channel = server.open_with(5000, MAXIMUM_PACKET);
        assert!(server.pty(channel, 80, 24, b""));
        server.exec(channel, "head -c 20000 /dev/zero | tr '\\0' x; echo; echo last");
        let mut outcome = Outcome::default();
        while outcome.events.last().is_none_or(|event| event != "close") {
            let before = outcome.stdout.len();
            server.step(&mut outcome);
            let count = outcome.stdout.len() - before;
            if count > 0 {
                server.send(&window_adjust(channel, count as u32));
            }
        }
        assert!(outcome.text().ends_with("xxxx\nlast\n"));
        assert_eq!(outcome.text().len(), 20_006);
        server.close(channel);
    }
}

#[test]
fn closing_a_channel_hangs_its_terminal_up() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.pty(channel, 80, 24, b""));
    server.exec(channel, "echo ready; exec sleep 100");
    server.until(&mut Outcome::default(), "ready");
    server.close(channel);
    assert_eq!(server.outcome().events(), "signal HUP, close");
}
