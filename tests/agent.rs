//! `berth agent` as an ordinary process of this machine, with the test as the server and the client in one.

use std::collections::VecDeque;
use std::io::{Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use berth::connection::frame::{self, HELLO, VERSION};
use berth::connection::message::{
    ChannelRequest, GlobalRequest, MAXIMUM_PACKET, Open, WINDOW, bare, number, window_adjust,
};
use berth::connection::wire::{Reader, Write};

/// Nothing here takes that long.
const DEADLINE: Duration = Duration::from_secs(20);

/// The server's and the client's part.
struct Server {
    agent: Child,
    stream: UnixStream,
    messages: Receiver<Vec<u8>>,
    /// Messages that came while the test waited for others.
    early: VecDeque<Vec<u8>>,
    directory: PathBuf,
}

/// What a session sent, until it was closed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Everything but data and windows, in order, in words.
    events: Vec<String>,
}

impl Outcome {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).replace('\r', "")
    }

    fn error(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    fn events(&self) -> String {
        self.events.join(", ")
    }
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[], &[])
    }

    fn start_with(environment: &[(&str, &str)], command: &[&str]) -> Self {
        let mut server = Self::connect(command);
        let mut specific = Vec::new();
        specific.put_u32(VERSION);
        specific.put_u32(environment.len() as u32);
        for (name, value) in environment {
            specific.put_string(name);
            specific.put_string(value);
        }
        server.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode());
        let hello = server.next();
        let hello = GlobalRequest::decode(&hello[1..]).unwrap();
        assert_eq!((hello.name, hello.want_reply), (HELLO, false));
        let mut fields = Reader::new(hello.specific);
        assert_eq!((fields.u32(), fields.string()), (Ok(VERSION), Ok(&b"session,sftp"[..])));
        server
    }

    /// Starts an agent, without a hello.
    fn connect(command: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("berth-agent-{}-{count}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let socket = directory.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        // An ignored signal would be inherited by every program, if nobody did anything about it.
        let agent = Command::new("sh")
            .args(["-c", "trap '' USR2; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_berth"), "agent", "--socket"])
            .arg(&socket)
            .arg("--")
            .args(command)
            .env("FROM_IMAGE", "image")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut incoming = stream.try_clone().unwrap();
        let (sender, messages) = mpsc::channel();
        // Always reads, so that no write of the test ever waits for itself. Ends with the stream.
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut chunk = vec![0; 1 << 18];
            while let Ok(count @ 1..) = incoming.read(&mut chunk) {
                bytes.extend_from_slice(&chunk[..count]);
                let mut rest = &bytes[..];
                while let Some((message, after)) = frame::split(rest).unwrap() {
                    let _ = sender.send(message.to_vec());
                    rest = after;
                }
                bytes = rest.to_vec();
            }
        });
        Server { agent, stream, messages, early: VecDeque::new(), directory }
    }

    fn send(&mut self, message: &[u8]) {
        let mut framed = Vec::new();
        frame::append(&mut framed, message);
        self.stream.write_all(&framed).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        self.messages.recv_timeout(DEADLINE).expect("a message from the agent")
    }

    fn next(&mut self) -> Vec<u8> {
        self.early.pop_front().unwrap_or_else(|| self.receive())
    }

    /// The next message of these numbers. Others are kept.
    fn expect(&mut self, numbers: &[u8]) -> Vec<u8> {
        if let Some(at) = self.early.iter().position(|message| numbers.contains(&message[0])) {
            return self.early.remove(at).unwrap();
        }
        loop {
            let message = self.receive();
            if numbers.contains(&message[0]) {
                return message;
            }
            self.early.push_back(message);
        }
    }

    /// Opens a session with a window for what it sends, and returns its number. The client's own is 1000 more.
    fn open_with(&mut self, window: u32, maximum_packet: u32) -> u32 {
        static COUNT: AtomicU32 = AtomicU32::new(1000);
        let sender = COUNT.fetch_add(1, Ordering::Relaxed);
        self.send(&Open { channel_type: b"session", sender, window, maximum_packet, specific: b"" }.encode());
        let confirmation = self.expect(&[number::CHANNEL_OPEN_CONFIRMATION]);
        let mut fields = Reader::new(&confirmation[1..]);
        assert_eq!(fields.u32(), Ok(sender));
        fields.u32().unwrap()
    }

    fn open(&mut self) -> u32 {
        self.open_with(1 << 30, MAXIMUM_PACKET)
    }

    /// Sends a request, and says whether it succeeded.
    fn request(&mut self, channel: u32, name: &str, specific: &[u8]) -> bool {
        self.send(&ChannelRequest { recipient: channel, name: name.as_bytes(), want_reply: true, specific }.encode());
        self.expect(&[number::CHANNEL_SUCCESS, number::CHANNEL_FAILURE])[0] == number::CHANNEL_SUCCESS
    }

    fn string_request(&mut self, channel: u32, name: &str, value: &str) -> bool {
        let mut specific = Vec::new();
        specific.put_string(value);
        self.request(channel, name, &specific)
    }

    fn env(&mut self, channel: u32, name: &str, value: &str) -> bool {
        let mut specific = Vec::new();
        specific.put_string(name);
        specific.put_string(value);
        self.request(channel, "env", &specific)
    }

    fn pty(&mut self, channel: u32, columns: u32, rows: u32, modes: &[u8]) -> bool {
        let mut specific = Vec::new();
        specific.put_string("xterm-test");
        for field in [columns, rows, 640, 480] {
            specific.put_u32(field);
        }
        specific.put_string(modes);
        self.request(channel, "pty-req", &specific)
    }

    fn exec(&mut self, channel: u32, command: &str) {
        assert!(self.string_request(channel, "exec", command));
    }

    fn data(&mut self, channel: u32, bytes: &[u8]) {
        let mut message = bare(number::CHANNEL_DATA, channel);
        message.put_string(bytes);
        self.send(&message);
    }

    fn eof(&mut self, channel: u32) {
        self.send(&bare(number::CHANNEL_EOF, channel));
    }

    fn close(&mut self, channel: u32) {
        self.send(&bare(number::CHANNEL_CLOSE, channel));
    }

    /// Adds the next message to `outcome`.
    fn step(&mut self, outcome: &mut Outcome) {
        let message = self.next();
        let mut fields = Reader::new(&message[1..]);
        let _recipient = fields.u32().unwrap();
        match message[0] {
            number::CHANNEL_DATA => outcome.stdout.extend_from_slice(fields.string().unwrap()),
            number::CHANNEL_EXTENDED_DATA => {
                assert_eq!(fields.u32(), Ok(1));
                outcome.stderr.extend_from_slice(fields.string().unwrap());
            }
            number::CHANNEL_WINDOW_ADJUST => {}
            number::CHANNEL_EOF => outcome.events.push("eof".into()),
            number::CHANNEL_CLOSE => outcome.events.push("close".into()),
            number::CHANNEL_REQUEST => {
                let request = ChannelRequest::decode(&message[1..]).unwrap();
                assert!(!request.want_reply);
                let mut fields = Reader::new(request.specific);
                outcome.events.push(match request.name {
                    b"exit-status" => format!("exit {}", fields.u32().unwrap()),
                    b"exit-signal" => {
                        let (name, dumped) = (fields.utf8().unwrap(), fields.boolean().unwrap());
                        assert_eq!(
                            (fields.string(), fields.string(), fields.end()),
                            (Ok(&b""[..]), Ok(&b""[..]), Ok(()))
                        );
                        format!("signal {name}{}", if dumped { " dumped" } else { "" })
                    }
                    // Its place among the others is up to the scheduler.
                    b"eow@openssh.com" => return,
                    name => panic!("request {}", name.escape_ascii()),
                });
            }
            other => panic!("message {other}"),
        }
    }

    /// Everything until CLOSE.
    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.events.last().is_none_or(|event| event != "close") {
            self.step(&mut outcome);
        }
        outcome
    }

    /// Collects until standard output holds `text`.
    fn until(&mut self, outcome: &mut Outcome, text: &str) {
        while !outcome.text().contains(text) {
            self.step(outcome);
        }
    }

    /// Runs a command without a terminal and without input.
    fn run(&mut self, command: &str) -> Outcome {
        let channel = self.open();
        self.exec(channel, command);
        let outcome = self.outcome();
        self.close(channel);
        outcome
    }

    /// The agent's end: its exit status and what it complained of.
    fn wait(&mut self) -> (ExitStatus, String) {
        let started = Instant::now();
        loop {
            // The stream's end comes with the exit; what is left is a few microseconds.
            match self.messages.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the agent lives on after {:?}", started.elapsed()),
            }
        }
        let status = self.agent.wait().unwrap();
        let mut complaint = String::new();
        self.agent.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        (status, complaint)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What `stat -c %s`-like tools print as a number.
