//! The client against a scripted server on a unix socket.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use super::*;

/// What a server does with one connection.
type Script = fn(&mut UnixStream);

struct Server {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves one connection after the other, each by its script, and then refuses more.
    fn new(scripts: &'static [Script]) -> (Server, Client) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-http-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || scripts.iter().for_each(|script| script(&mut listener.accept().unwrap().0)));
        let client = Client::new(Address::Unix(path.clone()));
        (Server { path, thread: Some(thread) }, client)
    }

    /// Waits until all scripts have run.
    fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads from the client up to and with `end`.
fn expect(stream: &mut UnixStream, end: &str) -> String {
    let (mut got, mut byte) = (Vec::new(), [0]);
    while !got.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    String::from_utf8(got).unwrap()
}

fn answer(stream: &mut UnixStream, text: &str) {
    expect(stream, "\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn request(method: &'static str) -> Request<'static, 'static> {
    Request { method, target: "/x", fields: &[], body: Body::Empty }
}

fn body(client: &Client, method: &'static str) -> Result<Vec<u8>, Error> {
    client.send(request(method), soon())?.bytes(100, soon())
}

#[test]
fn a_connection_is_used_again_once_its_body_was_read() {
    let (server, client) = Server::new(&[|stream| (0..3).for_each(|_| answer(stream, OK))]);
    for _ in 0..3 {
        assert_eq!(body(&client, "POST").unwrap(), b"ok");
    }
    server.join();
}

#[test]
fn a_connection_whose_body_was_not_read_is_closed() {
    let (server, client) = Server::new(&[
        |stream| {
            answer(stream, OK);
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        },
        |stream| answer(stream, OK),
    ]);
    drop(client.send(request("GET"), soon()).unwrap());
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    server.join();
}

#[test]
fn a_kept_connection_that_the_server_has_closed_is_not_used() {
    let (server, client) = Server::new(&[|stream| answer(stream, OK), |stream| answer(stream, OK)]);
    assert_eq!(body(&client, "POST").unwrap(), b"ok");
    // The first script's end closes its connection; only then does the server accept the next.
    let kept = client.idle().pop().unwrap();
    assert_eq!(soon().poll([(kept.transport.as_fd(), rustix::event::PollFlags::IN)]).unwrap(), [true]);
    client.keep(kept);
    assert_eq!(body(&client, "POST").unwrap(), b"ok", "not even a POST meets the stale connection");
    server.join();
}

#[test]
fn a_connection_with_more_than_its_answer_is_not_kept() {
    let (server, client) = Server::new(&[|stream| answer(stream, &format!("{OK}HTTP/1.1 200 OK\r\n\r\nforged"))]);
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    assert!(client.idle().is_empty());
    server.join();
}

/// Answers once, and closes when the second request comes.
fn answer_then_close(stream: &mut UnixStream) {
    answer(stream, OK);
    expect(stream, "\r\n\r\n");
}

#[test]
fn an_idempotent_request_is_sent_again_when_a_kept_connection_is_closed_under_it() {
    let (server, client) = Server::new(&[answer_then_close, |stream| answer(stream, OK)]);
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    server.join();
}

#[test]
fn another_request_is_never_sent_twice() {
    let (server, client) = Server::new(&[answer_then_close]);
    assert_eq!(body(&client, "POST").unwrap(), b"ok");
    assert!(matches!(body(&client, "POST"), Err(Error::Closed(Phase::Head))));
    server.join();
}

#[test]
fn a_silent_server_ends_the_wait_in_the_phase_it_is_in() {
    let (server, client) = Server::new(&[
        |stream| {
            answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na");
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        },
        |stream| {
            expect(stream, "\r\n\r\n");
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        },
    ]);
    let short = || Deadline::after(Duration::from_millis(20));
    let mut response = client.send(request("GET"), soon()).unwrap();
    assert!(matches!(response.bytes(10, short()), Err(Error::TimedOut(Phase::Body))));
    drop(response);
    let waiting = client.send(request("GET"), short());
    assert!(matches!(waiting, Err(Error::TimedOut(Phase::Head))), "{waiting:?}");
    server.join();
}

#[test]
fn a_line_survives_a_timeout_in_its_middle() {
    let (server, client) = Server::new(&[|stream| {
        answer(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        expect(stream, "go on");
        stream.write_all(b"6\r\n two\r\n\r\n0\r\n\r\n").unwrap();
    }]);
    let mut response = client.send(request("GET"), soon()).unwrap();
    assert!(matches!(
        response.line(100, Deadline::after(Duration::from_millis(20))),
        Err(Error::TimedOut(Phase::Body))
    ));
    if let Some(connection) = &mut response.connection {
        connection.transport.write_all(b"go on").unwrap();
    }
    assert_eq!(response.line(100, soon()).unwrap().unwrap(), b"one two");
    server.join();
}

#[test]
fn lines_are_split_whatever_their_ends_and_limited() {
    let (server, client) = Server::new(&[|stream| {
        answer(stream, "HTTP/1.1 200 OK\r\n\r\na\r\n\nlast");
    }]);
    let mut response = client.send(request("GET"), soon()).unwrap();
    let mut lines = Vec::new();
    while let Some(line) = response.line(100, soon()).unwrap() {
        lines.push(String::from_utf8(line).unwrap());
    }
    assert_eq!(lines, ["a", "", "last"]);
    server.join();

    let (server, client) = Server::new(&[|stream| answer(stream, "HTTP/1.1 200 OK\r\n\r\n0123456789")]);
    let mut response = client.send(request("GET"), soon()).unwrap();
    assert!(matches!(response.line(5, soon()), Err(Error::TooLarge(5))));
    server.join();
}

#[test]
fn a_body_longer_than_its_limit_is_refused() {
    let (server, client) = Server::new(&[|stream| {
        answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n");
        stream.write_all(&[b'x'; 101]).unwrap();
    }]);
    assert!(matches!(body(&client, "GET"), Err(Error::TooLarge(100))));
    server.join();
}

#[test]
fn a_body_that_is_cut_short_is_an_error() {
    let (server, client) = Server::new(&[|stream| answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")]);
    assert!(matches!(body(&client, "GET"), Err(Error::Closed(Phase::Body))));
    server.join();
}

#[test]
fn interim_responses_are_skipped() {
    let (server, client) = Server::new(&[|stream| answer(stream, &format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"))]);
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    server.join();
}

#[test]
fn a_stream_is_sent_chunked_or_with_its_length() {
    let (server, client) = Server::new(&[|stream| {
        let head = expect(stream, "\r\n\r\n");
        assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
        assert_eq!(expect(stream, "0\r\n\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        stream.write_all(OK.as_bytes()).unwrap();
        assert!(expect(stream, "\r\n\r\n").contains("Content-Length: 5\r\n"));
        assert_eq!(expect(stream, "hello"), "hello");
        stream.write_all(OK.as_bytes()).unwrap();
    }]);
    for length in [None, Some(5)] {
        let mut source = b"hello".as_slice();
        let request = Request { body: Body::Stream(&mut source, length), ..request("PUT") };
        assert_eq!(client.send(request, soon()).unwrap().bytes(10, soon()).unwrap(), b"ok");
    }
    server.join();
}

#[test]
fn a_stream_that_is_shorter_than_promised_is_an_error() {
    let (server, client) = Server::new(&[|stream| {
        expect(stream, "hello");
    }]);
    let mut source = b"hello".as_slice();
    let request = Request { body: Body::Stream(&mut source, Some(6)), ..request("PUT") };
    assert!(matches!(client.send(request, soon()), Err(Error::Source(_))));
    server.join();
}

#[test]
fn a_refusal_before_the_streams_end_is_the_answer() {
    let (server, client) = Server::new(&[|stream| {
        answer(stream, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    }]);
    let request = Request { body: Body::Stream(&mut io::repeat(0), None), ..request("PUT") };
    assert_eq!(client.send(request, soon()).unwrap().status(), 404);
    server.join();
}

#[test]
fn an_upgraded_connection_gives_what_was_read_already_and_then_the_socket() {
    for head in ["HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(format!("{head}early").as_bytes()).unwrap();
        let client = Client::new(Address::Unix("/nonexistent".into()));
        let connection = Connection { transport: Transport::Unix(ours), buffer: Vec::new(), start: 0 };
        let exchange = Exchange { client: client.clone(), connection, answers_head: false };
        let mut raw = exchange.response(soon()).unwrap().upgrade().unwrap();
        let mut buffer = [0; 10];
        assert_eq!(raw.read(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"early");
        assert_eq!(raw.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        raw.write_all(b"up").unwrap();
        let mut up = [0; 2];
        theirs.read_exact(&mut up).unwrap();
        assert_eq!(&up, b"up");
        assert!(client.idle().is_empty());
    }
}

#[test]
fn an_ordinary_answer_is_not_upgraded() {
    let (server, client) = Server::new(&[|stream| answer(stream, OK)]);
    let response = client.send(request("POST"), soon()).unwrap();
    assert!(matches!(response.upgrade(), Err(Error::NotUpgraded(200))));
    server.join();
}

#[test]
fn an_abandoned_exchange_gives_its_connection_back_when_it_is_answered() {
    let (server, client) = Server::new(&[|stream| (0..2).for_each(|_| answer(stream, OK))]);
    let exchange = client.begin(request("POST"), soon()).unwrap();
    assert_eq!(soon().poll([(exchange.as_fd(), rustix::event::PollFlags::IN)]).unwrap(), [true]);
    exchange.abandon();
    assert_eq!(body(&client, "GET").unwrap(), b"ok");
    server.join();
}

#[test]
fn a_server_that_is_not_there_is_a_connect_error() {
    let client = Client::new(Address::Unix("/nonexistent/socket".into()));
    assert!(matches!(body(&client, "GET"), Err(Error::Connect(e)) if e.kind() == io::ErrorKind::NotFound));
}
