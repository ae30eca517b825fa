//! Programs that are executed in containers, over a websocket
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/>; subprotocols `v5.channel.k8s.io` and
//! `v4.channel.k8s.io`): the first byte of a message is the number of its stream.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;
use serde_json::Value as Json;

use super::Error;
use super::api::Api;
use crate::backend::stderr::StandardError;
use crate::http::websocket::{Incoming, Kind, WebSocket};
use crate::http::{Deadline, Transport, Upgraded, encode};

/// The protocols, the best first. The older ones cannot say that no more input comes.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The streams' numbers.
const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERROR: u8 = 2;
const STATUS: u8 = 3;
/// The longest status that is kept, in bytes: a message in a `metav1.Status`.
const STATUS_LIMIT: usize = 16 * 1024;
/// How much goes into one message, in bytes. Servers take more, and copy it in pieces of this size.
const MESSAGE: usize = 32 * 1024;

/// Where a program is to be executed.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit status.
    Exit(i32),
    /// It did not run, or nobody knows how it went: in the server's words.
    Failed(String),
}

/// A program's standard input and output, as one stream. What it says on standard error goes to the log.
pub(super) struct Executed {
    socket: WebSocket<Upgraded>,
    /// The stream of the message that is being read.
    channel: u8,
    /// Output that was read and has not been asked for.
    early: Vec<u8>,
    start: usize,
    /// How many bytes of what is to be written are on their way, and not yet said to be taken.
    claimed: usize,
    status: Vec<u8>,
    end: Option<End>,
    log: StandardError,
}

impl Executed {
    /// Executes a program.
    pub(super) fn start(
        api: &Api,
        step: &'static str,
        place: &Place,
        command: &[&str],
        deadline: Deadline,
    ) -> Result<Executed, Error> {
        let Place { namespace, pod, container } = place;
        let mut path = format!(
            "/v1/namespaces/{}/pods/{}/exec?stdin=true&stdout=true&stderr=true&container={}",
            encode(namespace),
            encode(pod),
            encode(container)
        );
        for word in command {
            path.push_str(&format!("&command={}", encode(word)));
        }
        let (socket, _) = api.websocket(step, &path, &PROTOCOLS, deadline)?;
        Ok(Executed {
            socket,
            channel: STATUS,
            early: Vec::new(),
            start: 0,
            claimed: 0,
            status: Vec::new(),
            end: None,
            log: StandardError::new(format!("kubernetes: {pod}")),
        })
    }

    /// Whether the program has said something, which is kept; false where it has ended.
    pub(super) fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; Transport::WHOLE_READ];
        let count = self.read(&mut buffer)?;
        buffer.truncate(count);
        buffer.extend_from_slice(self.early.get(self.start..).unwrap_or_default());
        (self.early, self.start) = (buffer, 0);
        Ok(count > 0)
    }

    /// How it has ended, once there is nothing more to read.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Writes all of `source` to a program that says nothing meanwhile.
    pub(super) fn feed(&mut self, source: &mut dyn Read, deadline: Deadline) -> io::Result<()> {
        let mut buffer = vec![0; MESSAGE];
        loop {
            let count = source.read(&mut buffer)?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                match self.write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let flags = PollFlags::IN | PollFlags::OUT;
                        if deadline.poll([(self.as_fd(), flags)])? == [false] {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                    Err(error) => return Err(error),
                }
                match self.listen() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                    // It has ended early; or it speaks, and the rest is not for it.
                    Ok(_) => return Ok(()),
                }
            }
        }
    }

    /// Reads the next piece, output behind what waits; false at the end.
    fn step(&mut self) -> io::Result<bool> {
        let (first, last, bytes) = match self.socket.read()? {
            Incoming::Data { first, last, bytes, .. } => (first, last, bytes),
            Incoming::Pong => return Ok(true),
            Incoming::Close(_) => return Ok(false),
        };
        let bytes = match bytes.split_first() {
            Some((channel, rest)) if first => {
                self.channel = *channel;
                rest
            }
            _ => bytes,
        };
        match self.channel {
            OUTPUT => self.early.extend_from_slice(bytes),
            ERROR => self.log.take(bytes),
            STATUS => {
                let room = STATUS_LIMIT - self.status.len().min(STATUS_LIMIT);
                self.status.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                if last && !self.status.is_empty() {
                    self.end = Some(parse_status(&self.status));
                    self.status.clear();
                }
            }
            // The end of a stream, of which the status tells more.
            _ => {}
        }
        Ok(true)
    }
}

/// Reads a `metav1.Status`.
fn parse_status(bytes: &[u8]) -> End {
    let json: Json = serde_json::from_slice(bytes).unwrap_or_default();
    if json["status"] == "Success" {
        return End::Exit(0);
    }
    let causes = json["details"]["causes"].as_array().into_iter().flatten();
    let exit = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    match exit.and_then(|text| text.parse().ok()).filter(|_| json["reason"] == "NonZeroExitCode") {
        Some(status) => End::Exit(status),
        None => End::Failed(json["message"].as_str().unwrap_or("no reason given").to_owned()),
    }
}

impl Read for Executed {
    /// With room for [`Transport::WHOLE_READ`] bytes, nothing stays behind of which poll does not tell.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.start < self.early.len() {
                let count = self.early.get(self.start..).unwrap_or_default().read(buffer)?;
                self.start += count;
                if self.start == self.early.len() {
                    (self.early, self.start) = (Vec::new(), 0);
                }
                return Ok(count);
            }
            // All that one look at the socket brings, which is less than there is room for.
            let mut more = true;
            while more && self.end.is_none() {
                more = match self.step() {
                    Ok(more) => more && (self.early.is_empty() || self.socket.has_read_ahead()),
                    Err(_) if !self.early.is_empty() => false,
                    Err(error) => return Err(error),
                };
            }
            if self.early.is_empty() {
                return Ok(0);
            }
        }
    }
}

impl Write for Executed {
    /// What is said to be taken is sent: bytes that the socket has not taken yet are written again by the caller, who has
    /// to begin with the same ones.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.claimed == 0 {
            let part = bytes.get(..bytes.len().min(MESSAGE)).unwrap_or_default();
            self.socket.send(Kind::Binary, &[&[INPUT], part])?;
            self.claimed = part.len();
        }
        self.socket.flush()?;
        Ok(std::mem::take(&mut self.claimed))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.socket.flush()?)
    }
}

impl AsFd for Executed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{End, parse_status};

    #[test]
    fn a_status_tells_how_a_program_ended() {
        let end = |text: &str| parse_status(text.as_bytes());
        assert_eq!(end(r#"{"status":"Success"}"#), End::Exit(0));
        let exit = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit code 7",
            "details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(end(exit), End::Exit(7));
        let failed = r#"{"status":"Failure","reason":"InternalError","message":"container not found"}"#;
        assert_eq!(end(failed), End::Failed("container not found".into()));
        assert_eq!(end("nonsense"), End::Failed("no reason given".into()));
    }
}
