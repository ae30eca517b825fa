//! The same clients with berth and with OpenSSH's server: what they can tell must be the same. docs/differences.md has
//! what is not, and why.
//!
//! Commands are busybox's on both sides, and all containers are on the host's network.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::PathBuf;

use crate::common::{Berth, Client, DEADLINE, LONG, Ran, Running, Sshd, Terminal, eventually, free_port, key};

/// A server, as far as the two are alike.
trait Server {
    fn openssh(&self, program: &str) -> Client;
    fn path(&self, name: &str) -> PathBuf;

    fn ssh(&self, arguments: &[&str]) -> Client {
        self.openssh("ssh").args(arguments)
    }

    /// Where clients share a connection.
    fn control(&self) -> String {
        format!("ControlPath={}", self.path("control").display())
    }

    /// A connection for clients to share: it saves most of the time that they take.
    fn master(&self) -> Running {
        let master = self.ssh(&["-M", "-N", "-o", &self.control(), "berth"]).within(LONG).spawn();
        eventually("the control socket", DEADLINE, || self.path("control").exists());
        master
    }
}

impl Server for Berth {
    fn openssh(&self, program: &str) -> Client {
        self.openssh(program)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path(name)
    }
}

impl Server for Sshd {
    fn openssh(&self, program: &str) -> Client {
        self.openssh(program)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path(name)
    }
}

struct Both {
    berth: Berth,
    sshd: Sshd,
    /// The connections that [`Self::run`] uses, if it does not make its own.
    masters: Vec<Running>,
}

impl Both {
    fn start() -> Self {
        Both::with("", "")
    }

    /// With these options of the key, and these lines for sshd that say what berth does by default.
    fn with(key_options: &str, sshd: &str) -> Self {
        let line = format!("{key_options} {}", key("ed25519").public).trim().to_owned();
        let berth = Berth::with(|config| {
            config["docker"]["execution"]["host"]["networkMode"] = "host".into();
            config["auth"]["users"]["alice"]["authorizedKeys"] = [line][..].into();
        });
        Both { berth, sshd: Sshd::start(sshd, key_options), masters: Vec::new() }
    }

    /// With a connection each, that all share.
    fn shared() -> Self {
        let mut both = Both::start();
        both.masters = vec![Server::master(&both.berth), both.sshd.master()];
        both
    }

    /// Does the same with both, and gives what was the same.
    #[track_caller]
    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, observe: impl Fn(&dyn Server) -> T) -> T {
        let (ours, theirs) = (observe(&self.berth), observe(&self.sshd));
        assert!(ours == theirs, "{what}:\n--- berth:\n{ours:#?}\n--- sshd:\n{theirs:#?}");
        ours
    }

    /// Runs `ssh` with these arguments and this input.
    #[track_caller]
    fn run(&self, arguments: &[&str], input: &str) -> Seen {
        self.same(&format!("{arguments:?}"), |server| {
            let control = if self.masters.is_empty() { "ControlPath=none".into() } else { server.control() };
            seen(server.ssh(&["-o", &control]).args(arguments).input(input).run())
        })
    }
}

/// Exit status, standard output, and standard error of a client.
type Seen = (Option<i32>, String, String);

fn seen(ran: Ran) -> Seen {
    (ran.code, ran.text(), ran.stderr.clone())
}

/// In busybox's shell.
fn shell(script: &str) -> String {
    format!("exec busybox sh -c '{script}'")
}

#[test]
fn commands_end_alike() {
    let both = Both::shared();
    for script in [
        "exit 0",
        "exit 7",
        "exit 255",
        "echo out; echo problem >&2; exit 3",
        "cat; echo end",
        "busybox cat >&2",
        "exec >&- 2>&-; exit 4",
        "exec <&-; sleep 1; echo late",
        "(sleep 1; echo late) & exit 3",
        "head -c 3",
        "kill -TERM $$",
        "kill -KILL $$",
        "kill -SEGV $$",
        "kill -PIPE $$",
    ] {
        both.run(&["-T", "berth", &shell(script)], "input\n");
    }
}

#[test]
fn commands_on_terminals_end_alike() {
    let both = Both::start();
    for (script, input) in [
        ("exit 5", ""),
        ("echo out; echo problem >&2; exit 3", ""),
        ("cat", "line\n\u{4}"),
        ("busybox stty size; busybox stty -g", ""),
        ("trap \"echo hung up; exit 9\" HUP; cat; exit 1", "\u{4}"),
        ("sleep 2 & exit 6", ""),
        ("kill -KILL $$", ""),
        ("read line; echo got $line; busybox stty -echo; read line; echo got $line", "one\ntwo\n"),
    ] {
        both.run(&["-tt", "berth", &shell(script)], input);
    }
}

