//! The test as the server and the client in one.

use std::collections::VecDeque;
use std::io::{Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use berth::connection::forward::Listening;
use berth::connection::frame::{self, HELLO, VERSION};
use berth::connection::hello::Hello;
use berth::connection::message::{
    ChannelRequest, GlobalRequest, MAXIMUM_PACKET, Open, WINDOW, bare, number, open_confirmation,
};
use berth::connection::start::starts;
use berth::connection::wire::{Reader, Write};

/// Nothing here takes that long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The server's and the client's part.
pub struct Server {
    pub agent: Child,
    pub stream: UnixStream,
    messages: Receiver<Vec<u8>>,
    /// Messages that came while the test waited for others.
    early: VecDeque<Vec<u8>>,
    /// What is set for every program.
    environment: Vec<(String, String)>,
    /// Of this agent alone.
    pub directory: PathBuf,
}

/// What a session sent, until it was closed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Everything but data and windows, in order, in words.
    pub events: Vec<String>,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).replace('\r', "")
    }

    pub fn error(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn events(&self) -> String {
        self.events.join(", ")
    }
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[], Listening::default())
    }

    pub fn start_with(environment: &[(&str, &str)], listening: Listening) -> Self {
        let mut server = Self::connect();
        server.environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        server.send(&Hello { listening, ..Hello::default() }.encode());
        let hello = server.next();
        let hello = GlobalRequest::decode(&hello[1..]).unwrap();
        assert_eq!((hello.name, hello.want_reply), (HELLO, false));
        let mut fields = Reader::new(hello.specific);
        assert_eq!(fields.u32(), Ok(VERSION));
        assert!(fields.utf8().unwrap().starts_with("session,sftp,direct-tcpip,"));
        server
    }

    /// Starts an agent, without a hello.
    pub fn connect() -> Self {
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
            .env("FROM_IMAGE", "image")
            .env("XAUTHORITY", directory.join("Xauthority"))
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
        Server { agent, stream, messages, early: VecDeque::new(), environment: Vec::new(), directory }
    }

    pub fn send(&mut self, message: &[u8]) {
        let mut framed = Vec::new();
        frame::append(&mut framed, message);
        self.stream.write_all(&framed).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        self.messages.recv_timeout(DEADLINE).expect("a message from the agent")
    }

    pub fn next(&mut self) -> Vec<u8> {
        self.early.pop_front().unwrap_or_else(|| self.receive())
    }

    /// A message of these numbers that came while the test waited for others.
    pub fn kept(&mut self, numbers: &[u8]) -> Option<Vec<u8>> {
        let at = self.early.iter().position(|message| numbers.contains(&message[0]))?;
        self.early.remove(at)
    }

    /// The next message of these numbers. Others are kept.
    pub fn expect(&mut self, numbers: &[u8]) -> Vec<u8> {
        if let Some(message) = self.kept(numbers) {
            return message;
        }
        loop {
            let message = self.receive();
            if numbers.contains(&message[0]) {
                return message;
            }
            self.early.push_back(message);
        }
    }

    /// Opens a channel, and returns its number, or why there is none: the reason's code and text.
    pub fn open_channel(&mut self, channel_type: &str, window: u32, specific: &[u8]) -> Result<u32, (u32, String)> {
        self.begin_open(channel_type, window, MAXIMUM_PACKET, specific);
        self.finish_open()
    }

    /// Sends an open. The client's own number is 1000 or more.
    pub fn begin_open(&mut self, channel_type: &str, window: u32, maximum_packet: u32, specific: &[u8]) -> u32 {
        static COUNT: AtomicU32 = AtomicU32::new(1000);
        let sender = COUNT.fetch_add(1, Ordering::Relaxed);
        let channel_type = channel_type.as_bytes();
        self.send(&Open { channel_type, sender, window, maximum_packet, specific }.encode());
        sender
    }

    /// The answer to an open.
    pub fn finish_open(&mut self) -> Result<u32, (u32, String)> {
        let answer = self.expect(&[number::CHANNEL_OPEN_CONFIRMATION, number::CHANNEL_OPEN_FAILURE]);
        let mut fields = Reader::new(&answer[1..]);
        let (_recipient, second) = (fields.u32().unwrap(), fields.u32().unwrap());
        if answer[0] == number::CHANNEL_OPEN_CONFIRMATION {
            return Ok(second);
        }
        Err((second, fields.utf8().unwrap().to_owned()))
    }

    /// Opens a session with a window for what it sends, and returns its number.
    pub fn open_with(&mut self, window: u32, maximum_packet: u32) -> u32 {
        self.begin_open("session", window, maximum_packet, b"");
        self.finish_open().unwrap()
    }

    pub fn open(&mut self) -> u32 {
        self.open_with(1 << 30, MAXIMUM_PACKET)
    }

    /// Sends a request, and says whether it succeeded.
    pub fn request(&mut self, channel: u32, name: &str, specific: &[u8]) -> bool {
        let (name, mut specific) = (name.as_bytes(), specific.to_vec());
        if starts(name) {
            specific.put_u32(self.environment.len() as u32);
            for (name, value) in &self.environment {
                specific.put_string(name);
                specific.put_string(value);
            }
        }
        self.send(&ChannelRequest { recipient: channel, name, want_reply: true, specific: &specific }.encode());
        self.expect(&[number::CHANNEL_SUCCESS, number::CHANNEL_FAILURE])[0] == number::CHANNEL_SUCCESS
    }

    pub fn string_request(&mut self, channel: u32, name: &str, value: &str) -> bool {
        let mut specific = Vec::new();
        specific.put_string(value);
        self.request(channel, name, &specific)
    }

    pub fn env(&mut self, channel: u32, name: &str, value: &str) -> bool {
        let mut specific = Vec::new();
        specific.put_string(name);
        specific.put_string(value);
        self.request(channel, "env", &specific)
    }

    pub fn pty(&mut self, channel: u32, columns: u32, rows: u32, modes: &[u8]) -> bool {
        let mut specific = Vec::new();
        specific.put_string("xterm-test");
        for field in [columns, rows, 640, 480] {
            specific.put_u32(field);
        }
        specific.put_string(modes);
        self.request(channel, "pty-req", &specific)
    }

    pub fn exec(&mut self, channel: u32, command: &str) {
        assert!(self.string_request(channel, "exec", command));
    }

    /// Sends a global request, and returns what its success says, if it succeeds.
    pub fn global_request(&mut self, name: &str, specific: &[u8]) -> Option<Vec<u8>> {
        self.send(&GlobalRequest { name: name.as_bytes(), want_reply: true, specific }.encode());
        let reply = self.expect(&[number::REQUEST_SUCCESS, number::REQUEST_FAILURE]);
        (reply[0] == number::REQUEST_SUCCESS).then(|| reply[1..].to_vec())
    }

    /// The agent's next open: its channel type, its number for it, and what it says besides.
    pub fn opened(&mut self) -> (String, u32, Vec<u8>) {
        let message = self.expect(&[number::CHANNEL_OPEN]);
        let open = Open::decode(&message[1..]).unwrap();
        assert_eq!((open.window, open.maximum_packet), (WINDOW, MAXIMUM_PACKET));
        (String::from_utf8(open.channel_type.into()).unwrap(), open.sender, open.specific.into())
    }

    /// Confirms the agent's open.
    pub fn confirm(&mut self, channel: u32) {
        self.send(&open_confirmation(channel, 7, 1 << 30));
    }

    pub fn data(&mut self, channel: u32, bytes: &[u8]) {
        let mut message = bare(number::CHANNEL_DATA, channel);
        message.put_string(bytes);
        self.send(&message);
    }

    pub fn eof(&mut self, channel: u32) {
        self.send(&bare(number::CHANNEL_EOF, channel));
    }

    pub fn close(&mut self, channel: u32) {
        self.send(&bare(number::CHANNEL_CLOSE, channel));
    }

    /// Adds the next message to `outcome`.
    pub fn step(&mut self, outcome: &mut Outcome) {
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
    pub fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.events.last().is_none_or(|event| event != "close") {
            self.step(&mut outcome);
        }
        outcome
    }

    /// Collects until standard output holds `text`.
    pub fn until(&mut self, outcome: &mut Outcome, text: &str) {
        while !outcome.text().contains(text) {
            self.step(outcome);
        }
    }

    /// Runs a command without a terminal and without input.
    pub fn run(&mut self, command: &str) -> Outcome {
        let channel = self.open();
        self.exec(channel, command);
        let outcome = self.outcome();
        self.close(channel);
        outcome
    }

    /// The agent's end: its exit status and what it complained of.
    pub fn wait(&mut self) -> (ExitStatus, String) {
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
pub fn number_in(text: &str) -> i32 {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

pub fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for a process that is not ours to end.
pub fn wait_for_end(pid: i32) {
    let started = Instant::now();
    while is_running(pid) {
        assert!(started.elapsed() < DEADLINE, "process {pid} lives on");
        thread::yield_now();
    }
}
