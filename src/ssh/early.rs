//! What a client asks for before there is an agent.
//!
//! Mostly that just waits, and the agent answers it. But while an image is pulled, or when there will be no container
//! at all, the user of a session is owed some lines. So the server confirms a session's channel itself, under a number
//! of its own and with no window, writes to its stderr, and later either hands the channel to the agent or ends it with
//! an exit status. Handed over, the client goes on using the server's number, which the bridge translates.
//!
//! Other channels, and requests to listen, are refused where there will be no container.

use libssh_server::{Error, Session};

use super::channels::NUMBERS;
use crate::connection::frame::Queue;
use crate::connection::message::{self, ChannelRequest, GlobalRequest, Open, OpenFailure, number};
use crate::connection::start::starts;
use crate::connection::wire::Reader;

/// The server's own channel numbers have this bit, and those that it gives agents' channels do not.
pub const FIRST: u32 = 0x8000_0000;

/// The most sessions that may wait for one container, and the most other channels and requests together.
const MOST: usize = 64;

/// The exit status of a session that got no container, or has lost it: as of a failed `ssh` itself.
pub const STATUS: u32 = 255;

/// An opened channel.
struct Channel {
    /// The client's number.
    client: u32,
    /// What is left of the window that the client gave.
    window: u32,
    maximum_packet: u32,
    /// The server's number, once the server has confirmed the channel.
    own: Option<u32>,
    /// Lines that wait to be shown.
    lines: Vec<Line>,
    /// Whether the client has asked for a terminal, as far as that has been seen.
    terminal: bool,
    state: State,
}

/// A line of the server's own.
#[derive(Clone, Debug)]
pub enum Line {
    /// Whoever waits is shown it.
    ForAll(String),
    /// Only those on a terminal are.
    ForTerminals(String),
}

enum State {
    /// Waits for a container.
    Waiting,
    /// The agent has been sent the open, and has not answered.
    Offered,
    /// The agent's number for a channel that the server had confirmed.
    Handed(u32),
    /// There will be no container.
    Failed,
    /// The server has closed it; the client has not.
    Closed,
}

/// What becomes of a client's message to a channel of the server's.
pub enum Verdict {
    /// It is for the agent, which calls the channel so.
    Forward(u32),
    /// It must wait.
    Wait,
    /// The server has dealt with it.
    Taken,
    /// There is no such channel.
    Unknown,
}

/// All that waits, and all channels that are not the agent's alone.
pub struct Early {
    /// Global requests that the agent will be asked.
    requests: Vec<Vec<u8>>,
    /// Opens of other channels than sessions, with the client's numbers.
    opens: Vec<(u32, Vec<u8>)>,
    channels: Vec<Channel>,
    /// The server's number for the next channel that it confirms.
    next: u32,
}

impl Early {
    /// For the guest with this index.
    pub fn new(index: u32) -> Self {
        Early { requests: Vec::new(), opens: Vec::new(), channels: Vec::new(), next: FIRST | (index * NUMBERS) }
    }

