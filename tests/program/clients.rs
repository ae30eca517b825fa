//! Clients that are not OpenSSH's: PuTTY's and Dropbear's programs, and the libraries that other programs are made of.
//!
//! For each library there is a program in tests/clients, which is called with a method of authentication (`key`,
//! `password` or `keyboard-interactive`), an action, and that one's arguments. `scripts/clients` brings the libraries.
//!
//! | action | what the program does |
//! |---|---|
//! | `exec COMMAND` | as `ssh -T berth COMMAND`; says `signal NAME`, if it can, where a signal has ended the command |
//! | `terminal COMMAND` | the same on a terminal of the type vt220, 40 rows and 100 columns |
//! | `connect HOST PORT` | as `ssh -W HOST:PORT berth` |
//! | `listen` | has a port forwarded to it, runs a command that says hello there, and answers that |
//! | `signal NAME COMMAND` | sends a signal to a command that has said six bytes (Go's alone) |
//! | `last-session` | says that it opens no more sessions, opens one, and tells what comes of it (Go's alone) |
//! | `files NEAR FAR BACK` | puts a file, moves, links and changes it, and gets it back |

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use crate::common::{
    Berth, Client, PASSWORD, Terminal, free_port, key, libraries, on_this_machines_network, this_machine,
};

/// What the server's own words are.
const REFUSED: &str = "Connection refused";

/// The libraries' programs, each with its interpreter.
const LIBRARIES: [Library; 4] = [
    Library {
        interpreter: Some("python/bin/python"),
        program: "python/paramiko_client.py",
        knows_signals: false,
        is_post_quantum: false,
        refusal: REFUSED,
    },
    Library {
        interpreter: Some("python/bin/python"),
        program: "python/asyncssh_client.py",
        knows_signals: true,
        is_post_quantum: true,
        refusal: REFUSED,
    },
    Library {
        interpreter: Some("node"),
        program: "node/client.js",
        knows_signals: true,
        is_post_quantum: false,
        refusal: REFUSED,
    },
    Library { interpreter: None, program: "go/client", knows_signals: true, is_post_quantum: true, refusal: REFUSED },
];

/// Those that `scripts/matrix` makes ready.
const LIBRARIES_OF_THE_MATRIX: [Library; 3] = [
    Library {
        interpreter: None,
        program: "java/jsch",
        knows_signals: false,
        is_post_quantum: true,
        refusal: "channel is not opened",
    },
    Library { interpreter: None, program: "java/mina", knows_signals: true, is_post_quantum: true, refusal: REFUSED },
    Library {
        interpreter: None,
        program: "libssh/client",
        knows_signals: true,
        is_post_quantum: true,
        refusal: REFUSED,
    },
];

/// The [`LIBRARIES`], or the one whose program `BERTH_TEST_LIBRARY` names.
fn tested_libraries() -> Vec<Library> {
    match std::env::var("BERTH_TEST_LIBRARY") {
        Ok(program) => {
            let mut all = LIBRARIES.into_iter().chain(LIBRARIES_OF_THE_MATRIX);
            vec![all.find(|library| library.program == program).expect("a library's program")]
        }
        Err(_) => LIBRARIES.into(),
    }
}

struct Library {
    /// In the directory of the libraries, or in the PATH.
    interpreter: Option<&'static str>,
    program: &'static str,
    /// Whether it can tell by which signal a command has ended.
    knows_signals: bool,
    /// Whether it has `mlkem768x25519-sha256`.
    is_post_quantum: bool,
    /// What it says of a connection that it cannot have.
    refusal: &'static str,
}

impl Library {
    /// Its program with these arguments.
    fn client(&self, berth: &Berth, method: &str, action: &str, arguments: &[&str]) -> Client {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let made = libraries();
        let client = match self.interpreter {
            Some(interpreter) if interpreter.contains('/') => {
                Client::new(made.join(interpreter)).arg(sources.join(self.program))
            }
            Some(interpreter) => Client::new(interpreter).arg(sources.join(self.program)),
            None => Client::new(made.join(self.program)),
        };
        client
            .args([method, action])
            .args(arguments)
            .env("PORT", berth.port.to_string())
            .env("HOST_KEY", fs::read_to_string(berth.path("host_key.pub")).unwrap().trim())
            .env("LOGIN", "alice")
            .env("PASSWORD", PASSWORD)
            .env("KEY", key("ed25519").path)
            .env("NODE_PATH", made.join("node/node_modules"))
            .env("HOME", berth.path("home"))
    }
}

