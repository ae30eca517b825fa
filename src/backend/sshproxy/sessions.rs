//! The sessions that a client has with another SSH server, as far as berth has a say in them.
//!
//! What berth sets for a program, it asks for with `env`, as a client of that server would, and wants to hear whether the
//! server takes it (stock sshd has `AcceptEnv LANG LC_*`). The program is asked for only once all is taken. Where something is not, it is
//! not asked for, and the user is told. Meanwhile nothing else is carried to the server: so everything stays in order, and
//! nothing needs to be kept.

use std::collections::{HashMap, VecDeque};

use crate::connection::frame::REFUSED;
use crate::connection::message::{ChannelRequest, Open, bare, exit_status, notice, number};
use crate::connection::sftp_server;
use crate::connection::start::{Start, What, starts};
use crate::connection::wire::{Malformed, Write};

/// The variables of a session by which a server says where its client is. The other server knows better.
const OWN_VARIABLES: [&[u8]; 2] = [b"SSH_CLIENT", b"SSH_CONNECTION"];

/// How many sessions are waited for that berth has ended, and the server has not closed.
const MOST_CLOSING: usize = 1024;

/// A message, and for whom it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Server(Vec<u8>),
    Client(Vec<u8>),
}

/// A session that the server has confirmed.
#[derive(Debug)]
struct Session {
    /// The client's number.
    client: u32,
    /// The client's window, as far as it is known: a program has used nothing of it where none has run.
    window: u32,
    maximum_packet: u32,
    /// Whether the client has asked for a terminal.
    terminal: bool,
    /// How many of its client's requests the server has not answered.
    unanswered: usize,
    /// Whether berth has ended it: its client has been sent all that there is.
    ended: bool,
}

/// What the server was asked for, and what follows.
#[derive(Debug)]
struct Asking {
    /// The server's number of the session.
    channel: u32,
    /// The names of the variables that it has not answered.
    variables: VecDeque<Vec<u8>>,
    /// Why nothing is to be started: for the user.
    reason: Option<&'static str>,
    /// The request for the program.
    start: Vec<u8>,
    want_reply: bool,
}

/// All sessions of a connection.
#[derive(Debug)]
pub(super) struct Sessions {
    /// What every program is to have.
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// The connection's, for the log.
    id: String,
    /// Those that the server has not confirmed, by the client's numbers: window and largest packet.
    opening: HashMap<u32, (u32, u32)>,
    /// By the server's numbers.
    open: HashMap<u32, Session>,
    asking: Option<Asking>,
    /// The client's numbers of sessions that berth has ended and the client has closed, and the server not.
    closing: Vec<u32>,
}

impl Sessions {
    pub(super) fn new(environment: Vec<(Vec<u8>, Vec<u8>)>, id: &str) -> Self {
        Sessions {
            environment,
            id: id.to_owned(),
            opening: HashMap::new(),
            open: HashMap::new(),
            asking: None,
            closing: Vec::new(),
        }
    }

    /// Whether the server has been asked for something: until it has answered, it is to be asked for nothing else.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// The client opens a channel.
    pub(super) fn open(&mut self, open: &Open<'_>) {
        if open.channel_type == b"session" {
            self.opening.insert(open.sender, (open.window, open.maximum_packet));
        }
    }

    /// The server has confirmed a channel, which it calls `server`.
    pub(super) fn confirmed(&mut self, client: u32, server: u32) {
        if let Some((window, maximum_packet)) = self.opening.remove(&client) {
            let session = Session { client, window, maximum_packet, terminal: false, unanswered: 0, ended: false };
            self.open.insert(server, session);
        }
    }

    /// The server has refused a channel.
    pub(super) fn refused(&mut self, client: u32) {
        self.opening.remove(&client);
    }

    /// The client has closed a channel.
    pub(super) fn closed_by_client(&mut self, server: u32) {
        let ended = self.open.remove(&server).filter(|session| session.ended && self.closing.len() < MOST_CLOSING);
        self.closing.extend(ended.map(|session| session.client));
    }

