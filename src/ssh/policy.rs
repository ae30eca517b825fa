//! What a user may ask for.
//!
//! A request of a channel that is not allowed still goes to the agent, under a name that no agent knows: so its refusal
//! comes in its turn among the answers to the other requests of the channel (RFC 4254 section 4 wants them in order).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::{ForwardAddress, Restrictions};
use crate::config::{Forwarding, Security};
use crate::connection::forward::{HostPort, Listening};
use crate::connection::frame::{self, Queue, REFUSED};
use crate::connection::message::{ChannelRequest, GlobalRequest, Open};
use crate::connection::sftp_server;
use crate::connection::start::{Start, What, can_be_set};
use crate::connection::wire::{Malformed, Reader};

/// The variable that tells a forced command what its client has asked for.
const ORIGINAL_COMMAND: &[u8] = b"SSH_ORIGINAL_COMMAND";

/// The longest that the open of a forwarded connection, or the request for a listening socket, may be besides its name:
/// far above any host's name or socket's path. In bytes.
const LONGEST_FORWARDING: usize = 2048;

/// The rules for one connection: the configuration's and its key's.
#[derive(Default)]
pub struct Policy {
    /// The connection's id, for the log.
    pub connection: String,
    /// Name patterns of the variables that a client may set.
    pub accept_env: Vec<String>,
    /// The names of variables that the container has for its user: no client may set them.
    pub fixed: Vec<String>,
    /// The variables that every program has, over those that its client sets. Of two of a name, the last counts.
    pub environment: Vec<(String, String)>,
    /// The commands of subsystems, by their names. Without a table they are known by their names.
    pub subsystems: Option<BTreeMap<String, String>>,
    /// Which requests are granted at all, and what is run in place of them.
    pub security: Arc<Security>,
    /// What the configuration lets this user forward.
    pub forwarding: Forwarding,
    /// What the key holds the user to.
    pub restrictions: Restrictions,
}

impl Policy {
    /// Whether the client may open a channel to a port or a unix socket, and to this one.
    pub fn may_connect(&self, open: &Open<'_>) -> Result<bool, Malformed> {
        let lists = [&self.forwarding.permit_open, &self.restrictions.permit_open];
        let (mode, permitted) = match open.channel_type {
            b"direct-tcpip" => {
                let target = HostPort::decode(&mut Reader::new(open.specific))?;
                (self.forwarding.connect, lists.iter().all(|list| permits(list, target)))
            }
            b"direct-streamlocal@openssh.com" => (self.forwarding.connect_unix, lists.iter().all(|list| is_open(list))),
            _ => (false, false),
        };
        let allowed = mode && permitted && !self.restrictions.no_port_forwarding;
        Ok(allowed && open.specific.len() <= LONGEST_FORWARDING)
    }

    /// Whether the client may have a port or a unix socket listened on, and this one. It may always have that stopped.
    pub fn may_listen(&self, request: &GlobalRequest<'_>) -> Result<bool, Malformed> {
        let may_forward = !self.restrictions.no_port_forwarding;
        let allowed = match request.name {
            b"tcpip-forward" => {
                let wanted = HostPort::decode(&mut Reader::new(request.specific))?;
                let lists = [&self.forwarding.permit_listen, &self.restrictions.permit_listen];
                // A port that is chosen for a client that does not listen to which is of no use.
                let useful = wanted.port != 0 || request.want_reply;
                self.forwarding.listen && may_forward && useful && lists.iter().all(|list| permits(list, wanted))
            }
            // The lists have no say in these, as sshd's have none.
            b"streamlocal-forward@openssh.com" => self.forwarding.listen_unix && may_forward,
            b"cancel-tcpip-forward" | b"cancel-streamlocal-forward@openssh.com" => true,
            _ => false,
        };
        Ok(allowed && request.specific.len() <= LONGEST_FORWARDING)
    }

    /// How to listen where that is allowed.
    pub fn listening(&self) -> Listening {
        self.forwarding.listening
    }

    /// Whether the client's authentication agent may be lent to its programs.
    pub fn may_forward_agent(&self) -> bool {
        self.forwarding.agent && !self.restrictions.no_agent_forwarding
    }