/// PuTTY's client; still to come is a command.
fn plink(berth: &Berth, options: &[&str]) -> Client {
    berth.putty("plink").args(options).arg("127.0.0.1")
}

/// Dropbear's client, with the user's password; still to come is a command.
pub fn dbclient(berth: &Berth, options: &[&str]) -> Client {
    let home = berth.path("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    let host_key = fs::read_to_string(berth.path("host_key.pub")).unwrap();
    fs::write(home.join(".ssh/known_hosts"), format!("127.0.0.1 {host_key}")).unwrap();
    let client = Client::new("dbclient").args(["-p", &berth.port.to_string()]).args(options).arg("alice@127.0.0.1");
    client.env("DROPBEAR_PASSWORD", PASSWORD).env("HOME", home)
}

const PROGRAMS: [fn(&Berth, &[&str]) -> Client; 2] = [plink, dbclient];

/// Every byte value, many times over.
fn all_bytes() -> Vec<u8> {
    (0..=255).cycle().take(1 << 20).collect()
}

#[test]
fn libraries_log_in_by_every_method() {
    let berth = Berth::start();
    for library in tested_libraries() {
        for method in ["key", "password", "keyboard-interactive"] {
            library.client(&berth, method, "exec", &["echo in"]).run().succeeds().prints("in\n");
        }
        let wrong = |method: &str| library.client(&berth, method, "exec", &["echo in"]);
        wrong("password").env("PASSWORD", "wrong").run().exits(1).prints("").says("authentication failed");
        wrong("keyboard-interactive").env("PASSWORD", "wrong").run().exits(1).prints("").says("authentication failed");
        wrong("key").env("KEY", key("ed25519-stranger").path).run().exits(1).prints("").says("authentication failed");
    }
}

#[test]
fn libraries_exchange_keys_that_hold_against_quantum_computers() {
    let berth = Berth::with(|config| config["ssh"]["kex"] = "mlkem768x25519-sha256".into());
    for library in tested_libraries().iter().filter(|library| library.is_post_quantum) {
        library.client(&berth, "key", "exec", &["echo in"]).run().succeeds().prints("in\n");
    }
}

#[test]
fn libraries_run_commands_and_learn_how_they_end() {
    let berth = Berth::start();
    for library in tested_libraries() {
        let exec = |command: &str| library.client(&berth, "key", "exec", &[command]);
        // Dropbear's may hang after more than that, with sshd, too.
        let bytes = &all_bytes()[..10_000];
        let ran = exec("cat; echo problem >&2; exit 7").input(bytes).run().exits(7).says("problem\n");
        assert!(ran.stdout == bytes, "{ran:?}");
        exec("exit 255").run().exits(255);
        exec("no-such-command").run().exits(127).says("no-such-command");
        let killed = exec("kill -TERM $$").run();
        assert_eq!(
            (killed.stderr == "signal TERM\n", killed.code != Some(0)),
            (library.knows_signals, true),
            "{killed:?}"
        );
    }
}

#[test]
fn libraries_have_terminals() {
    let berth = Berth::start();
    for library in tested_libraries() {
        let ran = library.client(&berth, "key", "terminal", &["stty size; echo $TERM; tty; exit 3"]).run();
        ran.exits(3).prints("40 100\r\nvt220\r\n/dev/pts/0\r\n");
    }
}

/// Listens, and answers whoever connects, once all was said.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((this_machine(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut words = b"you said ".to_vec();
            // One that breaks off fails its own test.
            let _ = client.and_then(|mut client| client.read_to_end(&mut words).and_then(|_| client.write_all(&words)));
        }
    });
    address
}

#[test]
fn libraries_forward_ports_both_ways() {
    let berth = Berth::with(on_this_machines_network);
    let (host, port) = (&*this_machine(), echo().port().to_string());
    for library in tested_libraries() {
        library
            .client(&berth, "key", "connect", &[host, &port])
            .input("hello")
            .run()
            .succeeds()
            .prints("you said hello");
        library.client(&berth, "key", "listen", &[]).run().succeeds().prints("you said hello\n");
        let refused = library.client(&berth, "key", "connect", &[host, "1"]).run();
        assert!(refused.code != Some(0) && refused.stderr.contains(library.refusal), "{refused:?}");
    }
}

