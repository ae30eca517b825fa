//! What a client has asked to be forwarded to it, and what the agent may open on the strength of that.
//!
//! The agent is not trusted: it may open a channel only for what its client asked for, and was allowed. And it answers
//! global requests along with the server itself, while the client tells answers to their requests by the order alone
//! (RFC 4254 section 4): so they queue here.

use std::collections::VecDeque;

use libssh_server::{Error, Session};

use crate::connection::forward::HostPort;
use crate::connection::message::{GlobalRequest, Open, number};
use crate::connection::wire::{Malformed, Reader};
use crate::fuzzing;

/// How many global requests of the client's may wait for their answers.
const UNANSWERED: usize = 256;

/// How many sockets may be listened on for one client.
const LISTENING: usize = 256;

/// What is listened on for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listener {
    /// `tcpip-forward`: the address as the client named it, and the port.
    Tcp(Vec<u8>, u32),
    /// `streamlocal-forward@openssh.com`: the path.
    Unix(Vec<u8>),
}

impl Listener {
    fn tcp(specific: &[u8]) -> Result<Self, Malformed> {
        let HostPort { host, port } = HostPort::decode(&mut Reader::new(specific))?;
        Ok(Listener::Tcp(host.to_vec(), port))
    }

    fn unix(specific: &[u8]) -> Result<Self, Malformed> {
        Ok(Listener::Unix(Reader::new(specific).string()?.to_vec()))
    }
}

/// An answer that the client waits for.
#[derive(Debug)]
enum Answer {
    /// The agent's, to this: what it listens on if it succeeds.
    Awaited(Option<Listener>),
    /// One that waits for its turn.
    Ready(Vec<u8>),
}

/// One client's.
#[derive(Debug, Default)]
pub struct Forwards {
    /// The guest that listens, by its index, where one was asked to.
    pub guest: Option<u32>,
    listeners: Vec<Listener>,
    answers: VecDeque<Answer>,
}

impl Forwards {
    /// Whether the client has to wait for answers before it asks for more.
    pub fn is_full(&self) -> bool {
        self.answers.len() >= UNANSWERED
    }

    /// The server answers a request itself.
    pub fn answer(&mut self, success: bool) {
        self.answer_with(success.then(|| vec![number::REQUEST_SUCCESS]));
    }

    /// The server answers a request itself, with this message where it succeeds.
    pub fn answer_with(&mut self, success: Option<Vec<u8>>) {
        self.answers.push_back(Answer::Ready(success.unwrap_or_else(|| vec![number::REQUEST_FAILURE])));
    }

    /// Whether the agent may be asked this: there is a limit to what it listens on.
    pub fn has_room(&self) -> bool {
        let asked_for = self.answers.iter().filter(|answer| matches!(answer, Answer::Awaited(Some(_)))).count();
        self.listeners.len() + asked_for < LISTENING
    }

    /// The agent is asked.
    pub fn passed_on(&mut self, request: &GlobalRequest<'_>) -> Result<(), Malformed> {
        let (new, cancelled) = match request.name {
            b"tcpip-forward" => (Some(Listener::tcp(request.specific)?), None),
            b"cancel-tcpip-forward" => (None, Some(Listener::tcp(request.specific)?)),
            b"streamlocal-forward@openssh.com" => (Some(Listener::unix(request.specific)?), None),
            b"cancel-streamlocal-forward@openssh.com" => (None, Some(Listener::unix(request.specific)?)),
            _ => (None, None),
        };
        self.listeners.retain(|known| Some(known) != cancelled.as_ref());
        if request.want_reply {
            self.answers.push_back(Answer::Awaited(new));
        } else {
            self.listeners.extend(new);
        }
        Ok(())
    }

    /// The agent has answered: number and body.
    pub fn answered(&mut self, answer: u8, body: &[u8]) -> Result<(), Malformed> {
        // Only the first can be its: what stands before it is ready, so gone.
        let Some(first @ Answer::Awaited(_)) = self.answers.front_mut() else { return Err(Malformed) };
        let Answer::Awaited(listener) = std::mem::replace(first, Answer::Ready(vec![answer])) else {
            return Err(Malformed);
        };
        if answer == number::REQUEST_SUCCESS {
            let mut fields = Reader::new(body);
            self.listeners.extend(match listener {
                // Port 0 asks for any, and the answer tells which.
                Some(Listener::Tcp(host, 0)) => {
                    let port = fields.u32()?;
                    if !(1..=65535).contains(&port) {
                        return Err(Malformed);
                    }
                    *first = Answer::Ready([&[answer], &body[..4]].concat());
                    Some(Listener::Tcp(host, port))
                }
                other => other,
            });
        }
        Ok(())
    }