#[test]
fn shells_end_alike() {
    let both = Both::shared();
    both.run(&["-T", "berth"], "echo hello; exit 3\n");
    both.run(&["-T", "berth"], "exec busybox sh -c 'kill -TERM $$'\n");
    both.run(&["-T", "berth"], "");
}

/// The messages of a session, in their order, as `ssh -vv` tells them: requests from the server, and its answers.
fn messages(ran: &Ran) -> Vec<String> {
    let kept = ["rtype", "channel_input_status_confirm", "request failed", "request accepted", "open failed"];
    // Host keys are told for their own sake; and whether there is still input to end is a matter of chance.
    let left_out = ["hostkeys-00", "eow@openssh.com"];
    let is_of = |line: &str, words: &[&str]| words.iter().any(|words| line.contains(words));
    let lines = ran.stderr.lines().filter(|line| is_of(line, &kept) && !is_of(line, &left_out));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn sessions_requests_are_answered_alike() {
    let both = Both::start();
    for arguments in [
        &["-T", "berth", "true"][..],
        &["-tt", "berth", "true"],
        &["-T", "-o", "SetEnv=LC_X=1 NOT_THIS=2", "berth", "true"],
        &["-tt", "-A", "berth", "true"],
        &["-s", "berth", "no-such"],
        &["-T", "berth", "kill -TERM $$"],
    ] {
        both.same(&format!("{arguments:?}"), |server| {
            let ran = server.ssh(&["-vv"]).args(arguments).run();
            // Where exit status and end of output come together, either may be first.
            let mut messages = messages(&ran);
            messages.sort();
            (ran.code, messages)
        });
    }
}

#[test]
fn a_key_that_may_do_little_is_refused_alike() {
    let both = Both::with("restrict,permitopen=\"localhost:1\",port-forwarding", "X11Forwarding yes");
    both.run(&["-tt", "berth", &shell("busybox tty")], "");
    both.run(&["-T", "-W", "127.0.0.1:1", "berth"], "");
    both.run(&["-T", "-W", "localhost:1", "berth"], "");
    let both = Both::with("restrict,command=\"busybox echo forced: $SSH_ORIGINAL_COMMAND\"", "");
    both.run(&["-T", "berth", "my own"], "");
    both.run(&["-T", "berth"], "");
    both.run(&["-s", "berth", "sftp"], "");
    both.run(&["-s", "berth", "no-such"], "");
    both.run(&["-T", "-W", "localhost:1", "berth"], "");
    both.run(&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:1", "berth"], "");
}

#[test]
fn the_environment_is_alike() {
    let both = Both::start();
    let names = [
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_TTY",
        "TERM",
        "USER",
        "LOGNAME",
        "HOME",
        "LC_X",
        "NOT_THIS",
        "SSH_ORIGINAL_COMMAND",
    ];
    let script = names.map(|name| format!("echo {name}=${{{name}-unset}}")).join("; ");
    let arguments = ["-o", "SetEnv=LC_X=1 NOT_THIS=2", "berth"];
    for terminal in ["-T", "-tt"] {
        both.same(terminal, |server| {
            let ran = server.ssh(&[terminal]).args(arguments).arg(shell(&script)).env("TERM", "vt220").run();
            // Ports, and the terminal's number.
            ran.text().replace(|c: char| c.is_ascii_digit(), "")
        });
    }
}

#[test]
fn no_client_and_no_key_keeps_from_a_forced_command_what_was_asked_for() {
    let forced = "command=\"exec busybox sh -c 'echo original=[$SSH_ORIGINAL_COMMAND] of a key=[$KEYS] \
                  many=[$(busybox env | busybox grep -c ^LC_V)] long=[${#LC_A} ${#LC_B}]'\"";
    let keys = "environment=\"KEYS=own\",environment=\"SSH_ORIGINAL_COMMAND=forged\"";
    let both = Both::with(&format!("{keys},{forced}"), "PermitUserEnvironment yes");
    let many = (1..=128).map(|number| format!(" LC_V{number}=a")).collect::<String>();
    let many = format!("SetEnv={}", many.trim());
    let long = |length: usize| "x".repeat(length);
    for command in [&["git-receive-pack x"][..], &[], &["-s", "sftp"]] {
        let arguments = [&["-T", "-o", &many, "berth"], command].concat();
        both.run(&arguments, "");
    }
    let seen = both.same("long variables", |server| {
        let ssh = server.ssh(&["-T", "-o", "SendEnv=LC_A LC_B", "berth", "git-receive-pack x"]);
        seen(ssh.env("LC_A", long(65_520)).env("LC_B", long(65_525)).run())
    });
    assert!(seen.1.starts_with("original=[git-receive-pack x] of a key=[own] "), "{seen:?}");
}

#[test]
fn keys_in_files_set_what_is_permitted_alike() {
    let options = "environment=\"LANG=of-the-key\",environment=\"BASH_ENV=/nowhere\",environment=\"LC_X=key\"";
    for permitted in ["no", "yes", "LANG,LC_*", "!LC_X,L*"] {
        let both = Both::with(options, &format!("PermitUserEnvironment {permitted}"));
        let line = format!("{options} {}", key("ed25519").public);
        both.berth.reload(|config| {
            let file = crate::common::directory_of(config).join("keys");
            fs::write(&file, &line).unwrap();
            config["docker"]["execution"]["host"]["networkMode"] = "host".into();
            config["auth"]["users"]["alice"]["authorizedKeys"] = serde_json::json!([]);
            config["auth"]["users"]["alice"]["authorizedKeysFile"] = file.to_str().unwrap().into();
            config["ssh"]["permitUserEnvironment"] = permitted.into();
        });
        both.run(&["-T", "berth", &shell("echo [$LANG] [$BASH_ENV] [$LC_X]")], "");
    }
}

#[test]
fn terminals_are_alike() {
    let both = Both::start();
    for modes in ["", "intr ^X -ixon iutf8 -onlcr", "-echo raw", "ospeed 9600 ispeed 9600 erase ^H", "cols 0 rows 0"] {
        both.same(modes, |server| {
            let command = shell("busybox stty -a");
            let mut terminal = Terminal::open(&server.ssh(&["-t", "berth", &command]), 33, 99, modes);
            terminal.shows("Connection to 127.0.0.1 closed.");
            terminal.text()
        });
    }
}

#[test]
fn forwarding_ends_alike() {
    let both = Both::start();
    for target in ["127.0.0.1:1", "nowhere.invalid:80", "[::1]:1"] {
        both.run(&["-W", target, "berth"], "");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // Both servers are content with one of the addresses.
    let _taken_too = TcpListener::bind(("::1", port)).unwrap();
    let forward = format!("{port}:localhost:1");
    both.run(&["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward, "berth"], "");
}

/// Answers the next connection, once all was said.
fn answer(listener: &TcpListener) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut words = Vec::new();
    socket.read_to_end(&mut words).unwrap();
    socket.write_all(&[b"you said ", &words[..]].concat()).unwrap();
}

#[test]
fn connections_are_carried_alike() {
    let both = Both::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    both.same("-W with half-close", |server| {
        let client = server.ssh(&["-W", &target, "berth"]).input("hello").spawn();
        answer(&listener);
        seen(client.wait())
    });
    both.same("-N -L", |server| {
        let port = free_port();
        let _client = server.ssh(&["-N", "-L", &format!("{port}:{target}"), "berth"]).spawn();
        let mut socket = None;
        eventually("the port", DEADLINE, || {
            socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
            socket.is_some()
        });
        let mut socket = socket.unwrap();
        socket.write_all(b"hello").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        answer(&listener);
        let mut words = String::new();
        socket.read_to_string(&mut words).unwrap();
        words
    });
}

#[test]
fn a_shared_connection_is_controlled_alike() {
    let both = Both::start();
    both.same("-f and -O", |server| {
        let control = server.control();
        let port = free_port().to_string();
        let forward = format!("{port}:localhost:1");
        let ssh = |arguments: &[&str]| {
            let mut arguments = arguments.to_vec();
            arguments.extend(["-o", &control, "berth"]);
            let (code, out, err) = seen(server.ssh(&arguments).run());
            let same = |text: String| text.replace(&port, "PORT").replace(|c: char| c.is_ascii_digit(), "");
            let own = server.path("").display().to_string();
            let same = |text: String| same(text.replace(&own, ""));
            (code, same(out), same(err))
        };
        let answers = [
            ssh(&["-f", "-N", "-M"]),
            ssh(&["-O", "check"]),
            ssh(&["-O", "forward", "-R", &forward]),
            ssh(&["-O", "forward", "-R", "0:localhost:1"]),
            ssh(&["-O", "cancel", "-R", &forward]),
            ssh(&["-O", "cancel", "-R", &forward]),
            ssh(&["-O", "forward", "-L", &forward]),
            ssh(&["-O", "cancel", "-L", &forward]),
            ssh(&["-O", "exit"]),
        ];
        eventually("the control socket is gone", DEADLINE, || !server.path("control").exists());
        answers
    });
}

#[test]
fn the_banner_is_shown_alike() {
    let text = "No trespassing.\nReally.\n";
    let berth = Berth::with(|config| config["ssh"]["banner"] = text.into());
    fs::write(berth.path("banner"), text).unwrap();
    let sshd = Sshd::start(&format!("Banner {}", berth.path("banner").display()), "");
    let both = Both { berth, sshd, masters: Vec::new() };
    both.run(&["-T", "berth", "true"], "");
}

#[test]
fn signs_of_life_are_answered_alike() {
    let both = Both::start();
    let options = ["-T", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", "berth"];
    both.run(&[&options[..], &[&shell("sleep 4; echo still here")]].concat(), "");
}