    /// Whether the client's X display may be lent to its programs.
    pub fn may_forward_x11(&self) -> bool {
        self.forwarding.x11 && !self.restrictions.no_x11_forwarding
    }

    /// Whether the client may have the terminal that it asks for.
    pub fn may_have_terminal(&self, request: &ChannelRequest<'_>) -> Result<bool, Malformed> {
        Ok(self.grants(request)? && !self.restrictions.no_pty)
    }

    /// Appends to `agent` the frames that stand for this request of the client's.
    pub fn channel_request(&self, request: ChannelRequest<'_>, agent: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut specific = Reader::new(request.specific);
        // The configuration's goes over the key's, as in sshd_config(5).
        let forced = self.security.force_command.as_deref().or(self.restrictions.command.as_deref());
        match (request.name, forced) {
            _ if !self.grants(&request)? => self.refuse(&request, agent),
            (b"pty-req", _) if !self.may_have_terminal(&request)? => self.refuse(&request, agent),
            // As sshd does: the forced command is not the user's own.
            (b"signal", Some(_)) => self.refuse(&request, agent),
            (b"auth-agent-req@openssh.com", _) if !self.may_forward_agent() => self.refuse(&request, agent),
            (b"x11-req", _) if !self.may_forward_x11() => self.refuse(&request, agent),
            (b"shell", None) => self.start(What::Shell, None, &request, agent),
            (b"shell", Some(command)) => self.start(forced_as(command), None, &request, agent),
            (b"exec", None) => self.start(What::Exec(specific.string()?), None, &request, agent),
            (b"exec", Some(command)) => {
                self.start(forced_as(command), Some(specific.string()?), &request, agent);
            }
            (b"subsystem", forced) => match (self.subsystem(specific.string()?), forced) {
                (None, _) => self.refuse(&request, agent),
                (Some(own), None) => self.start(What::Subsystem(own.as_bytes()), None, &request, agent),
                (Some(own), Some(command)) => {
                    self.start(forced_as(command), Some(own.as_bytes()), &request, agent);
                }
            },
            _ => frame::append(agent, &request.encode()),
        }
        Ok(())
    }

    /// Appends what has the agent refuse the request.
    fn refuse(&self, request: &ChannelRequest<'_>, agent: &mut Vec<u8>) {
        // Clients send variables that nobody has asked for.
        let level = if request.name == b"env" { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "{}: refused: {}", self.connection, request.name.escape_ascii());
        frame::append(agent, &ChannelRequest { name: REFUSED, specific: b"", ..*request }.encode());
    }

    /// Appends the request that starts `what`, in place of the client's own request. With what the server sets for it:
    /// where that cannot be, it does not start. `original` is what the client asked for where `what` is forced.
    fn start(&self, what: What<'_>, original: Option<&[u8]>, request: &ChannelRequest<'_>, agent: &mut Vec<u8>) {
        if let What::Subsystem(command) = what
            && let Some(error) = sftp_server::unable(&String::from_utf8_lossy(command))
        {
            // The user is told by whoever would run it.
            log::warn!("{:?} cannot be run: {error}", String::from_utf8_lossy(command));
        }
        let variables = self.environment.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        // The built-in SFTP server has no use for it, and another SSH server might not take it.
        let original = original.filter(|_| matches!(what, What::Exec(_))).map(|command| (ORIGINAL_COMMAND, command));
        let start = Start { what, variables: variables.chain(original).collect() };
        let unable = start.variables.iter().find(|(name, value)| !can_be_set(name, value));
        let message = start.encode(request.recipient, request.want_reply);
        if let Some((name, value)) = unable {
            let (id, name) = (&self.connection, name.escape_ascii());
            log::warn!("{id}: no program can have a {name} of these {} bytes", value.len());
        } else if message.len() > frame::MAXIMUM {
            let id = &self.connection;
            log::warn!("{id}: a command and what the server sets for it come to {} bytes", message.len());
        } else {
            return frame::append(agent, &message);
        }
        self.refuse(request, agent);
    }

