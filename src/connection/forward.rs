//! What the messages of forwarding add: RFC 4254 sections 6.3 and 7, and OpenSSH's PROTOCOL section 2.4.

use super::wire::{Malformed, Reader, Write};

/// A host, or an address to listen on, and a port: how `direct-tcpip`, `tcpip-forward`, `cancel-tcpip-forward` and
/// `forwarded-tcpip` begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// As the client named it.
    pub host: &'a [u8],
    /// Up to 65535 where it is a port at all.
    pub port: u32,
}

impl<'a> HostPort<'a> {
    /// Decodes the two fields, and leaves the reader behind them.
    pub fn decode(fields: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(HostPort { host: fields.string()?, port: fields.u32()? })
    }

    /// Appends the two fields to `message`.
    pub fn encode(&self, message: &mut Vec<u8>) {
        message.put_string(self.host);
        message.put_u32(self.port);
    }
}

impl std::fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host.escape_ascii(), self.port)
    }
}

/// Which addresses a forwarded port listens on: sshd_config(5), GatewayPorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayPorts {
    /// Loopback, whatever the client asks for.
    #[default]
    No,
    /// All, whatever the client asks for.
    Yes,
    /// Those that the client asks for.
    ClientSpecified,
}

impl GatewayPorts {
    /// All settings and their names, which are sshd_config(5)'s.
    pub const NAMES: &[(&str, GatewayPorts)] =
        &[("no", GatewayPorts::No), ("yes", GatewayPorts::Yes), ("clientspecified", GatewayPorts::ClientSpecified)];

    /// The setting of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, setting)| *setting)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, setting)| *setting == self).map_or("no", |(name, _)| name)
    }
}

/// How the agent listens for a client: the part of the server's policy that its hello carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Where forwarded ports listen.
    pub gateway_ports: GatewayPorts,
    /// Whether a file in the way of a forwarded unix socket is removed.
    pub unlink: bool,
}

impl Listening {
    /// Appends its fields to a hello.
    pub fn encode(&self, hello: &mut Vec<u8>) {
        hello.put_string(self.gateway_ports.name());
        hello.put_boolean(self.unlink);
    }

    /// Decodes its fields from a hello.
    pub fn decode(fields: &mut Reader) -> Result<Self, Malformed> {
        let gateway_ports = GatewayPorts::by_name(fields.utf8()?).ok_or(Malformed)?;
        Ok(Listening { gateway_ports, unlink: fields.boolean()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{GatewayPorts, Listening};
    use crate::connection::wire::{Malformed, Reader, Write};

    #[test]
    fn listening_is_decoded_as_it_was_encoded_and_an_unknown_setting_is_malformed() {
        for gateway_ports in [GatewayPorts::No, GatewayPorts::Yes, GatewayPorts::ClientSpecified] {
            let listening = Listening { gateway_ports, unlink: true };
            let mut hello = Vec::new();
            listening.encode(&mut hello);
            assert_eq!(Listening::decode(&mut Reader::new(&hello)), Ok(listening));
        }
        let mut hello = Vec::new();
        hello.put_string("maybe");
        hello.put_boolean(true);
        assert_eq!(Listening::decode(&mut Reader::new(&hello)), Err(Malformed));
    }
}
