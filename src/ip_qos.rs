//! The class of service of a connection's packets: `ssh.ipqos`, as sshd_config(5) has it for `IPQoS`. Where a line is busy,
//! networks that look at it let what somebody types pass what is being copied.

use std::os::fd::AsFd;

use rustix::net::sockopt;

/// The type-of-service byte (the code point of RFC 2474 and two bits) of connections with and without a terminal. `None` is
/// what the system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpQos {
    /// Where there is a session with a terminal.
    pub interactive: Option<u8>,
    /// Where there is none.
    pub bulk: Option<u8>,
}

impl Default for IpQos {
    /// OpenSSH's, since 10.1.
    fn default() -> Self {
        IpQos { interactive: Some(EXPEDITED), bulk: Some(0) }
    }
}

/// Expedited forwarding, RFC 3246.
const EXPEDITED: u8 = 46 << 2;

impl IpQos {
    /// Takes a class for both, or one for each, separated by spaces.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be one or two of af11 to af43, cs0 to cs7, ef, le, va and none, such as ef cs0: with a terminal, and without";
        let classes: Option<Vec<_>> = text.split_ascii_whitespace().map(class).collect();
        match classes.as_deref() {
            Some([both]) => Ok(IpQos { interactive: *both, bulk: *both }),
            Some([interactive, bulk]) => Ok(IpQos { interactive: *interactive, bulk: *bulk }),
            _ => Err(ALLOWED),
        }
    }
}

fn class(name: &str) -> Option<Option<u8>> {
    let name = name.to_ascii_lowercase();
    let point = match name.as_bytes() {
        b"ef" => EXPEDITED >> 2,
        b"va" => 44,
        b"le" => 1,
        [b'c', b's', class @ b'0'..=b'7'] => (class - b'0') << 3,
        [b'a', b'f', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => (class - b'0') << 3 | (drop - b'0') << 1,
        // Newer sshds take the names that came before these as well, and do nothing.
        b"none" | b"lowdelay" | b"throughput" | b"reliability" => return Some(None),
        _ => return None,
    };
    Some(Some(point << 2))
}

/// How a connection's packets are marked.
#[derive(Debug)]
pub struct Marking {
    classes: IpQos,
    interactive: Option<bool>,
}

impl Marking {
    /// Not at all yet.
    pub fn new(classes: IpQos) -> Self {
        Marking { classes, interactive: None }
    }

    /// Marks what is sent from here on. A network that does not take that is none to complain to.
    pub fn set(&mut self, socket: impl AsFd, interactive: bool) {
        if self.interactive.replace(interactive) == Some(interactive) {
            return;
        }
        let IpQos { interactive: first, bulk } = self.classes;
        if let Some(class) = if interactive { first } else { bulk } {
            // An IPv6 socket may have an IPv4 peer.
            let _ = sockopt::set_ip_tos(&socket, class);
            let _ = sockopt::set_ipv6_tclass(&socket, class.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::IpQos;

    #[test]
    fn classes_are_named_as_for_sshd() {
        let parse = |text| IpQos::parse(text).map(|IpQos { interactive, bulk }| (interactive, bulk));
        assert_eq!(parse("ef cs0"), Ok((Some(0xb8), Some(0))));
        assert_eq!(parse("AF21  cs1"), Ok((Some(0x48), Some(0x20))));
        assert_eq!(parse("le"), Ok((Some(4), Some(4))));
        assert_eq!(parse("none va"), Ok((None, Some(0xb0))));
        assert_eq!(parse("lowdelay throughput"), Ok((None, None)));
        for wrong in ["", "cs8", "af44", "af1", "ef cs0 le", "0x10"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(IpQos::parse("ef cs0"), Ok(IpQos::default()));
    }
}
