//! Which channels a client has with an agent.
//!
//! Data passes through the bridge unseen but for this: what an agent says must be for a channel of its own. Its client
//! may have others, with other agents.
//!
//! A client widens its window every now and then, by little: `ssh` twenty times for each of its windows. Where a cluster's
//! API is between server and agent, each such message costs as much as a lot of data. So they are gathered, as long as
//! the agent does not need them.

use std::collections::{HashMap, HashSet};

use libssh_server::{Error, Session};

use super::early::{Early, STATUS};
use super::forwards::Forwards;
use crate::connection::message::{MAXIMUM_PACKET, Open, OpenFailure, bare, exit_status, notice, number, open_failure};
use crate::connection::wire::{Malformed, Reader};

/// An agent's channel numbers are below this: the server adds to them which agent's they are.
pub const NUMBERS: u32 = 1 << 24;

/// How many channels a client can have with an agent, those that one of them has not answered among them: as many as an
/// agent serves. An agent that answers nothing, and one that opens without end, find the same bound.
const MOST: usize = 1024;

/// By how much the client may have widened a window without the agent's knowing, in bytes.
const HELD: u32 = 512 * 1024;

/// The request by which a client lends its authentication agent, and the type of the channels that lead there: of
/// OpenSSH, which agents in containers and other SSH servers know.
pub const AUTHENTICATION_AGENT: (&[u8], &[u8]) = (b"auth-agent-req@openssh.com", b"auth-agent@openssh.com");

/// The same, of draft-ietf-sshm-ssh-agent: clients take these since we say `agent-forward` (RFC 8308).
const STANDARD_AUTHENTICATION_AGENT: (&[u8], &[u8]) = (b"agent-req", b"agent-connect");

/// All channels of one agent.
#[derive(Debug, Default)]
pub struct Channels {
    /// By the client's numbers.
    open: HashMap<u32, Channel>,
    /// The agent's numbers of channels that the client has not answered.
    opening: HashSet<u32>,
    /// The type of channels to the client's authentication agent, once a request that lends it was passed on.
    pub agent: Option<&'static [u8]>,
    /// `x11-req` was passed on.
    pub x11: bool,
}

#[derive(Debug)]
struct Channel {
    /// The agent's number, once it has confirmed the channel.
    agent: Option<u32>,
    is_session: bool,
    /// What is left of the window that the client gave, while output may come: the last words are the server's.
    window: Option<u32>,
    /// So much of it the agent does not know of.
    held: u32,
    /// Whether a terminal was asked for.
    has_terminal: bool,
    closed_by_agent: bool,
    closed_by_client: bool,
}

impl Channel {
    fn new(agent: Option<u32>, is_session: bool, window: u32) -> Self {
        Channel {
            agent,
            is_session,
            window: Some(window),
            held: 0,
            has_terminal: false,
            closed_by_agent: false,
            closed_by_client: false,
        }
    }

    fn spend(&mut self, data: &[u8]) {
        if let Some(window) = &mut self.window {
            *window = window.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
        }
    }

    /// By how much the agent has to be told that the window is wider: in time, before it has used up what it knows of.
    fn due(&mut self) -> Option<u32> {
        let known = self.window?.saturating_sub(self.held);
        (self.held >= HELD || self.held > known).then(|| std::mem::take(&mut self.held))
    }
}

/// The type of the channels to a client's authentication agent, where a request of this name lends it.
pub fn lent_by(request: &[u8]) -> Option<&'static [u8]> {
    let names = [AUTHENTICATION_AGENT, STANDARD_AUTHENTICATION_AGENT];
    names.into_iter().find(|names| names.0 == request).map(|names| names.1)
}

/// Why an agent may not open a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client did not ask for such.
    NotAskedFor,
    /// Too many wait already.
    TooMany,
    /// The number cannot be: the agent broke the protocol.
    Number,
}

impl Channels {
    /// Whether there is a channel that the client calls so.
    pub fn contains(&self, client: u32) -> bool {
        self.open.contains_key(&client)
    }