    /// Whether a terminal was asked for that is open still.
    pub(super) fn have_terminal(&self) -> bool {
        self.open.values().any(|session| session.terminal)
    }

    /// Whether berth has ended what the server calls so: nothing but the end is for the server.
    pub(super) fn has_ended(&self, server: u32) -> bool {
        self.open.get(&server).is_some_and(|session| session.ended)
    }

    /// Whether what the server says is not for the client, which has been told of the channel's end.
    pub(super) fn keeps(&self, client: u32) -> bool {
        let of_client = self.open.values().find(|session| session.client == client);
        of_client.map_or_else(|| self.closing.contains(&client), |session| session.ended)
    }

    /// The server has closed a channel. Whether that is for the client.
    pub(super) fn closed_by_server(&mut self, client: u32) -> bool {
        if let Some(place) = self.closing.iter().position(|closing| *closing == client) {
            self.closing.swap_remove(place);
            return false;
        }
        let ended = self.keeps(client);
        self.open.retain(|_, session| session.client != client || session.ended);
        if self.asking.as_ref().is_some_and(|asking| !self.open.contains_key(&asking.channel)) {
            self.asking = None;
        }
        !ended
    }

    /// What a request of the client's becomes.
    pub(super) fn request(&mut self, request: &ChannelRequest<'_>) -> Result<Vec<Step>, Malformed> {
        if !starts(request.name) {
            if let Some(session) = self.open.get_mut(&request.recipient) {
                session.unanswered += usize::from(request.want_reply);
                session.terminal |= request.name == b"pty-req";
            }
            return Ok(vec![Step::Server(request.encode())]);
        }
        let start = Start::decode(request)?;
        let channel = request.recipient;
        let options = match start.what {
            What::Subsystem(command) => sftp_server::internal(command),
            What::Shell | What::Exec(_) => None,
        };
        // What a forced command calls berth's own server.
        let what = if options.is_some() { What::Subsystem(b"sftp") } else { start.what };
        let own = self.environment.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let variables: Vec<_> =
            own.chain(start.variables.iter().copied()).filter(|(name, _)| !OWN_VARIABLES.contains(name)).collect();
        let start = plain(what, request);
        let Some(session) = self.open.get_mut(&channel) else {
            // Only sessions have programs: the server says so.
            let refused = ChannelRequest { name: REFUSED, specific: b"", ..*request };
            return Ok(vec![Step::Server(refused.encode())]);
        };
        if options.is_some_and(|options| !options.is_empty()) {
            log::warn!("{}: sshproxy: the server's SFTP cannot be given the options of internal-sftp", self.id);
            let reason = Some("the server behind this one cannot be held to the rules for your SFTP");
            self.asking = Some(Asking {
                channel,
                variables: [REFUSED.to_vec()].into(),
                reason,
                start,
                want_reply: request.want_reply,
            });
            // Its answer comes behind those to what the client has asked for before.
            let refused = ChannelRequest { name: REFUSED, want_reply: true, specific: b"", ..*request };
            return Ok(vec![Step::Server(refused.encode())]);
        }
        if variables.is_empty() {
            session.unanswered += usize::from(request.want_reply);
            return Ok(vec![Step::Server(start)]);
        }
        let steps = variables.iter().map(|(name, value)| Step::Server(env(channel, name, value))).collect();
        let variables = variables.into_iter().map(|(name, _)| name.to_vec()).collect();
        self.asking = Some(Asking { channel, variables, reason: None, start, want_reply: request.want_reply });
        Ok(steps)
    }

    /// The server has answered a request of the client's channel. `None` where that is the client's to hear.
    pub(super) fn answered(&mut self, client: u32, success: bool) -> Option<Vec<Step>> {
        let (server, session) = self.open.iter_mut().find(|(_, session)| session.client == client)?;
        if session.unanswered > 0 {
            session.unanswered -= 1;
            return None;
        }
        let asking = self.asking.as_mut().filter(|asking| asking.channel == *server)?;
        let name = asking.variables.pop_front().unwrap_or_default();
        if !success && asking.reason.is_none() {
            let name = name.escape_ascii();
            log::warn!("{}: sshproxy: the server does not take {name}, see its AcceptEnv: nothing starts", self.id);
            asking.reason = Some("the server behind this one does not take what is set for your session");
        }
        if !asking.variables.is_empty() {
            return Some(Vec::new());
        }
        let Asking { start, want_reply, reason, .. } = self.asking.take()?;
        Some(match reason {
            None => {
                session.unanswered += usize::from(want_reply);
                vec![Step::Server(start)]
            }
            Some(reason) => session.end(want_reply, reason),
        })
    }
}

