//! What of forwarding is allowed: the section `security.forwarding`, and a user's own.

use std::sync::Arc;

use super::kind::{any_number_of, choice, parsed};
use super::section::Section;
use crate::auth::{ByName, ForwardAddress};
use crate::connection::forward::{GatewayPorts, Listening};

/// Settings of forwarding for all users.
#[derive(Clone, Debug, Default)]
pub struct Forwardings {
    /// `security.forwarding`
    pub everyone: Forwarding,
    /// The same for users of `auth.users`, with what their groups and they themselves have over that.
    pub users: Arc<ByName<Forwarding>>,
}

impl Forwardings {
    /// The settings for this user.
    pub fn of(&self, user: &str) -> &Forwarding {
        self.users.get(user).unwrap_or(&self.everyone)
    }
}

/// Settings of forwarding, resolved. A key's options can take more away, and give nothing back.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// `forwardingMode`: connections to ports, as with `ssh -L`, `-D`, `-W` and `-J`.
    pub connect: bool,
    /// `reverseForwardingMode`: ports that lead to the client, as with `ssh -R`.
    pub listen: bool,
    /// `socketForwardingMode`: connections to unix sockets.
    pub connect_unix: bool,
    /// `socketListenMode`: unix sockets that lead to the client.
    pub listen_unix: bool,
    /// `agentForwardingMode`: the client's authentication agent, as with `ssh -A`.
    pub agent: bool,
    /// `x11ForwardingMode`: the client's X display, as with `ssh -X`.
    pub x11: bool,
    /// `permitOpen`: the only hosts and ports that may be connected to, where there are any.
    pub permit_open: Option<Vec<ForwardAddress>>,
    /// `permitListen`: the only addresses and ports that may be listened on, where there are any.
    pub permit_listen: Option<Vec<ForwardAddress>>,
    /// `gatewayPorts` and `streamLocalBindUnlink`: how to listen.
    pub listening: Listening,
}

impl Default for Forwarding {
    /// As `sshd`, which has no container around what it forwards to: but the agent's keys and the X display are the
    /// client's own, and not lent unless that is allowed.
    fn default() -> Self {
        Forwarding {
            connect: true,
            listen: true,
            connect_unix: true,
            listen_unix: true,
            agent: false,
            x11: false,
            permit_open: None,
            permit_listen: None,
            listening: Listening::default(),
        }
    }
}

pub(super) fn section() -> Section<Forwarding> {
    const MODES: &[(&str, bool)] = &[("enable", true), ("disable", false)];
    const ANSWERS: &[(&str, bool)] = &[("yes", true), ("no", false)];
    // In ContainerSSH, too, this is to disable: there is no list to filter by.
    const FILTER: &[(&str, bool)] = &[("filter", false)];
    let mode = || choice(MODES, &[]).also(FILTER);
    let destination = parsed("a host and port", |text| ForwardAddress::parse(text).ok_or(DESTINATION));
    let listener = parsed("an address and port", |text| ForwardAddress::parse_listener(text).ok_or(LISTENER));
    Section::new()
        .key("forwardingMode", |forwarding: &mut Forwarding| &mut forwarding.connect, mode())
        .key("reverseForwardingMode", |forwarding| &mut forwarding.listen, mode())
        .key("socketForwardingMode", |forwarding| &mut forwarding.connect_unix, mode())
        .key("socketListenMode", |forwarding| &mut forwarding.listen_unix, mode())
        .key("agentForwardingMode", |forwarding| &mut forwarding.agent, mode())
        .key("x11ForwardingMode", |forwarding| &mut forwarding.x11, mode())
        .key("permitOpen", |forwarding| forwarding.permit_open.get_or_insert_default(), any_number_of(destination))
        .key("permitListen", |forwarding| forwarding.permit_listen.get_or_insert_default(), any_number_of(listener))
        .key("gatewayPorts", |forwarding| &mut forwarding.listening.gateway_ports, choice(GatewayPorts::NAMES, &[]))
        .key("streamLocalBindUnlink", |forwarding| &mut forwarding.listening.unlink, choice(ANSWERS, &[]))
}

const DESTINATION: &str = "must be HOST:PORT, where '*' stands for any, and an address with colons is in brackets";
const LISTENER: &str = "must be [ADDRESS:]PORT, where '*' stands for any, and an address with colons is in brackets";

#[cfg(test)]
#[path = "forwarding_tests.rs"]
mod tests;