    /// There is no agent to answer, nor to listen.
    pub fn fail(&mut self) {
        self.guest = None;
        self.listeners.clear();
        for answer in &mut self.answers {
            if matches!(answer, Answer::Awaited(_)) {
                *answer = Answer::Ready(vec![number::REQUEST_FAILURE]);
            }
        }
    }

    /// Gives the client the answers whose turn has come.
    pub fn send_answers(&mut self, session: &mut Session) -> Result<(), Error> {
        while let Some(answer) = self.next_answer() {
            session.send(&answer)?;
        }
        Ok(())
    }

    fn next_answer(&mut self) -> Option<Vec<u8>> {
        match self.answers.pop_front()? {
            Answer::Ready(answer) => Some(answer),
            awaited => {
                self.answers.push_front(awaited);
                None
            }
        }
    }

    /// Whether a channel that the agent opens leads from something that it was asked to listen on.
    pub fn lead_to(&self, open: &Open<'_>) -> Result<bool, Malformed> {
        Ok(match open.channel_type {
            b"forwarded-tcpip" => self.listeners.contains(&Listener::tcp(open.specific)?),
            b"forwarded-streamlocal@openssh.com" => self.listeners.contains(&Listener::unix(open.specific)?),
            _ => false,
        })
    }

    /// Whether the agent listens for the client, or has been asked to.
    pub fn are_in_use(&self) -> bool {
        !self.listeners.is_empty() || self.answers.iter().any(|answer| matches!(answer, Answer::Awaited(_)))
    }
}

