//! What a user may ask of a session channel.
//!
//! A request that is not allowed still goes to the agent, under a name that no agent knows: so its refusal comes in its
//! turn among the answers to the other requests of the channel (RFC 4254 section 4 wants them in order).

use crate::auth::Restrictions;
use crate::connection::frame;
use crate::connection::message::ChannelRequest;
use crate::connection::wire::{Malformed, Reader, Write};
use crate::pattern::matches;

/// The name under which a refused request travels.
const REFUSED: &[u8] = b"refused@berth";

/// A forced command of this name stands for the built-in SFTP server, as in sshd_config(5), ForceCommand.
const INTERNAL_SFTP: &str = "internal-sftp";

/// Rules for channel requests.
pub struct Policy {
    /// Name patterns of the variables that a client may set.
    accept_env: Vec<String>,
    restrictions: Restrictions,
}

impl Policy {
    pub fn new(accept_env: Vec<String>, restrictions: Restrictions) -> Self {
        Policy { accept_env, restrictions }
    }

    /// Appends to `agent` the frames that stand for this request of the client's.
    pub fn channel_request(&self, request: ChannelRequest<'_>, agent: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut specific = Reader::new(request.specific);
        let refused = ChannelRequest { name: REFUSED, specific: b"", ..request };
        match (request.name, &self.restrictions.command) {
            (b"env", _) if !self.accepts(specific.string()?) => frame::append(agent, &refused.encode()),
            (b"pty-req", _) if self.restrictions.no_pty => frame::append(agent, &refused.encode()),
            // As sshd does: the forced command is not the user's own.
            (b"signal", Some(_)) => frame::append(agent, &refused.encode()),
            (b"auth-agent-req@openssh.com" | b"x11-req", _) => frame::append(agent, &refused.encode()),
            (b"shell" | b"exec" | b"subsystem", Some(command)) => {
                if request.name != b"shell" {
                    let mut variable = Vec::new();
                    variable.put_string("SSH_ORIGINAL_COMMAND");
                    variable.put_string(specific.string()?);
                    let env = ChannelRequest { name: b"env", want_reply: false, specific: &variable, ..request };
                    frame::append(agent, &env.encode());
                }
                let mut specific = Vec::new();
                let name: &[u8] = if command == INTERNAL_SFTP {
                    specific.put_string("sftp");
                    b"subsystem"
                } else {
                    specific.put_string(command);
                    b"exec"
                };
                frame::append(agent, &ChannelRequest { name, specific: &specific, ..request }.encode());
            }
            _ => frame::append(agent, &request.encode()),
        }
        Ok(())
    }

    fn accepts(&self, name: &[u8]) -> bool {
        self.accept_env.iter().any(|pattern| matches(pattern.as_bytes(), name))
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;
    use crate::auth::Restrictions;
    use crate::connection::frame::Queue;
    use crate::connection::message::ChannelRequest;
    use crate::connection::wire::Write;

    /// The names and specifics of what `request` becomes.
    fn filtered(restrictions: Restrictions, name: &str, specific: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut queue = Queue::default();
        let policy = Policy::new(vec!["LANG".into(), "LC_*".into()], restrictions);
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
    fn a_forced_command_replaces_the_clients_and_tells_it() {
        let forced = Restrictions { command: Some("date".into()), ..Restrictions::default() };
        assert_eq!(
            filtered(forced.clone(), "exec", &text("rm -rf /")),
            [("env".into(), variable("SSH_ORIGINAL_COMMAND", "rm -rf /")), ("exec".into(), text("date"))]
        );
        assert_eq!(filtered(forced.clone(), "shell", b""), [("exec".into(), text("date"))]);
        assert_eq!(filtered(forced, "subsystem", &text("sftp"))[1], ("exec".into(), text("date")));
    }

    #[test]
    fn internal_sftp_is_the_subsystem() {
        let forced = Restrictions { command: Some("internal-sftp".into()), ..Restrictions::default() };
        assert_eq!(filtered(forced, "shell", b""), [("subsystem".into(), text("sftp"))]);
    }
}
