//! The addresses of `from=`.

use std::net::IpAddr;

use crate::pattern;

/// A list of patterns that a client's address must match: networks in CIDR form, and patterns of `*` and `?`, any of
/// them negated by `!`. Host names are taken and match nothing, as for an sshd that resolves none (`UseDNS no`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    negated: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Network {
        address: IpAddr,
        length: u32,
    },
    /// In lower case.
    Text(String),
}

impl Sources {
    /// Takes a list, separated by commas. On failure, tells what is wrong.
    pub fn parse(list: &str) -> Result<Self, &'static str> {
        list.split(',').map(Source::parse).collect::<Result<_, _>>().map(Sources)
    }

    /// Takes a list of networks and addresses alone, as certificates have it.
    pub(super) fn parse_networks(list: &str) -> Result<Self, &'static str> {
        let sources = Sources::parse(list)?;
        let is_network = |source: &Source| !source.negated && matches!(source.pattern, Pattern::Network { .. });
        if sources.0.iter().all(is_network) { Ok(sources) } else { Err("an entry of the list is no network") }
    }

    /// Whether an address matches one of the patterns, and no negated one.
    pub fn allow(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let matches = |negated| self.0.iter().any(|source| source.negated == negated && source.pattern.matches(client));
        matches(false) && !matches(true)
    }
}

impl Source {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let (negated, pattern) = match entry.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, entry),
        };
        if pattern.is_empty() {
            return Err("an entry of the list is empty");
        }
        let (address, length) = match pattern.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (pattern, None),
        };
        let pattern = match (address.parse::<IpAddr>(), length) {
            (Ok(address), length) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                let length =
                    length.map_or(Ok(bits), str::parse).map_err(|_| "a network's prefix length is no number")?;
                if length > bits {
                    return Err("a network's prefix is longer than its address");
                }
                if !host_part_is_zero(address, length) {
                    return Err("a network's address goes on behind its prefix");
                }
                Pattern::Network { address, length }
            }
            (Err(_), Some(_)) => return Err("a network must be ADDRESS/LENGTH"),
            (Err(_), None) => Pattern::Text(pattern.to_ascii_lowercase()),
        };
        Ok(Source { negated, pattern })
    }
}

impl Pattern {
    fn matches(&self, client: IpAddr) -> bool {
        match self {
            &Pattern::Network { address, length } => match (address, client) {
                // A shift by all bits, for the prefix of length 0, gives nothing.
                (IpAddr::V4(network), IpAddr::V4(client)) => {
                    (network.to_bits() ^ client.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0
                }
                (IpAddr::V6(network), IpAddr::V6(client)) => {
                    (network.to_bits() ^ client.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0
                }
                _ => false,
            },
            Pattern::Text(text) => pattern::matches(text.as_bytes(), client.to_string().as_bytes()),
        }
    }
}

fn host_part_is_zero(address: IpAddr, length: u32) -> bool {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_shl(length).unwrap_or(0) == 0,
        IpAddr::V6(address) => address.to_bits().checked_shl(length).unwrap_or(0) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::Sources;

    fn allows(list: &str, client: &str) -> bool {
        Sources::parse(list).unwrap().allow(client.parse().unwrap())
    }

    #[test]
    fn networks_addresses_and_patterns_match() {
        for (list, client, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.4", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:DB8:0::1", "2001:db8::1", true),
            ("192.0.2.?", "192.0.2.7", true),
            ("192.0.2.*", "192.0.20.7", false),
            ("2001:DB8::*", "2001:db8::17", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("192.0.2.1,10.0.0.0/8", "10.1.2.3", true),
            ("*.example.com,example.com", "10.1.2.3", false),
        ] {
            assert_eq!(allows(list, client), expected, "{list} {client}");
        }
    }

    #[test]
    fn a_negated_match_refuses_wherever_it_stands() {
        assert!(allows("10.0.0.0/8,!10.1.0.0/16", "10.2.0.1"));
        assert!(!allows("10.0.0.0/8,!10.1.0.0/16", "10.1.0.1"));
        assert!(!allows("!10.1.0.*,10.0.0.0/8", "10.1.0.1"));
        // Nothing but negated entries lets nobody in.
        assert!(!allows("!10.1.0.1", "10.2.0.1"));
    }

    #[test]
    fn a_certificates_list_has_networks_alone() {
        assert!(Sources::parse_networks("10.0.0.0/8,::1").unwrap().allow("10.1.2.3".parse().unwrap()));
        for list in ["10.0.0.0/8,!10.1.0.0/16", "192.0.2.*", "example.com", ""] {
            assert!(Sources::parse_networks(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_broken_list_is_an_error() {
        for list in ["", "10.0.0.1,", "!", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "host/8"] {
            assert!(Sources::parse(list).is_err(), "{list}");
        }
    }
}