/// Requests of a client's, and answers and opens of an agent's, in any order. What leads to the client was asked for.
pub(crate) fn fuzz(data: &[u8]) {
    let mut forwards = Forwards::default();
    let mut asked = false;
    for message in fuzzing::pieces(data) {
        let Some((&kind, body)) = message.split_first() else { continue };
        match kind {
            number::GLOBAL_REQUEST => {
                if let Ok(request) = GlobalRequest::decode(body)
                    && forwards.has_room()
                    && !forwards.is_full()
                {
                    asked |= forwards.passed_on(&request).is_ok();
                }
            }
            number::CHANNEL_OPEN => {
                let leads = Open::decode(body).and_then(|open| forwards.lead_to(&open));
                assert!(asked || leads != Ok(true));
            }
            number::CHANNEL_CLOSE => forwards.fail(),
            number::CHANNEL_EOF => forwards.answer(body.is_empty()),
            // An agent that answers nonsense is left.
            other => {
                if forwards.answered(other, body).is_err() {
                    break;
                }
            }
        }
        while forwards.next_answer().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Forwards, LISTENING};
    use crate::connection::forward::HostPort;
    use crate::connection::message::{GlobalRequest, Open, number};
    use crate::connection::wire::{Malformed, Write};

    fn host_port(host: &str, port: u32) -> Vec<u8> {
        let mut specific = Vec::new();
        HostPort { host: host.as_bytes(), port }.encode(&mut specific);
        specific
    }

    fn pass(forwards: &mut Forwards, name: &str, specific: &[u8]) {
        forwards.passed_on(&GlobalRequest { name: name.as_bytes(), want_reply: true, specific }).unwrap();
    }

    fn lead_to(forwards: &Forwards, channel_type: &str, specific: &[u8]) -> bool {
        let channel_type = channel_type.as_bytes();
        forwards.lead_to(&Open { channel_type, sender: 1, window: 1, maximum_packet: 1, specific }).unwrap()
    }

    fn answers(forwards: &mut Forwards) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| forwards.next_answer()).collect()
    }

    #[test]
    fn answers_are_given_in_the_order_of_the_requests() {
        let mut forwards = Forwards::default();
        forwards.answer(true);
        pass(&mut forwards, "tcpip-forward", &host_port("", 8080));
        forwards.answer(false);
        pass(&mut forwards, "tcpip-forward", &host_port("", 0));
        assert_eq!(answers(&mut forwards), [[number::REQUEST_SUCCESS]]);
        forwards.answered(number::REQUEST_FAILURE, b"").unwrap();
        assert_eq!(answers(&mut forwards), [[number::REQUEST_FAILURE], [number::REQUEST_FAILURE]]);
        forwards.answered(number::REQUEST_SUCCESS, &[0, 0, 1, 1, 9, 9]).unwrap();
        assert_eq!(answers(&mut forwards), [[number::REQUEST_SUCCESS, 0, 0, 1, 1]]);
    }

    #[test]
    fn answers_to_nothing_and_impossible_ports_are_malformed() {
        let mut forwards = Forwards::default();
        assert_eq!(forwards.answered(number::REQUEST_SUCCESS, b""), Err(Malformed));
        forwards.answer(true);
        assert_eq!(forwards.answered(number::REQUEST_SUCCESS, b""), Err(Malformed));
        for body in [&b""[..], &[0, 0, 0, 0], &[0, 1, 0, 0]] {
            let mut forwards = Forwards::default();
            pass(&mut forwards, "tcpip-forward", &host_port("", 0));
            assert_eq!(forwards.answered(number::REQUEST_SUCCESS, body), Err(Malformed));
        }
    }

    #[test]
    fn only_what_was_asked_for_and_listened_on_leads_to_the_client() {
        let mut forwards = Forwards::default();
        let port = host_port("", 257);
        for (channel_type, specific) in [
            ("forwarded-tcpip", port.as_slice()),
            ("forwarded-streamlocal@openssh.com", &[0, 0, 0, 0]),
            ("session", b""),
            ("direct-tcpip", &port),
            ("tcpip-forward", &port),
        ] {
            assert!(!lead_to(&forwards, channel_type, specific), "{channel_type}");
        }
        pass(&mut forwards, "tcpip-forward", &host_port("", 0));
        assert!(forwards.are_in_use() && !lead_to(&forwards, "forwarded-tcpip", &port));
        forwards.answered(number::REQUEST_SUCCESS, &[0, 0, 1, 1]).unwrap();
        assert!(lead_to(&forwards, "forwarded-tcpip", &port));
        assert!(!lead_to(&forwards, "forwarded-tcpip", &host_port("", 258)));
        assert!(!lead_to(&forwards, "forwarded-tcpip", &host_port("localhost", 257)));
        pass(&mut forwards, "cancel-tcpip-forward", &port);
        assert!(!lead_to(&forwards, "forwarded-tcpip", &port));
    }

    #[test]
    fn what_is_asked_for_counts_before_it_is_answered() {
        let mut forwards = Forwards::default();
        for port in 0..LISTENING as u32 {
            assert!(forwards.has_room());
            pass(&mut forwards, "tcpip-forward", &host_port("", port));
            if port % 2 == 0 {
                forwards.answer(true);
            }
        }
        assert!(!forwards.has_room());
        forwards.answered(number::REQUEST_FAILURE, b"").unwrap();
        assert!(forwards.has_room());
    }

    #[test]
    fn what_failed_is_not_listened_on() {
        let mut forwards = Forwards::default();
        let path = [0, 0, 0, 2, b'/', b's'];
        pass(&mut forwards, "streamlocal-forward@openssh.com", &path);
        forwards.answered(number::REQUEST_FAILURE, b"").unwrap();
        assert!(!lead_to(&forwards, "forwarded-streamlocal@openssh.com", &path));
        pass(&mut forwards, "streamlocal-forward@openssh.com", &path);
        forwards.fail();
        assert_eq!(answers(&mut forwards), [[number::REQUEST_FAILURE], [number::REQUEST_FAILURE]]);
        assert!(!forwards.are_in_use());
        let request = GlobalRequest { name: b"streamlocal-forward@openssh.com", want_reply: false, specific: &path };
        forwards.passed_on(&request).unwrap();
        let mut with_reserved = path.to_vec();
        with_reserved.put_string("");
        assert!(lead_to(&forwards, "forwarded-streamlocal@openssh.com", &with_reserved));
    }
}