#[test]
fn a_signal_request_reaches_the_command_but_not_a_forced_one() {
    let command = "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.1; done";
    let signal = |berth: &Berth, name: &str| LIBRARIES[3].client(berth, "key", "signal", &[name, command]).run();
    let berth = Berth::start();
    signal(&berth, "USR1").exits(3).prints("ready\ncaught\n");
    signal(&berth, "KILL").exits(255).prints("ready\n").says("signal KILL");
    let forced = Berth::with(|config| config["security"]["forceCommand"] = "echo ready; sleep 2; echo calm".into());
    signal(&forced, "KILL").exits(0).prints("ready\ncalm\n");
}

#[test]
fn a_client_that_has_said_it_opens_no_more_sessions_and_does_is_sent_away() {
    let berth = Berth::start();
    let ran = LIBRARIES[3].client(&berth, "key", "last-session", &[]).run().succeeds();
    assert!(ran.text().contains("additional sessions disabled"), "{ran:?}");
}

#[test]
fn libraries_carry_files() {
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["container"]["image"] = "berth-test/scratch".into();
    });
    let (near, back) = (berth.path("near"), berth.path("back"));
    let mut expected = all_bytes();
    fs::write(&near, &expected).unwrap();
    expected[3..8].copy_from_slice(b"berth");
    for library in tested_libraries() {
        let names = [near.to_str().unwrap(), "/file", back.to_str().unwrap()];
        library.client(&berth, "key", "files", &names).run().succeeds();
        assert!(fs::read(&back).unwrap() == expected, "{}", library.program);
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn putty_and_dropbear_run_commands_and_learn_how_they_end() {
    let berth = Berth::start();
    for client in PROGRAMS {
        let exec = |command: &str| client(&berth, &[]).arg(command);
        // Dropbear's may hang after more than that, with sshd, too.
        let bytes = &all_bytes()[..10_000];
        let ran = exec("cat; echo problem >&2; exit 7").input(bytes).run().exits(7).says("problem\n");
        assert!(ran.stdout == bytes, "{ran:?}");
        exec("no-such-command").run().exits(127).says("no-such-command");
    }
    // Dropbear's does not look at signals.
    plink(&berth, &["-v"]).arg("kill -TERM $$").run().exits(128).says("signal \"TERM\"");
}

#[test]
fn no_client_takes_a_session_that_the_server_ends_for_success() {
    let mut berth = Berth::start();
    let start = |client: Client| {
        let running = client.arg("echo in; sleep 1000").stdin(Stdio::piped()).spawn();
        running.stdout.line("in");
        running
    };
    let openssh = start(berth.ssh(["-T", "berth"]));
    let [plink, dbclient] = PROGRAMS.map(|client| start(client(&berth, &[])));
    berth.end(Signal::TERM).succeeds();
    openssh.wait().exits(255).says("Received disconnect from 127.0.0.1").says("the server is shutting down");
    let plink = plink.wait();
    assert_ne!(plink.code, Some(0), "{plink:?}");
    dbclient.wait().exits(255);
}

#[test]
fn putty_and_dropbear_have_terminals() {
    let berth = Berth::start();
    for client in PROGRAMS {
        let command = client(&berth, &["-t"]).arg("stty size; tty; exit 3");
        let mut terminal = Terminal::open(&command, 33, 99, "");
        terminal.shows("33 99\r\n/dev/pts/0\r\n");
        terminal.wait().exits(3);
    }
}

#[test]
fn putty_and_dropbear_forward_ports_both_ways() {
    let berth = Berth::with(on_this_machines_network);
    for client in PROGRAMS {
        let (near, far, echo) = (free_port(), free_port(), echo());
        let forwards = [format!("{near}:{echo}"), format!("{far}:{echo}")];
        let command = format!("printf hello | nc 127.0.0.1 {far}; echo; cat");
        let client = client(&berth, &["-L", &forwards[0], "-R", &forwards[1]]).arg(command);
        let running = client.stdin(Stdio::piped()).spawn();
        running.stdout.line("you said hello");
        let mut connection = TcpStream::connect(("127.0.0.1", near)).unwrap();
        connection.write_all(b"hello").unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "you said hello");
        running.wait().succeeds();
    }
}
