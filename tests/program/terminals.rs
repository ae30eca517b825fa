//! Sessions with a terminal, and a person before it.

use std::fs;

use crate::common::{Berth, Client, DEADLINE, Terminal, eventually, newest_openssh};

/// A shell on a terminal, at its first prompt.
fn shell(berth: &Berth, modes: &str) -> Terminal {
    let mut terminal = Terminal::open(&berth.ssh(["berth"]), 24, 80, modes);
    terminal.shows("# ");
    terminal
}

#[test]
fn a_person_gets_a_prompt_and_leaves_with_the_shells_status() {
    let berth = Berth::start();
    let mut terminal = shell(&berth, "");
    terminal.type_in("echo $TERM $0 $(tty)\n");
    terminal.shows("xterm -sh /dev/pts/");
    terminal.type_in("exit 4\n");
    terminal.wait().exits(4);
}

/// The classes of service of this machine's connections to or from a port of loopback, as ss(8) shows them: `ends` says
/// which end is meant.
fn classes(ends: &str, port: u16) -> Vec<String> {
    let text = Client::new("ss").args(["-tnHi", "--tos", ends, &format!("= :{port}")]).run().succeeds().text();
    text.split_whitespace().filter_map(|word| word.strip_prefix("tos:")).map(str::to_owned).collect()
}

#[test]
fn packets_are_marked_by_whether_there_is_a_terminal() {
    let berth = Berth::with(|config| config["ssh"]["ipqos"] = "ef le".into());
    packets_are_marked(&berth, "sport", berth.port);
}

/// The packets from one end of the connections to a port are marked. Classes are `ef le`.
pub fn packets_are_marked(berth: &Berth, end: &str, port: u16) {
    let master = berth.master();
    let command = |name: &str| master.client("ssh").args([name, "berth", "echo in; read word; exit 3"]);
    let plain = command("-T").stdin(std::process::Stdio::piped()).spawn();
    plain.stdout.line("in");
    eventually("the class without a terminal", DEADLINE, || classes(end, port).contains(&"0x4".to_owned()));
    let mut terminal = Terminal::open(&command("-t"), 24, 80, "");
    terminal.shows("in");
    eventually("the class of a terminal", DEADLINE, || classes(end, port).contains(&"0xb8".to_owned()));
    terminal.type_in("\n");
    terminal.wait().exits(3);
    eventually("the class without one again", DEADLINE, || classes(end, port).contains(&"0x4".to_owned()));
}

#[test]
fn the_end_of_file_key_ends_the_shell() {
    let berth = Berth::start();
    let mut terminal = shell(&berth, "");
    terminal.type_in("\x04");
    terminal.wait().exits(0);
}

#[test]
fn the_window_has_the_clients_size_and_follows_it() {
    follows_the_window(&Berth::start());
}

/// A terminal has the client's size, and is told of a new one.
pub fn follows_the_window(berth: &Berth) {
    let command = "trap 'stty size; exit' WINCH; stty size; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", command]), 24, 80, "");
    terminal.shows("24 80\r\nready");
    terminal.resize(43, 132);
    terminal.shows("43 132");
    terminal.wait().exits(0);
}

#[test]
fn the_interrupt_key_stops_the_command_and_not_the_shell() {
    let berth = Berth::start();
    let mut terminal = shell(&berth, "");
    terminal.type_in("sh -c 'echo ready; exec sleep 1000'\n");
    terminal.shows("\nready");
    terminal.type_in("\x03");
    terminal.shows("# ");
    terminal.type_in("echo status $?\n");
    terminal.shows("status 130");
    terminal.type_in("exit\n");
    terminal.wait();
}

#[test]
fn the_terminals_modes_are_the_clients() {
    let berth = Berth::start();
    let mut terminal = shell(&berth, "intr ^X -ixon iutf8 -onlcr");
    // Whatever says "end" is what the key will stop.
    terminal.type_in("stty -a; sh -c 'echo end; exec cat'\n");
    terminal.shows("intr = ^X;");
    terminal.shows("-ixon");
    terminal.shows(" iutf8");
    terminal.shows("-onlcr");
    terminal.shows("\nend");
    // The client's own terminal is raw meanwhile: it is the guest's that knows the key.
    terminal.type_in("\x18");
    terminal.shows("# ");
    terminal.type_in("exit\n");
    terminal.wait();
}

#[test]
fn a_command_may_have_a_terminal_of_its_own() {
    let berth = Berth::start();
    let mut terminal = Terminal::open(&berth.ssh(["-t", "berth", "stty size; exit 6"]), 10, 20, "");
    terminal.shows("10 20");
    terminal.wait().exits(6);
}

#[test]
fn without_a_terminal_there_is_none() {
    let berth = Berth::start();
    berth.exec("tty").run().exits(1).prints("not a tty\n");
    berth.ssh(["-tt", "berth", "tty"]).run().succeeds().prints("/dev/pts/0\r\n");
}

#[test]
fn a_terminal_may_be_of_any_type() {
    let berth = Berth::start();
    let master = berth.master();
    let long = "x".repeat(3000);
    for term in ["dumb", "no such terminal; $(exit)", &long] {
        let ssh = master.client("ssh").args(["-tt", "berth", r#"printf %s "$TERM""#]).env("TERM", term);
        ssh.run().succeeds().prints(term);
    }
    // Without one, the image's stays.
    master.client("ssh").args(["-tt", "berth", "printf %s ${TERM-none}"]).run().succeeds().prints("none");
}

#[test]
fn a_terminal_that_goes_away_hangs_up_the_shell() {
    let berth = Berth::start();
    let master = berth.master();
    let running = master.client("ssh").args(["-tt", "berth", "trap 'touch /tmp/hung-up; exit' HUP; echo ready; cat"]);
    let running = running.spawn();
    running.stdout.line("ready");
    drop(running);
    let seen = "until [ -e /tmp/hung-up ]; do sleep 0.1; done";
    master.exec(seen).run().succeeds();
}

#[test]
fn keystrokes_hide_among_chaff_that_is_answered() {
    let berth = Berth::start();
    let log = berth.path("ssh-log");
    let ssh = berth.openssh(&newest_openssh("ssh")).args(["-vvv", "-E", log.to_str().unwrap(), "-tt", "berth", "cat"]);
    let mut terminal = Terminal::open(&ssh, 24, 80, "");
    terminal.type_in("a");
    terminal.shows("a");
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    // The client hides those alone that come one soon after another.
    eventually("the chaff", DEADLINE, || {
        terminal.type_in("b");
        logged().contains("starting: interval")
    });
    eventually("the end of the chaff", DEADLINE, || logged().contains("chaff packets sent)"));
    let log = logged();
    assert!(log.contains("chaff packets sent)") && !log.contains("(0 chaff packets sent)"), "{log}");
    // All of it was answered: the session goes on.
    terminal.type_in("\nend\n");
    terminal.shows("end");
    terminal.type_in("\x04");
    terminal.wait().exits(0);
}