    /// The command of the subsystem of this name.
    fn subsystem<'a>(&'a self, name: &'a [u8]) -> Option<&'a str> {
        let text = str::from_utf8(name).ok()?;
        match &self.subsystems {
            Some(table) => table.get(text).map(String::as_str),
            // As a name, it would be another one for SFTP, of which `security.subsystem` knows nothing.
            None => sftp_server::internal(name).is_none().then_some(text),
        }
    }

    /// Whether the configuration grants a request, whoever asks and whatever is made of it then.
    fn grants(&self, request: &ChannelRequest<'_>) -> Result<bool, Malformed> {
        let (security, mut specific) = (&self.security, Reader::new(request.specific));
        Ok(match request.name {
            b"env" => {
                let name = specific.string()?;
                let is_fixed = self.fixed.iter().any(|fixed| fixed.as_bytes() == name);
                !is_fixed && security.grants_variable(&self.accept_env, name)
            }
            b"exec" => security.grants(&security.command, specific.string()?),
            b"shell" => security.grants(&security.shell, b""),
            b"subsystem" => security.grants(&security.subsystem, specific.string()?),
            b"pty-req" => security.grants(&security.tty, b""),
            b"signal" => security.grants(&security.signal, specific.string()?),
            _ => true,
        })
    }
}

/// How a forced command is run.
fn forced_as(command: &str) -> What<'_> {
    match sftp_server::internal(command.as_bytes()) {
        Some(_) => What::Subsystem(command.as_bytes()),
        None => What::Exec(command.as_bytes()),
    }
}

/// Whether a list, where there is one, has this address.
fn permits(list: &Option<Vec<ForwardAddress>>, address: HostPort) -> bool {
    list.as_ref().is_none_or(|list| list.iter().any(|permitted| permitted.covers(address.host, address.port)))
}

/// Whether a list keeps nothing out, and so no unix socket either.
fn is_open(list: &Option<Vec<ForwardAddress>>) -> bool {
    list.as_ref().is_none_or(|list| list.iter().any(|permitted| permitted.host.is_none() && permitted.port.is_none()))
}