fn number_in(text: &str) -> i32 {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for a process that is not ours to end.
fn wait_for_end(pid: i32) {
    let started = Instant::now();
    while is_running(pid) {
        assert!(started.elapsed() < DEADLINE, "process {pid} lives on");
        thread::yield_now();
    }
}

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
    let mut server = Server::start_with(&[("FROM_SERVER", "server")], &[]);
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
fn output_stops_at_the_window_and_continues_with_it() {
    let mut server = Server::start();
    let channel = server.open_with(1000, 300);
    server.exec(channel, "head -c 2500 /dev/zero; echo err >&2");
    let mut outcome = Outcome::default();
    let mut granted = 1000;
    while granted < 4000 {
        while outcome.stdout.len() + outcome.stderr.len() < granted.min(2504) {
            let before = outcome.stdout.len();
            server.step(&mut outcome);
            assert!(outcome.stdout.len() - before <= 300);
            assert!(outcome.stdout.len() + outcome.stderr.len() <= granted);
        }
        server.send(&window_adjust(channel, 500));
        granted += 500;
    }
    let rest = server.outcome();
    assert_eq!((outcome.stdout.len(), outcome.stderr.as_slice()), (2500, &b"err\n"[..]));
    assert!(rest.stdout.is_empty() && rest.events().ends_with("close"));
}

#[test]
fn a_window_of_zero_does_not_hide_the_end() {
    let mut server = Server::start();
    let channel = server.open_with(0, MAXIMUM_PACKET);
    server.exec(channel, "exit 4");
    assert!(server.outcome().events().contains("exit 4"));
    let channel = server.open_with(3, MAXIMUM_PACKET);
    server.exec(channel, "echo ab; exit 6");
    assert!(server.outcome().events().contains("exit 6"));
}

#[test]
fn output_that_waits_for_the_window_outlives_its_program() {
    let mut server = Server::start();
    let channel = server.open_with(3, MAXIMUM_PACKET);
    server.exec(channel, "echo abcdef; exit 6");
    let mut outcome = Outcome::default();
    while outcome.events() != "exit 6" || outcome.stdout != b"abc" {
        server.step(&mut outcome);
    }
    assert!(!server.request(channel, "barrier", b""));
    server.send(&window_adjust(channel, 100));
    assert_eq!(server.outcome().stdout, b"def\n");
}

#[test]
fn input_beyond_the_window_ends_the_stream() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "sleep 100");
    for _ in 0..WINDOW / MAXIMUM_PACKET {
        server.data(channel, &[0; MAXIMUM_PACKET as usize]);
    }
    assert!(!server.request(channel, "barrier", b""), "a window's worth is taken");
    // The pipe took some, which came back as window; this is more than any pipe takes.
    let mut packet = bare(number::CHANNEL_DATA, channel);
    packet.put_string([0; MAXIMUM_PACKET as usize]);
    let mut framed = Vec::new();
    (0..WINDOW / MAXIMUM_PACKET).for_each(|_| frame::append(&mut framed, &packet));
    let _ = server.stream.write_all(&framed);
    let (status, complaint) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("window"), "{complaint}");
}

