//! The sessions that a client has with another SSH server, as far as berth has a say in them.
//!
//! What berth sets for a program, it asks for with `env`, as a client of that server would, and wants to hear whether the
//! server takes it (stock sshd has `AcceptEnv LANG LC_*`). The program is asked for only once all is taken. Where something is not, it is
//! not asked for, and the user is told. Meanwhile nothing else is carried to the server: so everything stays in order, and
//! nothing needs to be kept.

use std::collections::{HashMap, VecDeque};

use crate::connection::frame::REFUSED;
use crate::connection::message::{ChannelRequest, Open, notice};
use crate::connection::sftp_server;
use crate::connection::start::{Start, What, starts};
use crate::connection::wire::{Malformed, Write};

/// The variables of a session by which a server says where its client is. The other server knows better.
const OWN_VARIABLES: [&[u8]; 2] = [b"SSH_CLIENT", b"SSH_CONNECTION"];

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
    /// Whether a program was refused: then there is none any more.
    refused: bool,
}

/// What the server was asked for, and what follows.
#[derive(Debug)]
struct Asking {
    /// The server's number of the session.
    channel: u32,
    /// The names of the variables that it has not answered.
    variables: VecDeque<Vec<u8>>,
    /// One that it does not take.
    refused: Option<Vec<u8>>,
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
}

impl Sessions {
    pub(super) fn new(environment: Vec<(Vec<u8>, Vec<u8>)>, id: &str) -> Self {
        Sessions { environment, id: id.to_owned(), opening: HashMap::new(), open: HashMap::new(), asking: None }
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
            let session = Session { client, window, maximum_packet, terminal: false, unanswered: 0, refused: false };
            self.open.insert(server, session);
        }
    }

    /// The server has refused a channel.
    pub(super) fn refused(&mut self, client: u32) {
        self.opening.remove(&client);
    }

    /// The client has closed a channel.
    pub(super) fn closed_by_client(&mut self, server: u32) {
        self.open.remove(&server);
    }

    /// The server has closed a channel.
    pub(super) fn closed_by_server(&mut self, client: u32) {
        self.open.retain(|_, session| session.client != client);
        if self.asking.as_ref().is_some_and(|asking| !self.open.contains_key(&asking.channel)) {
            self.asking = None;
        }
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
        if self.open.get(&channel).is_some_and(|session| session.refused) {
            return Ok(self.refuse(channel, request.want_reply, ""));
        }
        let options = match start.what {
            What::Subsystem(command) => sftp_server::internal(command),
            What::Shell | What::Exec(_) => None,
        };
        match options.as_deref() {
            Some([]) => (),
            Some(_) => {
                log::warn!("{}: sshproxy: the server's SFTP cannot be given the options of internal-sftp", self.id);
                let reason = "the server behind this one cannot be held to the rules for your SFTP";
                return Ok(self.refuse(channel, request.want_reply, reason));
            }
            None => (),
        }
        // What a forced command calls berth's own server.
        let what = if options.is_some() { What::Subsystem(b"sftp") } else { start.what };
        let own = self.environment.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let variables: Vec<_> =
            own.chain(start.variables.iter().copied()).filter(|(name, _)| !OWN_VARIABLES.contains(name)).collect();
        let start = bare(what, request);
        if variables.is_empty() {
            if let Some(session) = self.open.get_mut(&channel) {
                session.unanswered += usize::from(request.want_reply);
            }
            return Ok(vec![Step::Server(start)]);
        }
        if !self.open.contains_key(&channel) {
            return Ok(self.refuse(channel, request.want_reply, ""));
        }
        let steps = variables.iter().map(|(name, value)| Step::Server(env(channel, name, value))).collect();
        let variables = variables.into_iter().map(|(name, _)| name.to_vec()).collect();
        self.asking = Some(Asking { channel, variables, refused: None, start, want_reply: request.want_reply });
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
        let name = asking.variables.pop_front();
        if !success && asking.refused.is_none() {
            asking.refused = name;
        }
        if !asking.variables.is_empty() {
            return Some(Vec::new());
        }
        let asking = self.asking.take()?;
        Some(match asking.refused {
            None => {
                session.unanswered += usize::from(asking.want_reply);
                vec![Step::Server(asking.start)]
            }
            Some(name) => {
                let name = name.escape_ascii();
                log::warn!("{}: sshproxy: the server does not take {name}, see its AcceptEnv: nothing starts", self.id);
                let reason = "the server behind this one does not take what is set for your session";
                self.refuse(asking.channel, asking.want_reply, reason)
            }
        })
    }

    /// Refuses a program on this channel, and all later ones, in the order of answers; tells the user why.
    fn refuse(&mut self, channel: u32, want_reply: bool, reason: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(session) = self.open.get_mut(&channel) {
            session.unanswered += usize::from(want_reply);
            let Session { client, window, maximum_packet, terminal, .. } = session;
            if !std::mem::replace(&mut session.refused, true) {
                let line = notice(*client, reason, *terminal, window, *maximum_packet);
                steps.extend(line.map(Step::Client));
            }
        }
        let refused = ChannelRequest { recipient: channel, name: REFUSED, want_reply, specific: b"" };
        steps.push(Step::Server(refused.encode()));
        steps
    }
}

/// RFC 4254's request for a program.
fn bare(what: What<'_>, request: &ChannelRequest<'_>) -> Vec<u8> {
    let mut specific = Vec::new();
    let name: &[u8] = match what {
        What::Shell => b"shell",
        What::Exec(command) => {
            specific.put_string(command);
            b"exec"
        }
        What::Subsystem(command) => {
            specific.put_string(command);
            b"subsystem"
        }
    };
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
            4 => sessions.closed_by_server(number),
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
    use super::{Sessions, Step, bare, env};
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
        Step::Server(bare(what, &request))
    }

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
        let steps = sessions.answered(3, true).unwrap();
        let [Step::Client(line), Step::Server(refused)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(line[0], number::CHANNEL_EXTENDED_DATA);
        assert_eq!(ChannelRequest::decode(&refused[1..]).unwrap().name, b"refused@berth");
        // Its failure is the client's to hear, and there is no other try.
        assert_eq!(sessions.answered(3, false), None);
        let steps = request(&mut sessions, &start(What::Shell));
        assert!(matches!(&steps[..], [Step::Server(again)] if again == refused), "{steps:?}");
    }

    #[test]
    fn the_built_in_sftp_is_the_servers_but_its_options_are_not() {
        let mut sessions = sessions();
        assert_eq!(request(&mut sessions, &start(What::Subsystem(b"internal-sftp"))), asked());
        sessions.answered(3, true);
        assert_eq!(sessions.answered(3, true), Some(vec![plain(What::Subsystem(b"sftp"))]));
        let mut sessions = super::tests::sessions();
        let steps = request(&mut sessions, &start(What::Subsystem(b"internal-sftp -R")));
        assert!(matches!(&steps[..], [Step::Client(_), Step::Server(_)]), "{steps:?}");
    }

    #[test]
    fn a_channel_that_is_closed_asks_for_nothing() {
        let mut sessions = sessions();
        request(&mut sessions, &start(What::Shell));
        sessions.closed_by_server(3);
        assert!(!sessions.is_asking());
        assert_eq!(sessions.answered(3, true), None);
        let steps = request(&mut sessions, &start(What::Shell));
        assert!(matches!(&steps[..], [Step::Server(_)]), "{steps:?}");
    }
}