/// Whatever a client asks of a channel becomes requests of that channel; the other questions are just answered.
pub(crate) fn fuzz(body: &[u8]) {
    let restricted = Restrictions { command: Some("true".into()), no_pty: true, ..Restrictions::default() };
    for restrictions in [Restrictions::default(), restricted] {
        let policy = Policy { accept_env: vec!["LC_*".into()], restrictions, ..Policy::default() };
        let mut queue = Queue::default();
        if let Ok(request) = ChannelRequest::decode(body)
            && policy.channel_request(request, queue.tail()).is_ok()
        {
            let requests = queue.iter().map(|message| ChannelRequest::decode(&message[1..]));
            assert!(requests.into_iter().all(|sent| sent.is_ok_and(|sent| sent.recipient == request.recipient)));
        }
        let _ = Open::decode(body).map(|open| policy.may_connect(&open));
        let _ = GlobalRequest::decode(body).map(|request| policy.may_listen(&request));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Policy, Queue};
    use crate::auth::{ForwardAddress, Restrictions};
    use crate::config::{Forwarding, Security};
    use crate::connection::forward::HostPort;
    use crate::connection::message::{ChannelRequest, GlobalRequest, Open};
    use crate::connection::start::{Start, What};
    use crate::connection::wire::Write;

    /// The names and specifics of what `request` becomes.
    fn filtered(restrictions: Restrictions, name: &str, specific: &[u8]) -> Vec<(String, Vec<u8>)> {
        filtered_by(Policy { restrictions, ..Policy::default() }, name, specific)
    }

    fn filtered_by(policy: Policy, name: &str, specific: &[u8]) -> Vec<(String, Vec<u8>)> {
        let accept_env = vec!["LANG".into(), "LC_*".into()];
        let subsystems = [("sftp", "internal-sftp"), ("hello", "echo hello")];
        let subsystems = Some(subsystems.map(|(name, command)| (name.to_owned(), command.to_owned())).into());
        let policy = Policy { accept_env, subsystems, ..policy };
        let mut queue = Queue::default();
        let request = ChannelRequest { recipient: 3, name: name.as_bytes(), want_reply: true, specific };
        policy.channel_request(request, queue.tail()).unwrap();
        queue
            .iter()
            .map(|message| {
                let request = ChannelRequest::decode(&message[1..]).unwrap();
                assert_eq!(request.recipient, 3);
                (String::from_utf8(request.name.to_vec()).unwrap(), request.specific.to_vec())
            })
            .collect()
    }

    /// The name and the specifics of a request that starts this with these variables.
    fn started(what: What<'_>, variables: &[(&[u8], &[u8])]) -> (String, Vec<u8>) {
        let message = Start { what, variables: variables.to_vec() }.encode(3, true);
        let request = ChannelRequest::decode(&message[1..]).unwrap();
        (String::from_utf8(request.name.to_vec()).unwrap(), request.specific.to_vec())
    }

    fn variable(name: &str, value: &str) -> Vec<u8> {
        let mut pair = Vec::new();
        pair.put_string(name);
        pair.put_string(value);
        pair
    }

    fn text(text: &str) -> Vec<u8> {
        let mut string = Vec::new();
        string.put_string(text);
        string
    }

    #[test]
    fn only_accepted_variables_pass() {
        let all = Restrictions::default;
        assert_eq!(filtered(all(), "env", &variable("LC_ALL", "C"))[0].0, "env");
        assert_eq!(filtered(all(), "env", &variable("LD_PRELOAD", "x"))[0].0, "refused@berth");
    }

    #[test]
    fn signals_are_filtered_by_name_and_before_all_else() {
        use crate::config::{Filter, Mode};
        let sent = |restrictions: Restrictions, name: &str| {
            let signal = Filter { mode: Some(Mode::Filter), allow: vec!["TERM".into()], ..Filter::default() };
            let command = Filter { mode: Some(Mode::Disable), ..Filter::default() };
            let security = Security { signal, command, ..Security::default() };
            let policy = Policy { security: Arc::new(security), restrictions, ..Policy::default() };
            let (mut queue, name, id) = (Queue::default(), text(name), text("id"));
            let request =
                |name: &'static [u8], specific| ChannelRequest { recipient: 3, name, want_reply: true, specific };
            policy.channel_request(request(b"signal", &name), queue.tail()).unwrap();
            policy.channel_request(request(b"exec", &id), queue.tail()).unwrap();
            let name = |message: &[u8]| ChannelRequest::decode(&message[1..]).unwrap().name == b"refused@berth";
            queue.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(sent(Restrictions::default(), "TERM"), [false, true]);
        assert_eq!(sent(Restrictions::default(), "KILL"), [true, true]);
        // A forced command is no way around it.
        let forced = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        assert_eq!(sent(forced, "TERM"), [true, true]);
    }

    #[test]
    fn a_forced_command_replaces_the_clients_and_tells_it() {
        let forced = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        assert_eq!(
            filtered(forced.clone(), "exec", &text("rm -rf /")),
            [started(What::Exec(b"date"), &[(b"SSH_ORIGINAL_COMMAND", b"rm -rf /")])]
        );
        assert_eq!(filtered(forced.clone(), "shell", b""), [started(What::Exec(b"date"), &[])]);
        assert_eq!(
            filtered(forced, "subsystem", &text("sftp")),
            [started(What::Exec(b"date"), &[(b"SSH_ORIGINAL_COMMAND", b"internal-sftp")])]
        );
    }

    #[test]
    fn what_the_server_sets_comes_with_the_program_and_is_not_the_clients_to_set() {
        let policy = || Policy {
            environment: vec![("SSH_ORIGINAL_COMMAND".into(), "forged".into()), ("LANG".into(), "C".into())],
            fixed: vec!["LC_TEAM".into()],
            ..Policy::default()
        };
        let variables: [(&[u8], &[u8]); 2] = [(b"SSH_ORIGINAL_COMMAND", b"forged"), (b"LANG", b"C")];
        assert_eq!(filtered_by(policy(), "shell", b"and more"), [started(What::Shell, &variables)]);
        assert_eq!(filtered_by(policy(), "env", &variable("LC_TEAM", "mine"))[0].0, "refused@berth");
        let restrictions = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        let policy = Policy { restrictions, ..policy() };
        // The last one wins.
        let variables = [&variables[..], &[(b"SSH_ORIGINAL_COMMAND", b"id")]].concat();
        assert_eq!(filtered_by(policy, "exec", &text("id")), [started(What::Exec(b"date"), &variables)]);
    }

    #[test]
    fn what_cannot_be_set_lets_nothing_start() {
        let forced = || Restrictions { command: Some("date".into()), ..Restrictions::default() };
        for original in ["a\0b".to_owned(), "x".repeat(128 * 1024)] {
            assert_eq!(filtered(forced(), "exec", &text(&original))[0].0, "refused@berth");
        }
        let long = |count: usize| (0..count).map(|number| (format!("V{number}"), "x".repeat(100_000))).collect();
        let sent = |environment| filtered_by(Policy { environment, ..Policy::default() }, "shell", b"")[0].0.clone();
        assert_eq!([sent(long(2)), sent(long(3))], ["shell", "refused@berth"]);
    }

    #[test]
    fn a_command_that_the_configuration_forces_goes_over_the_keys() {
        let restrictions = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        let security = Arc::new(Security { force_command: Some("uptime".into()), ..Security::default() });
        let policy = Policy { security, restrictions, ..Policy::default() };
        assert_eq!(filtered_by(policy, "shell", b""), [started(What::Exec(b"uptime"), &[])]);
    }

    #[test]
    fn subsystems_are_those_of_the_table() {
        let all = Restrictions::default;
        assert_eq!(filtered(all(), "subsystem", &text("hello")), [started(What::Subsystem(b"echo hello"), &[])]);
        assert_eq!(filtered(all(), "subsystem", &text("no-such"))[0].0, "refused@berth");
        let forced = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        assert_eq!(filtered(forced, "subsystem", &text("no-such"))[0].0, "refused@berth");
    }

    #[test]
    fn what_stands_for_the_built_in_server_is_no_name_for_a_client() {
        for (name, expected) in
            [("sftp", "subsystem"), ("internal-sftp", "refused@berth"), ("internal-sftp -R", "refused@berth")]
        {
            let mut queue = Queue::default();
            let request = ChannelRequest { recipient: 3, name: b"subsystem", want_reply: true, specific: &text(name) };
            Policy::default().channel_request(request, queue.tail()).unwrap();
            let sent = ChannelRequest::decode(&queue.iter().next().unwrap()[1..]).unwrap().name;
            assert_eq!(sent, expected.as_bytes(), "{name}");
        }
    }

    #[test]
    fn internal_sftp_is_the_subsystem() {
        for command in ["internal-sftp", "internal-sftp -R"] {
            let forced = Restrictions { command: Some(command.into()), ..Restrictions::default() };
            assert_eq!(filtered(forced, "shell", b""), [started(What::Subsystem(command.as_bytes()), &[])]);
        }
    }

    fn address(host: &str, port: u32) -> Vec<u8> {
        let mut specific = Vec::new();
        HostPort { host: host.as_bytes(), port }.encode(&mut specific);
        specific
    }

    fn may_connect(forwarding: Forwarding, restrictions: Restrictions, host: &str, port: u32) -> bool {
        let specific = address(host, port);
        let open = Open { channel_type: b"direct-tcpip", sender: 0, window: 0, maximum_packet: 0, specific: &specific };
        Policy { forwarding, restrictions, ..Policy::default() }.may_connect(&open).unwrap()
    }

    fn may_listen(forwarding: Forwarding, restrictions: Restrictions, name: &str, specific: &[u8]) -> bool {
        let request = GlobalRequest { name: name.as_bytes(), want_reply: true, specific };
        Policy { forwarding, restrictions, ..Policy::default() }.may_listen(&request).unwrap()
    }

    fn list(addresses: &[&str]) -> Option<Vec<ForwardAddress>> {
        Some(addresses.iter().map(|address| ForwardAddress::parse(address).unwrap()).collect())
    }

    #[test]
    fn agent_and_display_are_lent_only_where_both_configuration_and_key_allow() {
        let lent = |forwarding: &Forwarding, restrictions: &Restrictions| {
            ["auth-agent-req@openssh.com", "x11-req"].map(|name| {
                let mut queue = Queue::default();
                let request = ChannelRequest { recipient: 3, name: name.as_bytes(), want_reply: true, specific: b"" };
                let (forwarding, restrictions) = (forwarding.clone(), restrictions.clone());
                let policy = Policy { forwarding, restrictions, ..Policy::default() };
                policy.channel_request(request, queue.tail()).unwrap();
                ChannelRequest::decode(&queue.iter().next().unwrap()[1..]).unwrap().name == name.as_bytes()
            })
        };
        let (default, free) = (Forwarding::default(), Restrictions::default());
        assert_eq!(lent(&default, &free), [false, false]);
        let all = Forwarding { agent: true, x11: true, ..default };
        assert_eq!(lent(&all, &free), [true, true]);
        let restricted = Restrictions { no_agent_forwarding: true, no_x11_forwarding: true, ..free };
        assert_eq!(lent(&all, &restricted), [false, false]);
    }

    #[test]
    fn destinations_must_be_on_both_lists() {
        let (all, free) = (Forwarding::default, Restrictions::default);
        assert!(may_connect(all(), free(), "db", 5432));
        assert!(!may_connect(Forwarding { connect: false, ..all() }, free(), "db", 5432));
        assert!(!may_connect(all(), Restrictions { no_port_forwarding: true, ..free() }, "db", 5432));
        let forwarding = || Forwarding { permit_open: list(&["*.example:80", "db:*"]), ..all() };
        for (host, port, expected) in [
            ("www.example", 80, true),
            ("WWW.Example", 80, true),
            ("www.example", 443, false),
            ("db", 1, true),
            ("example", 80, false),
        ] {
            assert_eq!(may_connect(forwarding(), free(), host, port), expected, "{host}:{port}");
        }
        let restricted = || Restrictions { permit_open: list(&["*:80"]), ..free() };
        assert!(may_connect(forwarding(), restricted(), "db", 80));
        assert!(!may_connect(forwarding(), restricted(), "db", 81));
        assert!(!may_connect(all(), free(), &"x".repeat(5000), 80));
    }

    #[test]
    fn a_list_of_destinations_is_for_unix_sockets_too() {
        let open = Open {
            channel_type: b"direct-streamlocal@openssh.com",
            sender: 0,
            window: 0,
            maximum_packet: 0,
            specific: b"",
        };
        for (addresses, expected) in [(&["*:*"][..], true), (&["*:80", "x:*"], false), (&[], false)] {
            let restrictions = Restrictions { permit_open: list(addresses), ..Restrictions::default() };
            let policy = Policy { restrictions, ..Policy::default() };
            assert_eq!(policy.may_connect(&open), Ok(expected), "{addresses:?}");
        }
    }

    #[test]
    fn ports_are_listened_on_where_both_lists_have_them() {
        let (all, free) = (Forwarding::default, Restrictions::default);
        let port = address("localhost", 8080);
        assert!(may_listen(all(), free(), "tcpip-forward", &port));
        assert!(!may_listen(Forwarding { listen: false, ..all() }, free(), "tcpip-forward", &port));
        let restricted = || Restrictions { permit_listen: list(&["localhost:8080"]), ..free() };
        assert!(may_listen(all(), restricted(), "tcpip-forward", &port));
        assert!(!may_listen(all(), restricted(), "tcpip-forward", &address("localhost", 0)));
        assert!(!may_listen(all(), restricted(), "tcpip-forward", &address("", 8080)));
        assert!(may_listen(all(), restricted(), "streamlocal-forward@openssh.com", &text("/s")));
        let none = || Restrictions { no_port_forwarding: true, ..free() };
        assert!(!may_listen(all(), none(), "streamlocal-forward@openssh.com", &text("/s")));
        assert!(may_listen(all(), none(), "cancel-tcpip-forward", &port));
        assert!(!may_listen(all(), free(), "hostkeys-prove-00@openssh.com", b""));
    }
}