#[test]
fn many_channels_run_at_once() {
    let mut server = Server::start();
    let channels: Vec<u32> = (0..100).map(|_| server.open()).collect();
    for channel in &channels {
        server.exec(*channel, "cat; exit 9");
    }
    for channel in &channels {
        server.data(*channel, b"12345");
        server.eof(*channel);
    }
    let mut outcome = Outcome::default();
    while outcome.events.iter().filter(|event| *event == "close").count() < channels.len() {
        server.step(&mut outcome);
    }
    assert_eq!(outcome.stdout, b"12345".repeat(100));
    assert_eq!(outcome.events.iter().filter(|event| *event == "exit 9").count(), 100);
}

#[test]
fn busy_channels_do_not_starve_another() {
    let mut server = Server::start();
    let busy: Vec<u32> = (0..8).map(|_| server.open_with(u32::MAX, MAXIMUM_PACKET)).collect();
    let other = server.open();
    for channel in &busy {
        server.exec(*channel, "exec cat /dev/zero");
    }
    server.exec(other, "echo here; cat");
    let mut outcome = Outcome::default();
    // Cheaper than collecting the zeros.
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < DEADLINE, "the other channel starves");
        let message = server.next();
        if message[0] == number::CHANNEL_DATA && message.ends_with(b"here\n") {
            break;
        }
    }
    for channel in &busy {
        assert!(server.string_request(*channel, "signal", "KILL"));
    }
    server.eof(other);
    while outcome.events.iter().filter(|event| *event == "close").count() < 9 {
        server.step(&mut outcome);
    }
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
    assert!(server.string_request(channel, "signal", "INT"));
    assert!(server.outcome().events().contains("signal INT"));
}

