//! Programs that are executed in containers, over a websocket
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/>; subprotocols `v5.channel.k8s.io` and
//! `v4.channel.k8s.io`): the first byte of a message is the number of its stream.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;
use serde_json::Value as Json;

use super::Error;
use super::api::Api;
use crate::backend::native::Output;
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
const RESIZE: u8 = 4;
/// Says of the stream that follows that it ends: the newer protocol's alone.
const CLOSE: u8 = 255;
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

/// A program's standard streams, as messages.
pub(super) struct Streams {
    socket: WebSocket<Upgraded>,
    /// Whether it can be said that no more input comes.
    can_close: bool,
    /// The stream of the message that is being read.
    channel: u8,
    /// How many bytes of what is to be written are on their way, and not yet said to be taken.
    claimed: usize,
    status: Vec<u8>,
    end: Option<End>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Streams {
    /// Executes a program, with a terminal or without.
    pub(super) fn start(
        api: &Api,
        step: &'static str,
        place: &Place,
        command: &[&str],
        has_terminal: bool,
        deadline: Deadline,
    ) -> Result<Streams, Error> {
        let Place { namespace, pod, container } = place;
        let mut path = format!(
            "/v1/namespaces/{}/pods/{}/exec?stdin=true&stdout=true&{}=true&container={}",
            encode(namespace),
            encode(pod),
            // A terminal has no standard error of its own.
            if has_terminal { "tty" } else { "stderr" },
            encode(container)
        );
        for word in command {
            path.push_str(&format!("&command={}", encode(word)));
        }
        let (socket, protocol) = api.websocket(step, &path, &PROTOCOLS, deadline).map_err(with_verb)?;
        let can_close = protocol == PROTOCOLS[0];
        if !can_close {
            log::debug!("kubernetes: {pod}: the API server takes nothing newer than {protocol}");
        }
        Ok(Streams { socket, can_close, channel: STATUS, claimed: 0, status: Vec::new(), end: None })
    }

    /// How the program has ended, once there is nothing more to read.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Gives `take` what has come of the program's output, all that one look at the socket brings; false
    /// at the end of it. Nothing stays behind of which poll does not tell.
    pub(super) fn read(&mut self, take: &mut dyn FnMut(Output, &[u8])) -> io::Result<bool> {
        let mut taken = false;
        while self.end.is_none() && (!taken || self.socket.has_read_ahead()) {
            let step = self.step(&mut |output, bytes| {
                taken |= !bytes.is_empty();
                take(output, bytes);
            });
            match step {
                // It comes again.
                Err(_) if taken => break,
                result => result?,
            }
        }
        Ok(taken)
    }

    /// Reads the next piece.
    fn step(&mut self, take: &mut dyn FnMut(Output, &[u8])) -> io::Result<()> {
        let (first, last, bytes) = match self.socket.read()? {
            Incoming::Data { first, last, bytes, .. } => (first, last, bytes),
            Incoming::Pong => return Ok(()),
            Incoming::Close(_) => {
                self.end = Some(End::Failed("the connection was closed".to_owned()));
                return Ok(());
            }
        };
        let bytes = match bytes.split_first() {
            Some((channel, rest)) if first => {
                self.channel = *channel;
                rest
            }
            _ => bytes,
        };
        match self.channel {
            OUTPUT => take(Output::Standard, bytes),
            ERROR => take(Output::Error, bytes),
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
        Ok(())
    }

    /// Sends input. What is said to be taken is sent: bytes that the socket has not taken yet are written again by the
    /// caller, who has to begin with the same ones.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.claimed == 0 {
            let part = bytes.get(..bytes.len().min(MESSAGE)).unwrap_or_default();
            self.socket.send(Kind::Binary, &[&[INPUT], part])?;
            self.claimed = part.len();
        }
        self.socket.flush()?;
        Ok(std::mem::take(&mut self.claimed))
    }

    /// Says that no more input comes. False where that cannot be said.
    pub(super) fn end_input(&mut self) -> io::Result<bool> {
        if self.can_close {
            self.socket.send(Kind::Binary, &[&[CLOSE, INPUT]])?;
        }
        Ok(self.can_close)
    }

    /// Says it by the connection's end: nothing more is heard of the program, which counts as one that was good.
    pub(super) fn close(&mut self) -> io::Result<()> {
        const NORMAL: u16 = 1000;
        self.end = Some(End::Exit(0));
        Ok(self.socket.close(NORMAL)?)
    }

    /// Sets the rows and columns of the program's terminal.
    pub(super) fn resize(&mut self, [rows, columns]: [u16; 2]) -> io::Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}");
        Ok(self.socket.send(Kind::Binary, &[&[RESIZE], size.as_bytes()])?)
    }
}

impl AsFd for Streams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A program's standard input and output, as one stream. What it says on standard error goes to the log.
pub(super) struct Executed {
    streams: Streams,
    /// Output that was read and has not been asked for.
    early: Vec<u8>,
    start: usize,
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
        let streams = Streams::start(api, step, place, command, false, deadline)?;
        let log = StandardError::new(format!("kubernetes: {}", place.pod));
        Ok(Executed { streams, early: Vec::new(), start: 0, log })
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
        self.streams.end()
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
}

/// A refusal, with what is missing. A websocket begins as a GET, and where that is refused, the API server says so.
/// Since Kubernetes 1.35 it asks for another verb after that, and names none when it refuses.
fn with_verb(mut error: Error) -> Error {
    if let Error::Api { status: 403, message, .. } = &mut error
        && message.trim_end().ends_with("is forbidden:")
    {
        *message = format!("{} the role lacks the verb \"create\" on \"pods/exec\"", message.trim_end());
    }
    error
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
        while self.start == self.early.len() {
            let Executed { streams, early, log, .. } = self;
            let goes_on = streams.read(&mut |output, bytes| match output {
                Output::Standard => early.extend_from_slice(bytes),
                Output::Error => log.take(bytes),
            })?;
            if !goes_on {
                return Ok(0);
            }
        }
        let count = self.early.get(self.start..).unwrap_or_default().read(buffer)?;
        self.start += count;
        if self.start == self.early.len() {
            (self.early, self.start) = (Vec::new(), 0);
        }
        Ok(count)
    }
}

impl Write for Executed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.streams.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.streams.socket.flush()?)
    }
}

impl AsFd for Executed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.streams.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Error, parse_status, with_verb};

    #[test]
    fn a_refusal_that_names_no_verb_is_told_which() {
        let refused = |message: &str| {
            let reason = "Forbidden".to_owned();
            with_verb(Error::Api { step: "start a program", status: 403, reason, message: message.into() }).to_string()
        };
        let unnamed = refused("pods \"a\" is forbidden: ");
        assert!(unnamed.contains("is forbidden: the role lacks the verb \"create\" on \"pods/exec\""), "{unnamed}");
        let named = "pods \"a\" is forbidden: User \"b\" cannot get resource \"pods/exec\"";
        assert!(refused(named).contains(named) && !refused(named).contains("lacks"));
    }

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