    /// Whether none is left, as far as both sides know.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.opening.is_empty()
    }

    /// Whether the agent has closed all that there were.
    pub fn are_closed_by_agent(&self) -> bool {
        self.opening.is_empty() && self.open.values().all(|channel| channel.closed_by_agent)
    }

    /// How many sessions the agent has, or has been offered.
    pub fn sessions(&self) -> usize {
        self.open.values().filter(|channel| channel.is_session && !channel.closed_by_agent).count()
    }

    /// A terminal is asked for on the agent's channel.
    pub fn ask_for_terminal(&mut self, agent: u32) {
        if let Some(channel) = self.open.values_mut().find(|channel| channel.agent == Some(agent)) {
            channel.has_terminal = true;
        }
    }

    /// Whether a session has a terminal.
    pub fn have_terminal(&self) -> bool {
        self.open.values().any(|channel| channel.has_terminal && !channel.closed_by_agent)
    }

    /// Whether there can be another one.
    pub fn have_room(&self) -> bool {
        self.open.len() + self.opening.len() < MOST
    }

    /// The client opens a channel, for which there is room.
    pub fn offer(&mut self, open: &Open<'_>) {
        self.open.insert(open.sender, Channel::new(None, open.channel_type == b"session", open.window));
    }

    /// The agent has confirmed the client's channel, and calls it `agent`. The window is what is left of it, where that
    /// is not the client's.
    pub fn confirmed(&mut self, client: u32, agent: u32, window: Option<u32>) -> Result<(), Malformed> {
        match self.open.get_mut(&client) {
            Some(channel) if channel.agent.is_none() && agent < NUMBERS => {
                channel.agent = Some(agent);
                channel.window = window.or(channel.window);
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// The agent has refused the client's channel.
    pub fn refused(&mut self, client: u32) -> Result<(), Malformed> {
        if self.open.get(&client).is_none_or(|channel| channel.agent.is_some()) {
            return Err(Malformed);
        }
        self.open.remove(&client);
        Ok(())
    }

    /// The agent says something on the client's channel: `kind` is the message's number, `body` what follows that. Gives
    /// its own number for the channel, and by how much it is to be told that the window is wider, if it is.
    pub fn said(&mut self, kind: u8, body: &[u8]) -> Result<Option<(u32, u32)>, Malformed> {
        let mut fields = Reader::new(body);
        let client = fields.u32()?;
        let Some(channel) = self.open.get_mut(&client) else { return Err(Malformed) };
        let Some(agent) = channel.agent.filter(|_| !channel.closed_by_agent) else { return Err(Malformed) };
        match kind {
            number::CHANNEL_DATA => channel.spend(fields.string()?),
            number::CHANNEL_EXTENDED_DATA => {
                let _kind = fields.u32()?;
                channel.spend(fields.string()?);
            }
            number::CHANNEL_EOF => channel.window = None,
            number::CHANNEL_CLOSE => {
                channel.closed_by_agent = true;
                if channel.closed_by_client {
                    self.open.remove(&client);
                }
                return Ok(None);
            }
            _ => (),
        }
        Ok(channel.due().map(|bytes| (agent, bytes)))
    }

    /// The client takes so many more bytes on the agent's channel. Gives by how much the agent is to be told that the
    /// window is wider, if it is.
    pub fn widened(&mut self, agent: u32, bytes: u32) -> Option<u32> {
        let channel = self.open.values_mut().find(|channel| channel.agent == Some(agent))?;
        let window = channel.window.as_mut()?;
        *window = window.saturating_add(bytes);
        channel.held = channel.held.saturating_add(bytes);
        channel.due()
    }

    /// The client has closed the agent's channel.
    pub fn closed_by_client(&mut self, agent: u32) {
        self.open.retain(|_, channel| {
            channel.closed_by_client |= channel.agent == Some(agent);
            !(channel.closed_by_client && channel.closed_by_agent)
        });
    }

    /// The agent opens a channel. `forwards` are given where it listens for the client. Gives the type by which the client
    /// knows such channels.
    pub fn open<'a>(
        &mut self,
        open: &Open<'a>,
        forwards: Option<&Forwards>,
    ) -> Result<Result<&'a [u8], Refusal>, Malformed> {
        let asked_for = match open.channel_type {
            name if name == AUTHENTICATION_AGENT.1 => self.agent,
            b"x11" => self.x11.then_some(open.channel_type),
            _ => match forwards {
                Some(forwards) => forwards.lead_to(open)?.then_some(open.channel_type),
                None => None,
            },
        };
        let Some(channel_type) = asked_for else { return Ok(Err(Refusal::NotAskedFor)) };
        Ok(if !self.have_room() {
            Err(Refusal::TooMany)
        } else if open.sender >= NUMBERS || !self.opening.insert(open.sender) {
            Err(Refusal::Number)
        } else {
            Ok(channel_type)
        })
    }

    /// The client answers the agent's open, with its own number and window where it confirms. Whether there was one to
    /// answer.
    pub fn answered(&mut self, agent: u32, client: Option<(u32, u32)>) -> bool {
        if let Some((client, window)) = client {
            self.open.insert(client, Channel::new(Some(agent), false, window));
        }
        self.opening.remove(&agent)
    }

    /// The connection is about to end: to its client, the sessions that are open have failed.
    pub fn cut(&self, session: &mut Session) -> Result<(), Error> {
        for (&client, channel) in &self.open {
            if channel.is_session && channel.agent.is_some() && !channel.closed_by_agent {
                session.send(&exit_status(client, STATUS))?;
                session.send(&bare(number::CHANNEL_CLOSE, client))?;
            }
        }
        Ok(())
    }

    /// The agent is gone: the client is told so for each channel, and for a session with this line.
    pub fn abandon(&mut self, session: &mut Session, early: &mut Early, line: &str) -> Result<(), Error> {
        let mut result = Ok(());
        self.open.retain(|&client, channel| {
            let mut send = |message: &[u8]| {
                if result.is_ok() {
                    result = session.send(message);
                }
            };
            if channel.agent.is_none() {
                if early.refused(client) {
                    send(&open_failure(client, OpenFailure::ConnectFailed, "open failed"));
                }
                return false;
            }
            if !channel.closed_by_agent {
                if channel.is_session {
                    // It may have a terminal, and a line's end for that does no harm elsewhere: `ssh` has no other.
                    let window = channel.window.as_mut();
                    if let Some(notice) = window.and_then(|window| notice(client, line, true, window, MAXIMUM_PACKET)) {
                        send(&notice);
                    }
                    // Not as of a signal: libssh2 takes that for success.
                    send(&exit_status(client, STATUS));
                }
                send(&bare(number::CHANNEL_CLOSE, client));
                channel.closed_by_agent = true;
            }
            !channel.closed_by_client
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::{Channels, NUMBERS, Refusal, lent_by};
    use crate::connection::message::{Open, number};
    use crate::connection::wire::{Malformed, Write};

    fn open(channel_type: &'static str, sender: u32) -> Open<'static> {
        Open { channel_type: channel_type.as_bytes(), sender, window: 1, maximum_packet: 1, specific: b"" }
    }

    /// The agent says something on a channel, with a byte of data.
    fn said(channels: &mut Channels, client: u32, kind: u8) -> Result<(), Malformed> {
        let mut body = client.to_be_bytes().to_vec();
        body.put_string("x");
        channels.said(kind, &body).map(drop)
    }

    #[test]
    fn an_agent_speaks_on_channels_that_it_has_confirmed_and_not_closed() {
        let mut channels = Channels::default();
        assert_eq!(said(&mut channels, 3, number::CHANNEL_DATA), Err(Malformed));
        channels.offer(&open("session", 3));
        assert_eq!(said(&mut channels, 3, number::CHANNEL_DATA), Err(Malformed));
        assert_eq!(channels.confirmed(4, 0, None), Err(Malformed));
        assert_eq!(channels.confirmed(3, NUMBERS, None), Err(Malformed));
        assert_eq!(channels.confirmed(3, 7, None), Ok(()));
        assert_eq!(channels.confirmed(3, 7, None), Err(Malformed));
        assert_eq!(channels.refused(3), Err(Malformed));
        assert_eq!(said(&mut channels, 3, number::CHANNEL_DATA), Ok(()));
        assert_eq!(channels.sessions(), 1);
        assert_eq!(said(&mut channels, 3, number::CHANNEL_CLOSE), Ok(()));
        assert_eq!(said(&mut channels, 3, number::CHANNEL_DATA), Err(Malformed));
        assert_eq!((channels.sessions(), channels.is_empty(), channels.are_closed_by_agent()), (0, false, true));
        channels.closed_by_client(7);
        assert!(channels.is_empty());
    }

    #[test]
    fn a_channel_is_there_until_both_have_closed_it() {
        let mut channels = Channels::default();
        channels.offer(&open("direct-tcpip", 3));
        channels.confirmed(3, 7, None).unwrap();
        channels.closed_by_client(7);
        assert!(channels.contains(3) && !channels.are_closed_by_agent());
        said(&mut channels, 3, number::CHANNEL_CLOSE).unwrap();
        assert!(!channels.contains(3));
    }

    #[test]
    fn what_is_left_of_a_window_is_known_until_the_output_has_ended() {
        let mut channels = Channels::default();
        channels.offer(&open("session", 3));
        channels.confirmed(3, 7, None).unwrap();
        channels.widened(7, 2);
        for left in [2, 1, 0, 0] {
            said(&mut channels, 3, number::CHANNEL_DATA).unwrap();
            assert_eq!(channels.open[&3].window, Some(left));
        }
        said(&mut channels, 3, number::CHANNEL_EOF).unwrap();
        channels.widened(7, 2);
        assert_eq!(channels.open[&3].window, None);
        assert_eq!(channels.said(number::CHANNEL_DATA, &[0, 0, 0, 3, 0, 0, 0, 9]), Err(Malformed));
    }

    #[test]
    fn a_wider_window_is_told_when_the_agent_needs_it_or_when_it_is_much() {
        let mut channels = Channels::default();
        channels.offer(&open("session", 3));
        channels.confirmed(3, 7, Some(1000)).unwrap();
        let data = |length: usize| {
            let mut body = 3u32.to_be_bytes().to_vec();
            body.put_string(vec![0; length]);
            body
        };
        assert_eq!(channels.widened(7, 400), None);
        // It knows of 1,000 bytes, and then of 500.
        assert_eq!(channels.said(number::CHANNEL_DATA, &data(500)), Ok(None));
        assert_eq!(channels.said(number::CHANNEL_DATA, &data(101)), Ok(Some((7, 400))));
        assert_eq!(channels.said(number::CHANNEL_DATA, &data(799)), Ok(None));
        assert_eq!(channels.widened(7, 1), Some(1));
        assert_eq!(channels.widened(7, 3_000_000), Some(3_000_000));
        assert_eq!(channels.widened(7, 500_000), None);
        assert_eq!(channels.widened(7, 50_000), Some(550_000));
        // Nobody else's.
        assert_eq!(channels.widened(8, 3_000_000), None);
        said(&mut channels, 3, number::CHANNEL_EOF).unwrap();
        assert_eq!(channels.widened(7, 3_000_000), None);
    }

    #[test]
    fn the_agent_opens_only_what_its_client_asked_for() {
        let mut channels = Channels::default();
        for channel_type in ["auth-agent@openssh.com", "x11", "session", "forwarded-tcpip", "direct-tcpip"] {
            assert_eq!(channels.open(&open(channel_type, 1), None), Ok(Err(Refusal::NotAskedFor)), "{channel_type}");
        }
    }

    #[test]
    fn channels_to_an_authentication_agent_have_the_name_that_goes_with_the_request() {
        for (request, expected) in
            [(&b"auth-agent-req@openssh.com"[..], &b"auth-agent@openssh.com"[..]), (b"agent-req", b"agent-connect")]
        {
            let mut channels = Channels { agent: lent_by(request), ..Channels::default() };
            assert_eq!(channels.open(&open("auth-agent@openssh.com", 1), None), Ok(Ok(expected)));
            // In the stream there is one name.
            assert_eq!(channels.open(&open("agent-connect", 2), None), Ok(Err(Refusal::NotAskedFor)));
        }
        assert_eq!(lent_by(b"x11-req"), None);
    }

    #[test]
    fn the_agents_numbers_are_its_own_and_answered_once() {
        let mut channels = Channels { x11: true, ..Channels::default() };
        let mut opens = |sender| channels.open(&open("x11", sender), None).unwrap();
        assert_eq!(opens(NUMBERS), Err(Refusal::Number));
        assert_eq!(opens(3), Ok(&b"x11"[..]));
        assert_eq!(opens(3), Err(Refusal::Number));
        assert!(channels.answered(3, Some((8, 1))) && !channels.answered(3, None) && !channels.answered(4, None));
        assert_eq!(said(&mut channels, 8, number::CHANNEL_DATA), Ok(()));
        let mut opens = |sender| channels.open(&open("x11", sender), None).unwrap();
        // With the one that the client has confirmed.
        for sender in 0..1023 {
            assert_eq!(opens(sender), Ok(&b"x11"[..]));
        }
        assert_eq!(opens(5000), Err(Refusal::TooMany));
        assert!(!channels.have_room());
        assert!(channels.answered(0, None) && channels.have_room());
    }
}