#[test]
fn unknown_requests_and_second_starts_fail() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(!server.request(channel, "x11-req", b""));
    assert!(!server.string_request(channel, "subsystem", "netconf"));
    server.exec(channel, "cat");
    assert!(!server.request(channel, "shell", b""));
    assert!(!server.string_request(channel, "exec", "true"));
    assert!(!server.env(channel, "A", "B"));
}

#[test]
fn the_sftp_subsystem_is_this_program() {
    let mut server = Server::start();
    let channel = server.open();
    assert!(server.string_request(channel, "subsystem", "sftp"));
    assert!(!server.string_request(channel, "signal", "TERM"), "a subsystem gets no signals");
    server.data(channel, &[0, 0, 0, 5, 1, 0, 0, 0, 3]);
    server.eof(channel);
    let outcome = server.outcome();
    assert!(!outcome.stdout.is_empty());
    assert!(outcome.events().contains("exit 0"), "{}", outcome.events());
}

#[test]
fn a_malformed_or_oversized_frame_ends_the_stream() {
    for bytes in [&[0, 0, 0, 2, 90, 0][..], &[0, 0, 0, 0], &[0xff; 8], &[0, 0, 0, 5, 97, 0, 0, 0, 9]] {
        let mut server = Server::start();
        server.stream.write_all(bytes).unwrap();
        let (status, complaint) = server.wait();
        assert_eq!(status.code(), Some(1));
        assert!(complaint.starts_with("berth agent: "), "{complaint}");
    }
}

#[test]
fn another_version_is_refused_in_words() {
    let mut server = Server::connect(&[]);
    server.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &[0, 0, 0, 99, 0, 0, 0, 0] }.encode());
    let (status, complaint) = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("version 99"), "{complaint}");
}

#[test]
fn sessions_are_hung_up_when_the_stream_ends() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "echo $$; exec sleep 100");
    let mut outcome = Outcome::default();
    server.until(&mut outcome, "\n");
    let pid = number_in(&outcome.text());
    assert!(is_running(pid));
    server.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(server.wait().0.code(), Some(0));
    wait_for_end(pid);
}

#[test]
fn sigterm_hangs_sessions_up_tells_their_clients_and_ends_the_agent() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "echo ready; exec sleep 100");
    server.until(&mut Outcome::default(), "ready");
    assert!(Command::new("kill").arg(server.agent.id().to_string()).status().unwrap().success());
    assert!(server.outcome().events().contains("signal HUP"));
    server.close(channel);
    assert_eq!(server.wait().0.code(), Some(0));
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

#[test]
fn end_of_write_closes_the_programs_output() {
    let mut server = Server::start();
    let channel = server.open_with(100_000, MAXIMUM_PACKET);
    server.exec(channel, "trap '' PIPE; cat /dev/zero; echo status $? >&2");
    server.expect(&[number::CHANNEL_DATA]);
    server.send(
        &ChannelRequest { recipient: channel, name: b"eow@openssh.com", want_reply: false, specific: b"" }.encode(),
    );
    server.send(&window_adjust(channel, 100_000));
    let outcome = server.outcome();
    assert!(outcome.error().ends_with("status 1\n"), "{}", outcome.error());
}

