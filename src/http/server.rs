//! A small HTTP/1.1 server, for pages that monitors look at: one thread, few connections, short requests without a body.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Deadline;

/// The most connections at once: then the oldest one makes room.
const MOST: usize = 32;

/// The longest request, in bytes.
const LONGEST: usize = 8 * 1024;

/// How long a connection may take from its beginning to its end.
const TIME: Duration = Duration::from_secs(5);

/// Stack of the thread, in bytes.
const STACK: usize = 256 * 1024;

/// What is answered.
#[derive(Clone, Debug)]
pub struct Page {
    /// The status, and its words.
    pub status: &'static str,
    /// The type of its content.
    pub content_type: &'static str,
    /// The content.
    pub body: String,
}

impl Page {
    /// A line of text.
    pub fn line(status: &'static str, line: &str) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n") }
    }
}

/// How a page is found, by its path and the query behind it.
pub type FindPage = dyn Fn(&str, &str) -> Page + Send;

/// Where pages are served, and how one is found by its path.
pub struct Endpoint {
    /// A listening socket, non-blocking.
    pub listener: TcpListener,
    /// Gives the page of a path and a query.
    pub page: Box<FindPage>,
}

/// A running server. Ends when dropped, and its connections with it.
pub struct PageServer {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// A client.
struct Connection {
    socket: TcpStream,
    endpoint: usize,
    deadline: Deadline,
    request: Vec<u8>,
    /// What is left of it, once the request is whole.
    answer: Option<Vec<u8>>,
}

impl PageServer {
    /// Serves these.
    pub fn start(endpoints: Vec<Endpoint>) -> io::Result<PageServer> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new().name("http".into()).stack_size(STACK);
        let thread = thread.spawn(move || serve(&endpoints, &stopped))?;
        Ok(PageServer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(endpoints: &[Endpoint], stopped: &UnixStream) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(stopped, PollFlags::IN)];
        fds.extend(endpoints.iter().map(|endpoint| PollFd::new(&endpoint.listener, PollFlags::IN)));
        fds.extend(connections.iter().map(|connection| {
            let flags = if connection.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&connection.socket, flags)
        }));
        let next = connections.iter().map(|connection| connection.deadline.remaining()).min();
        let timeout = next.map(|left| {
            // A millisecond more, so that the deadline has passed then.
            let left = left + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        if !matches!(poll(&mut fds, timeout.as_ref()), Ok(_) | Err(rustix::io::Errno::INTR)) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        let (listeners, clients) = ready[1..].split_at(endpoints.len());
        let mut clients = clients.iter();
        connections.retain_mut(|connection| {
            let is_ready = clients.next().is_some_and(|ready| *ready);
            !connection.deadline.has_passed() && (!is_ready || connection.advance(endpoints).unwrap_or(false))
        });
        for (index, _) in listeners.iter().enumerate().filter(|(_, ready)| **ready) {
            if let Ok((socket, _)) = endpoints[index].listener.accept()
                && socket.set_nonblocking(true).is_ok()
            {
                if connections.len() >= MOST {
                    connections.remove(0);
                }
                let (deadline, request) = (Deadline::after(TIME), Vec::new());
                connections.push(Connection { socket, endpoint: index, deadline, request, answer: None });
            }
        }
    }
}

impl Connection {
    /// Reads or writes what is there; whether there is more to do.
    fn advance(&mut self, endpoints: &[Endpoint]) -> io::Result<bool> {
        if let Some(answer) = &mut self.answer {
            let count = self.socket.write(answer)?;
            answer.drain(..count);
            if answer.is_empty() {
                self.socket.shutdown(Shutdown::Write)?;
            }
            return Ok(!answer.is_empty());
        }
        let mut piece = [0; 2048];
        let count = self.socket.read(&mut piece)?;
        self.request.extend_from_slice(&piece[..count]);
        if self.request.windows(4).any(|window| window == b"\r\n\r\n") {
            self.answer = Some(answer(&self.request, &*endpoints[self.endpoint].page));
        }
        Ok(count > 0 && self.request.len() <= LONGEST)
    }
}

/// Answers a whole request.
fn answer(request: &[u8], page: &dyn Fn(&str, &str) -> Page) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().and_then(|line| str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split(' ');
    let (page, has_body) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) if version.starts_with("HTTP/1.") => match method {
            "GET" | "HEAD" => {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                (page(path, query), method == "GET")
            }
            _ => (Page::line("405 Method Not Allowed", "only GET and HEAD"), true),
        },
        _ => (Page::line("400 Bad Request", "not a request of HTTP/1.1"), true),
    };
    let Page { status, content_type, body } = page;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    );
    [head.as_str(), if has_body { &body } else { "" }].concat().into_bytes()
}

/// Whatever is asked, there is an answer.
pub(crate) fn fuzz(request: &[u8]) {
    let page = |path: &str, _: &str| Page::line("200 OK", path);
    assert!(answer(request, &page).starts_with(b"HTTP/1.1 "));
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::{Endpoint, MOST, Page, PageServer};

    fn start() -> (PageServer, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let page = |path: &str, _: &str| match path {
            "/there" => Page::line("200 OK", "here"),
            _ => Page::line("404 Not Found", "not here"),
        };
        (PageServer::start(vec![Endpoint { listener, page: Box::new(page) }]).unwrap(), port)
    }

    fn ask(port: u16, request: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn pages_are_found_by_their_paths() {
        let (_server, port) = start();
        let answer = ask(port, "GET /there?x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhere\n"), "{answer}");
        // What is for one browser alone is kept nowhere, and taken for nothing else.
        for field in ["Content-Length: 5", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"] {
            let answer = ask(port, "HEAD /there HTTP/1.0\r\n\r\n");
            assert!(answer.contains(&format!("\r\n{field}\r\n")) && answer.ends_with("\r\n\r\n"), "{answer}");
        }
        assert!(ask(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(port, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(ask(port, "hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn what_is_too_long_or_does_not_end_gets_no_answer() {
        let (_server, port) = start();
        assert_eq!(ask(port, &"x".repeat(10_000)), "");
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.write_all(b"GET / HT").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn idle_connections_make_room() {
        let (_server, port) = start();
        let _idle: Vec<_> = (0..MOST).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        assert!(ask(port, "GET /there HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn it_ends_with_its_connections() {
        let (server, port) = start();
        let mut idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(server);
        assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