    /// Whether nothing waits, and no channel is left that the client knows by a number of the server's.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.opens.is_empty() && self.channels.is_empty()
    }

    /// Whether another channel than a session, or a request, can be taken: else the client's message has to wait.
    pub fn has_room(&self) -> bool {
        self.opens.len() + self.requests.len() < MOST
    }

    /// Takes an open that has to wait. Gives the reason where it cannot.
    pub fn open(&mut self, open: &Open<'_>) -> Result<(), OpenFailure> {
        if open.channel_type != b"session" {
            self.opens.push((open.sender, open.encode()));
            return Ok(());
        }
        if self.channels.len() >= MOST {
            return Err(OpenFailure::ResourceShortage);
        }
        self.channels.push(Channel {
            client: open.sender,
            window: open.window,
            maximum_packet: open.maximum_packet,
            own: None,
            lines: Vec::new(),
            terminal: false,
            state: State::Waiting,
        });
        Ok(())
    }

    /// Takes a global request that has to wait.
    pub fn request(&mut self, request: &GlobalRequest<'_>) {
        self.requests.push(request.encode());
    }

    /// Shows a line to all who wait.
    pub fn progress(&mut self, session: &mut Session, line: Line) -> Result<(), Error> {
        let next = &mut self.next;
        for channel in self.channels.iter_mut().filter(|channel| matches!(channel.state, State::Waiting)) {
            channel.confirm(session, next)?;
            // Only the newest is of interest where none could be shown yet.
            channel.lines = vec![line.clone()];
        }
        Ok(())
    }

    /// There is no container, for this reason. Whoever counts the requests answers them.
    pub fn fail(&mut self, session: &mut Session, line: &str) -> Result<(), Error> {
        self.requests.clear();
        for (client, _) in self.opens.drain(..) {
            session.send(&message::open_failure(client, OpenFailure::ConnectFailed, line))?;
        }
        let next = &mut self.next;
        for channel in self.channels.iter_mut().filter(|channel| matches!(channel.state, State::Waiting)) {
            channel.confirm(session, next)?;
            channel.lines = vec![Line::ForAll(line.to_owned())];
            channel.state = State::Failed;
        }
        Ok(())
    }

    /// The connection is about to end: to its client, the sessions that wait have failed.
    pub fn cut(&mut self, session: &mut Session) -> Result<(), Error> {
        let next = &mut self.next;
        for channel in &mut self.channels {
            if matches!(channel.state, State::Waiting | State::Offered | State::Failed) {
                channel.confirm(session, next)?;
                channel.lines.clear();
                channel.end(session)?;
            }
        }
        Ok(())
    }

    /// The requests and opens for an agent that has come. Programs find the ports that their client asked for first.
    pub fn offer(&mut self) -> impl Iterator<Item = Vec<u8>> {
        let others = self.requests.drain(..).chain(self.opens.drain(..).map(|(_, open)| open));
        let sessions =
            self.channels.iter_mut().filter(|channel| matches!(channel.state, State::Waiting)).map(|channel| {
                channel.state = State::Offered;
                Open {
                    channel_type: b"session",
                    sender: channel.client,
                    window: channel.window,
                    maximum_packet: channel.maximum_packet,
                    specific: b"",
                }
                .encode()
            });
        others.chain(sessions)
    }

    /// The agent has confirmed the client's channel. Whether that is news to the client: else the client gets its
    /// window now.
    pub fn confirmed(&mut self, session: &mut Session, client: u32, agent: u32, window: u32) -> Result<bool, Error> {
        let Some(index) = self.offered(client) else { return Ok(true) };
        if self.channels[index].own.is_none() {
            self.channels.swap_remove(index);
            return Ok(true);
        }
        self.channels[index].state = State::Handed(agent);
        session.send(&message::window_adjust(client, window))?;
        Ok(false)
    }

    /// The agent has refused the client's channel. Whether that is for the client to see as it is.
    pub fn refused(&mut self, client: u32) -> bool {
        let Some(index) = self.offered(client) else { return true };
        if self.channels[index].own.is_none() {
            self.channels.swap_remove(index);
            return true;
        }
        self.channels[index].lines = vec![Line::ForAll("the container refused the session".into())];
        self.channels[index].state = State::Failed;
        false
    }

    /// What is left of the window of a channel that the agent has been offered, where the server may have used some.
    pub fn window(&self, client: u32) -> Option<u32> {
        self.offered(client).map(|index| self.channels[index].window)
    }

    fn offered(&self, client: u32) -> Option<usize> {
        self.channels.iter().position(|channel| channel.client == client && matches!(channel.state, State::Offered))
    }

    /// The agent has closed the client's channel and the client the agent's: the number is free.
    pub fn forget(&mut self, own: u32) {
        self.channels.retain(|channel| channel.own != Some(own));
    }

    /// Writes lines to those channels whose client has asked for a shell or a command: before, it might not listen.
    pub fn show(&mut self, session: &mut Session, queue: &Queue) -> Result<(), Error> {
        for channel in self.channels.iter_mut().filter(|channel| !channel.lines.is_empty()) {
            let Some(asked) = channel.own.and_then(|own| Asked::find(queue, own)) else { continue };
            channel.terminal |= asked.terminal;
            channel.write_lines(session)?;
        }
        Ok(())
    }

    /// A client's message to the server's channel `own`: number and body.
    pub fn message(&mut self, session: &mut Session, own: u32, message: &[u8]) -> Result<Verdict, Error> {
        let Some(index) = self.channels.iter().position(|channel| channel.own == Some(own)) else {
            return Ok(Verdict::Unknown);
        };
        let channel = &mut self.channels[index];
        match (&channel.state, message.first()) {
            (State::Waiting | State::Offered, _) => return Ok(Verdict::Wait),
            (State::Handed(agent), _) => return Ok(Verdict::Forward(*agent)),
            (State::Failed, Some(&number::CHANNEL_REQUEST)) => {
                let Ok(request) = ChannelRequest::decode(&message[1..]) else { return Ok(Verdict::Unknown) };
                channel.terminal |= request.name == b"pty-req";
                if request.want_reply {
                    session.send(&message::bare(number::CHANNEL_SUCCESS, channel.client))?;
                }
                if starts(request.name) {
                    channel.end(session)?;
                }
            }
            (State::Failed, Some(&number::CHANNEL_CLOSE)) => {
                session.send(&message::bare(number::CHANNEL_CLOSE, channel.client))?;
                self.channels.swap_remove(index);
            }
            (State::Closed, Some(&number::CHANNEL_CLOSE)) => {
                self.channels.swap_remove(index);
            }
            (State::Failed | State::Closed, _) => (),
        }
        Ok(Verdict::Taken)
    }
}