impl Session {
    /// Ends it in the server's place, as of a failed `ssh`: a client that is refused a program may show nothing more. The
    /// client then closes the server's channel.
    fn end(&mut self, want_reply: bool, reason: &str) -> Vec<Step> {
        self.ended = true;
        let success = want_reply.then(|| bare(number::CHANNEL_SUCCESS, self.client));
        let line = notice(self.client, reason, self.terminal, &mut self.window, self.maximum_packet);
        let end = [
            exit_status(self.client, 255),
            bare(number::CHANNEL_EOF, self.client),
            bare(number::CHANNEL_CLOSE, self.client),
        ];
        success.into_iter().chain(line).chain(end).map(Step::Client).collect()
    }
}

/// RFC 4254's request for a program.
fn plain(what: What<'_>, request: &ChannelRequest<'_>) -> Vec<u8> {
    let (name, specific) = what.request();
    ChannelRequest { name, specific: &specific, ..*request }.encode()
}

fn env(recipient: u32, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_string(name);
    specific.put_string(value);
    ChannelRequest { recipient, name: b"env", want_reply: true, specific: &specific }.encode()
}

/// Messages of a client's and a server's, in turns: the server hears of no program before it has taken all variables.
pub(super) fn fuzz(data: &[u8]) {
    let mut sessions = Sessions::new(vec![(b"A".to_vec(), b"1".to_vec())], "");
    for message in crate::fuzzing::pieces(data) {
        let Some((kind, body)) = message.split_first() else { continue };
        let number = u32::from(body.first().copied().unwrap_or_default());
        match kind % 7 {
            0 => drop(Open::decode(body).map(|open| sessions.open(&open))),
            1 => sessions.confirmed(number, number.wrapping_add(1)),
            2 => sessions.refused(number),
            3 => sessions.closed_by_client(number),
            4 => drop(sessions.closed_by_server(number)),
            5 if !sessions.is_asking() => {
                let steps = ChannelRequest::decode(body).and_then(|request| sessions.request(&request));
                for step in steps.unwrap_or_default() {
                    let Step::Server(message) = step else { continue };
                    assert!(ChannelRequest::decode(&message[1..]).is_ok_and(|sent| !starts(sent.name)));
                }
            }
            5 => (),
            _ => drop(sessions.answered(number, kind % 2 == 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Sessions, Step, env};
    use crate::connection::message::{ChannelRequest, Open, number};
    use crate::connection::start::{Start, What};

    /// With a session that the client calls 3 and the server 7.
    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(vec![(b"TEAM".to_vec(), b"blue".to_vec())], "");
        sessions.open(&Open { channel_type: b"session", sender: 3, window: 1000, maximum_packet: 1000, specific: b"" });
        sessions.confirmed(3, 7);
        sessions
    }

    fn request(sessions: &mut Sessions, message: &[u8]) -> Vec<Step> {
        sessions.request(&ChannelRequest::decode(&message[1..]).unwrap()).unwrap()
    }

    fn start(what: What<'_>) -> Vec<u8> {
        Start { what, variables: vec![(b"SSH_CLIENT", b"x"), (b"SSH_ORIGINAL_COMMAND", b"id")] }.encode(7, true)
    }

    fn plain(what: What<'_>) -> Step {
        let request = ChannelRequest { recipient: 7, name: b"", want_reply: true, specific: b"" };
        Step::Server(super::plain(what, &request))
    }

    /// The numbers of messages that are all for the client.
    fn for_client(steps: &[Step]) -> Vec<u8> {
        let number = |step: &Step| match step {
            Step::Client(message) => message[0],
            Step::Server(message) => panic!("{message:?} is for the server"),
        };
        steps.iter().map(number).collect()
    }

    /// What a session is that nothing was started in.
    const END: [u8; 5] = [
        number::CHANNEL_SUCCESS,
        number::CHANNEL_EXTENDED_DATA,
        number::CHANNEL_REQUEST,
        number::CHANNEL_EOF,
        number::CHANNEL_CLOSE,
    ];

    fn asked() -> [Step; 2] {
        [Step::Server(env(7, b"TEAM", b"blue")), Step::Server(env(7, b"SSH_ORIGINAL_COMMAND", b"id"))]
    }

    #[test]
    fn a_program_is_asked_for_once_the_server_has_taken_its_variables() {
        let mut sessions = sessions();
        let terminal = ChannelRequest { recipient: 7, name: b"pty-req", want_reply: true, specific: b"" }.encode();
        assert_eq!(request(&mut sessions, &terminal), [Step::Server(terminal.clone())]);
        assert_eq!(request(&mut sessions, &start(What::Exec(b"date"))), asked());
        assert!(sessions.is_asking());
        // First comes the client's own answer.
        assert_eq!(sessions.answered(3, false), None);
        assert_eq!(sessions.answered(3, true), Some(vec![]));
        assert_eq!(sessions.answered(3, true), Some(vec![plain(What::Exec(b"date"))]));
        assert!(!sessions.is_asking());
        assert_eq!((sessions.answered(3, true), sessions.answered(4, true)), (None, None));
    }

    #[test]
    fn nothing_starts_where_a_variable_is_not_taken() {
        let mut sessions = sessions();
        assert_eq!(request(&mut sessions, &start(What::Shell)), asked());
        assert_eq!(sessions.answered(3, false), Some(vec![]));
        assert_eq!(for_client(&sessions.answered(3, true).unwrap()), END);
        assert!(sessions.has_ended(7) && sessions.keeps(3) && !sessions.is_asking());
        // The client closes it, and may use its number again; the server's end is of the old one.
        sessions.closed_by_client(7);
        assert!(!sessions.has_ended(7) && sessions.keeps(3));
        assert!(!sessions.closed_by_server(3) && !sessions.keeps(3) && sessions.closed_by_server(3));
    }

    #[test]
    fn a_session_that_was_ended_and_that_the_server_closes_first_is_no_news() {
        let mut sessions = sessions();
        request(&mut sessions, &start(What::Shell));
        sessions.answered(3, false);
        sessions.answered(3, false);
        assert!(!sessions.closed_by_server(3));
        assert!(sessions.has_ended(7));
    }

    #[test]
    fn the_built_in_sftp_is_the_servers_but_its_options_are_not() {
        let mut sessions = sessions();
        assert_eq!(request(&mut sessions, &start(What::Subsystem(b"internal-sftp"))), asked());
        sessions.answered(3, true);
        assert_eq!(sessions.answered(3, true), Some(vec![plain(What::Subsystem(b"sftp"))]));
        let mut sessions = super::tests::sessions();
        let terminal = ChannelRequest { recipient: 7, name: b"pty-req", want_reply: true, specific: b"" }.encode();
        request(&mut sessions, &terminal);
        let steps = request(&mut sessions, &start(What::Subsystem(b"internal-sftp -R")));
        assert!(matches!(&steps[..], [Step::Server(_)]) && sessions.is_asking(), "{steps:?}");
        assert_eq!(sessions.answered(3, true), None);
        assert_eq!(for_client(&sessions.answered(3, false).unwrap()), END);
    }

    #[test]
    fn a_channel_that_is_closed_asks_for_nothing() {
        let mut sessions = sessions();
        request(&mut sessions, &start(What::Shell));
        assert!(sessions.closed_by_server(3));
        assert!(!sessions.is_asking());
        assert_eq!(sessions.answered(3, true), None);
        let steps = request(&mut sessions, &start(What::Shell));
        assert!(matches!(&steps[..], [Step::Server(_)]), "{steps:?}");
    }
}