#[test]
fn a_program_that_reads_no_input_does_not_stop_the_client() {
    let mut server = Server::start();
    let channel = server.open();
    server.exec(channel, "exec <&-; echo closed; while :; do sleep 0.1; done");
    server.until(&mut Outcome::default(), "closed");
    // Ten windows, each of which is given back.
    let mut window = WINDOW;
    for _ in 0..10 * WINDOW / MAXIMUM_PACKET {
        while window < MAXIMUM_PACKET {
            let message = server.expect(&[number::CHANNEL_WINDOW_ADJUST]);
            window += u32::from_be_bytes(message[5..9].try_into().unwrap());
        }
        server.data(channel, &[0; MAXIMUM_PACKET as usize]);
        window -= MAXIMUM_PACKET;
    }
    assert!(server.string_request(channel, "signal", "KILL"));
}

#[test]
fn a_shell_that_cannot_run_says_so_like_a_shell() {
    let mut server = Server::start();
    let outcome = server.run("/nonexistent/program");
    assert!(outcome.events().contains("exit 127"), "{outcome:?}");
}

/// The bytes that are sent through `cat`.
struct Stream(u64);

impl Stream {
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes()[..eight.len()]);
        }
    }
}

#[test]
fn a_hundred_megabytes_pass_both_ways_byte_for_byte() {
    const PACKET: usize = MAXIMUM_PACKET as usize;
    let mut server = Server::start();
    let channel = server.open_with(WINDOW, MAXIMUM_PACKET);
    server.exec(channel, "cat");
    let (mut sent, mut received) = (Stream(1), Stream(1));
    let (mut to_send, mut window, mut total) = (100 << 20, 0, 0usize);
    let (mut packet, mut expected, mut held) = (vec![0; PACKET], vec![0; PACKET], Vec::new());
    loop {
        while to_send > 0 && window >= PACKET {
            sent.fill(&mut packet);
            server.data(channel, &packet);
            to_send -= PACKET;
            window -= PACKET;
            if to_send == 0 {
                server.eof(channel);
            }
        }
        let message = server.next();
        match message[0] {
            number::CHANNEL_WINDOW_ADJUST => {
                window += u32::from_be_bytes(message[5..9].try_into().unwrap()) as usize;
            }
            number::CHANNEL_DATA => {
                held.extend_from_slice(&message[9..]);
                total += message.len() - 9;
                server.send(&window_adjust(channel, message.len() as u32 - 9));
                let whole = held.len() / PACKET * PACKET;
                for chunk in held[..whole].chunks(PACKET) {
                    received.fill(&mut expected);
                    assert!(chunk == expected, "a difference before byte {total}");
                }
                held.drain(..whole);
            }
            number::CHANNEL_CLOSE => break,
            _ => {}
        }
    }
    assert_eq!(total, 100 << 20);
}

/// `cargo test --release --test agent -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn throughput() {
    const TOTAL: usize = 4 << 30;
    let mut server = Server::start();
    let channel = server.open_with(u32::MAX, MAXIMUM_PACKET);
    let started = Instant::now();
    server.exec(channel, &format!("dd if=/dev/zero bs=256k count={}", (TOTAL - 4096) / (256 << 10)));
    let mut total = 0;
    while let message = server.next()
        && message[0] != number::CHANNEL_CLOSE
    {
        if message[0] == number::CHANNEL_DATA {
            total += message.len() - 9;
        }
    }
    println!("from the container: {:.0} MB/s", total as f64 / started.elapsed().as_secs_f64() / 1e6);

    let channel = server.open();
    let started = Instant::now();
    server.exec(channel, "cat >/dev/null");
    let (mut total, mut window) = (0, 0);
    while total < TOTAL {
        while window < MAXIMUM_PACKET {
            let message = server.expect(&[number::CHANNEL_WINDOW_ADJUST]);
            window += u32::from_be_bytes(message[5..9].try_into().unwrap());
        }
        server.data(channel, &[0; MAXIMUM_PACKET as usize]);
        window -= MAXIMUM_PACKET;
        total += MAXIMUM_PACKET as usize;
    }
    server.eof(channel);
    server.outcome();
    println!("into the container: {:.0} MB/s", total as f64 / started.elapsed().as_secs_f64() / 1e6);
}