impl Channel {
    fn confirm(&mut self, session: &mut Session, next: &mut u32) -> Result<(), Error> {
        if self.own.is_none() {
            let own = *next;
            *next = own & !(NUMBERS - 1) | own.wrapping_add(1) & (NUMBERS - 1);
            self.own = Some(own);
            session.send(&message::open_confirmation(self.client, own, 0))?;
        }
        Ok(())
    }

    /// Writes the lines to the channel's stderr, as far as the client's window goes.
    fn write_lines(&mut self, session: &mut Session) -> Result<(), Error> {
        for line in std::mem::take(&mut self.lines) {
            let line = match line {
                Line::ForTerminals(_) if !self.terminal => continue,
                Line::ForAll(line) | Line::ForTerminals(line) => line,
            };
            let window = &mut self.window;
            if let Some(notice) = message::notice(self.client, &line, self.terminal, window, self.maximum_packet) {
                session.send(&notice)?;
            }
        }
        Ok(())
    }

    /// Ends a session that got no container.
    fn end(&mut self, session: &mut Session) -> Result<(), Error> {
        self.write_lines(session)?;
        // libssh2 1.11 would wait for one though the channel is closed. Nothing that comes is kept.
        session.send(&message::window_adjust(self.client, message::WINDOW))?;
        session.send(&message::exit_status(self.client, STATUS))?;
        session.send(&message::bare(number::CHANNEL_EOF, self.client))?;
        session.send(&message::bare(number::CHANNEL_CLOSE, self.client))?;
        self.state = State::Closed;
        Ok(())
    }
}

/// What waiting messages ask of a channel.
struct Asked {
    terminal: bool,
}

impl Asked {
    /// Whether a shell or command was asked for on this channel, and whether on a terminal.
    fn find(queue: &Queue, own: u32) -> Option<Asked> {
        let mut terminal = false;
        for message in queue.iter() {
            let (Some(&number::CHANNEL_REQUEST), Ok(recipient)) = (message.first(), Reader::new(&message[1..]).u32())
            else {
                continue;
            };
            if recipient != own {
                continue;
            }
            let Ok(request) = ChannelRequest::decode(&message[1..]) else { continue };
            terminal |= request.name == b"pty-req";
            if starts(request.name) {
                return Some(Asked { terminal });
            }
        }
        None
    }
}
