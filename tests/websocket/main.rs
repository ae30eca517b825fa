//! The websocket client against a server that is not ours: the cases of the Autobahn test suite, which `server.py` has.

use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use berth::http::websocket::{self, Error, Incoming, Kind, Opening, WebSocket};
use berth::http::{Address, Client, Deadline, Upgraded};
use rustix::event::PollFlags;

const DEADLINE: Duration = Duration::from_secs(60);

/// The server. Killed when dropped.
struct Server {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start() -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/websocket/server.py");
        // Debian's, for Debian's `websockets`.
        let mut process = Command::new("/usr/bin/python3").arg(script).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Server { process, lines }
    }

    /// Its client, and how many cases it has.
    fn client(&mut self) -> (Client, usize) {
        let line = self.line();
        let (port, count) = line.split_once(' ').unwrap();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: port.parse().unwrap(), tls: None, proxy: None };
        (Client::new(address), count.parse().unwrap())
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the server has ended").unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn open(client: &Client, target: &str) -> WebSocket<Upgraded> {
    match websocket::open(client, target, &[], &["other", "test"], Deadline::after(DEADLINE)).unwrap() {
        Opening::Open(socket, protocol) => {
            assert_eq!(protocol, "test");
            socket
        }
        Opening::Refused(response) => panic!("status {}", response.status()),
    }
}

fn wait(socket: &WebSocket<Upgraded>, flags: PollFlags) {
    let ready = Deadline::after(DEADLINE).poll([(socket.as_fd(), flags)]).unwrap();
    assert_eq!(ready, [true], "nothing happens");
}

/// Sends each message back until the connection is closed, by which side it may be.
fn echo(mut socket: WebSocket<Upgraded>) {
    let would_block = |error: &Error| matches!(error, Error::Io(error) if error.kind() == ErrorKind::WouldBlock);
    let mut message = Vec::new();
    loop {
        let whole = match socket.read() {
            Ok(Incoming::Data { kind, last, bytes, .. }) => {
                message.extend_from_slice(bytes);
                last.then_some(kind)
            }
            Ok(Incoming::Pong) => None,
            Ok(Incoming::Close(_)) | Err(Error::Protocol(_)) => break,
            Err(error) if would_block(&error) => {
                wait(&socket, PollFlags::IN);
                None
            }
            // The server has seen enough.
            Err(Error::Lost | Error::Io(_)) => return,
            Err(error) => panic!("{error}"),
        };
        if let Some(kind) = whole {
            socket.send(kind, &[&std::mem::take(&mut message)]).unwrap();
            flush(&mut socket);
        }
    }
    flush(&mut socket);
    // Were there something unread in it, closing it would take back what was sent.
    wait(&socket, PollFlags::RDHUP);
}

fn flush(socket: &mut WebSocket<Upgraded>) {
    while let Err(Error::Io(error)) = socket.flush() {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        wait(socket, PollFlags::OUT);
    }
}

#[test]
fn the_client_passes_the_cases_of_autobahn() {
    let mut server = Server::start();
    let (client, count) = server.client();
    let mut failed = Vec::new();
    for case in 0..count {
        echo(open(&client, &format!("/{case}")));
        let line = server.line();
        if !line.starts_with("ok ") {
            failed.push(line);
        }
    }
    assert!(failed.is_empty(), "{} of {count} cases:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_client_can_ask_for_a_sign_of_life_and_close() {
    let mut server = Server::start();
    let mut socket = open(&server.client().0, "/client");
    let next = |socket: &mut WebSocket<Upgraded>| {
        wait(socket, PollFlags::IN);
        match socket.read().unwrap() {
            Incoming::Pong => "pong".to_owned(),
            Incoming::Close(close) => format!("{close:?}"),
            data => panic!("{data:?}"),
        }
    };
    socket.ping().unwrap();
    assert_eq!(next(&mut socket), "pong");
    socket.close(1000).unwrap();
    assert!(matches!(socket.send(Kind::Text, &[b"late"]), Err(Error::Closed)));
    assert_eq!(next(&mut socket), format!("{:?}", Some((1000, ""))));
    assert!(matches!(socket.read(), Err(Error::Closed)));
}
