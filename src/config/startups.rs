//! How many clients may be at their login, and from where: the forms of sshd_config(5) for `MaxStartups` and
//! `PerSource...`.

use std::net::IpAddr;
use std::time::Duration;

use super::kind::{Scalar, parse_duration, parse_integer, parsed};

/// The most that any of the numbers may be.
const MOST: usize = 65_535;

/// `maxStartups`: `start:rate:full`, or `full` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStartups {
    /// From so many clients on, one more is let in at another's cost or not at all, by chance.
    pub start: usize,
    /// The chance of that at `start`, in percent. It grows to 100 at `full`.
    pub rate: u32,
    /// So many may there be.
    pub full: usize,
}

impl MaxStartups {
    /// Takes either form.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be a number from 1 to 65535, or start:rate:full, such as 50:30:100";
        let number = |text| parse_integer(text).and_then(|number| usize::try_from(number).ok());
        let number = |text| number(text).filter(|number| (1..=MOST).contains(number));
        let parts: Vec<&str> = text.split(':').collect();
        let parsed = match parts[..] {
            [full] => number(full).map(|full| MaxStartups { start: full, rate: 100, full }),
            [start, rate, full] => number(start)
                .zip(number(full))
                .zip(rate.parse().ok())
                .map(|((start, full), rate)| MaxStartups { start, rate, full }),
            _ => None,
        };
        parsed.filter(|parsed| parsed.start <= parsed.full && (1..=100).contains(&parsed.rate)).ok_or(ALLOWED)
    }

    /// The chance, in percent, that one more is not simply let in where there are `count`.
    pub fn chance(&self, count: usize) -> u32 {
        if count < self.start {
            return 0;
        }
        if count >= self.full {
            return 100;
        }
        // Below `full`, so there is a difference.
        let (above, range) = ((count - self.start) as u32, (self.full - self.start) as u32);
        self.rate + (100 - self.rate) * above / range
    }
}

/// `perSourceNetBlockSize`: how many bits of an address make a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetBlockSize {
    /// Of an IPv4 address.
    pub v4: u8,
    /// Of an IPv6 address.
    pub v6: u8,
}

impl NetBlockSize {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (v4, v6) = text.split_once(':').unwrap_or((text, "64"));
        let bits = |text: &str, most| text.parse().ok().filter(|bits: &u8| *bits <= most);
        let sizes = bits(v4, 32).zip(bits(v6, 128)).map(|(v4, v6)| NetBlockSize { v4, v6 });
        sizes.ok_or("must be bits of an IPv4 address, and of an IPv6 address, such as 32:64")
    }

    /// The network that an address belongs to.
    pub fn source(&self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }
}

/// One of the words of `perSourcePenalties`.
#[derive(Clone, Copy, Debug)]
pub struct PenaltyOption(fn(&mut Penalties, Value), Value);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Time(Duration),
    Number(usize),
    Switch(bool),
}

/// `perSourcePenalties`: for how long a source is refused for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Penalties {
    /// `no` is without.
    pub are_used: bool,
    /// `crash`: a thread of its connection's panicked.
    pub crash: Duration,
    /// `authfail`: it tried to log in, and left without being in.
    pub auth_fail: Duration,
    /// `noauth`: it left without having tried.
    pub no_auth: Duration,
    /// `grace-exceeded`: it kept a place for longer than it may, or while others had none.
    pub grace_exceeded: Duration,
    /// `max`: the longest that a source is refused for.
    pub max: Duration,
    /// `min`: what has to come together before it is refused.
    pub min: Duration,
    /// `max-sources4` and `max-sources6`: how many sources are known.
    pub max_sources: [usize; 2],
    /// `overflow:deny-all` and `overflow6:deny-all`: where there are more, all are refused that are not exempt.
    pub deny_all: [bool; 2],
}

impl Default for Penalties {
    fn default() -> Self {
        Penalties {
            are_used: true,
            crash: Duration::from_secs(90),
            auth_fail: Duration::from_secs(5),
            no_auth: Duration::from_secs(1),
            grace_exceeded: Duration::from_secs(10),
            max: Duration::from_secs(600),
            min: Duration::from_secs(60),
            max_sources: [65_536; 2],
            deny_all: [false; 2],
        }
    }
}

impl Penalties {
    /// What these words say, over the defaults.
    pub fn of(options: &[PenaltyOption]) -> Self {
        let mut penalties = Penalties::default();
        for PenaltyOption(set, value) in options {
            set(&mut penalties, *value);
        }
        penalties
    }
}

impl PenaltyOption {
    fn parse(text: &str) -> Result<Self, String> {
        let time = |text: &str| parse_duration(text).or(text.parse().ok().map(Duration::from_secs));
        let (word, value) = text.split_once(':').unwrap_or((text, ""));
        let value = match (word, value) {
            ("no" | "yes", "") => Some(Value::Switch(word == "yes")),
            ("overflow" | "overflow6", "deny-all" | "permissive") => Some(Value::Switch(value == "deny-all")),
            ("no" | "yes" | "overflow" | "overflow6", _) => None,
            ("max-sources4" | "max-sources6", _) => value.parse().ok().filter(|number| *number > 0).map(Value::Number),
            _ => time(value).filter(|time| *time <= Duration::from_secs(24 * 3600)).map(Value::Time),
        };
        let set: fn(&mut Penalties, Value) = match word {
            "no" | "yes" => |penalties, value| penalties.are_used = value.switch(),
            "crash" => |penalties, value| penalties.crash = value.time(),
            "authfail" => |penalties, value| penalties.auth_fail = value.time(),
            "noauth" => |penalties, value| penalties.no_auth = value.time(),
            "grace-exceeded" => |penalties, value| penalties.grace_exceeded = value.time(),
            "max" => |penalties, value| penalties.max = value.time(),
            "min" => |penalties, value| penalties.min = value.time(),
            "max-sources4" => |penalties, value| penalties.max_sources[0] = value.number(),
            "max-sources6" => |penalties, value| penalties.max_sources[1] = value.number(),
            "overflow" => |penalties, value| penalties.deny_all = [value.switch(); 2],
            "overflow6" => |penalties, value| penalties.deny_all[1] = value.switch(),
            // sshd's, for what berth never does: it has no RefuseConnection, and tells nobody who exists.
            "refuseconnection" | "invaliduser" => |_, _| (),
            _ => return Err(format!("{word} is no penalty; known are {WORDS}")),
        };
        value.map(|value| PenaltyOption(set, value)).ok_or_else(|| format!("{text} must be as in {EXAMPLE}"))
    }
}

const WORDS: &str =
    "no, crash, authfail, noauth, grace-exceeded, max, min, max-sources4, max-sources6, overflow and overflow6";

const EXAMPLE: &str = "authfail:5s max:10m max-sources4:65536 overflow:permissive";

impl Value {
    fn time(self) -> Duration {
        if let Value::Time(time) = self { time } else { Duration::ZERO }
    }

    fn number(self) -> usize {
        if let Value::Number(number) = self { number } else { 0 }
    }

    fn switch(self) -> bool {
        self == Value::Switch(true)
    }
}

pub(super) fn max_startups() -> Scalar<MaxStartups> {
    parsed("a number from 1 to 65535, or start:rate:full", MaxStartups::parse)
}

/// `perSourceMaxStartups`: none is no limit.
pub(super) fn per_source() -> Scalar<Option<usize>> {
    parsed("a number from 1 to 65535, or none", |text: &str| match text {
        "none" => Ok(None),
        _ => match text.parse() {
            Ok(number) if (1..=MOST).contains(&number) => Ok(Some(number)),
            _ => Err("must be a number from 1 to 65535, or none"),
        },
    })
}

pub(super) fn net_block_size() -> Scalar<NetBlockSize> {
    parsed("bits of an address, such as 32:64", NetBlockSize::parse)
}

pub(super) fn penalty() -> Scalar<PenaltyOption> {
    parsed("no, or penalties such as authfail:5s", PenaltyOption::parse)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{MaxStartups, NetBlockSize, Penalties, PenaltyOption};

    #[test]
    fn max_startups_are_a_number_or_three() {
        assert_eq!(MaxStartups::parse("10"), Ok(MaxStartups { start: 10, rate: 100, full: 10 }));
        assert_eq!(MaxStartups::parse("10:30:60"), Ok(MaxStartups { start: 10, rate: 30, full: 60 }));
        for text in ["", "0", "65536", "-1", "10:30", "10:30:5", "10:0:60", "10:101:60", "0:30:60", "1:2:3:4", "a"] {
            assert!(MaxStartups::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_chance_grows_from_the_rate_to_certainty() {
        let limits = MaxStartups::parse("10:30:60").unwrap();
        assert_eq!([9, 10, 35, 59, 60, 100].map(|count| limits.chance(count)), [0, 30, 65, 98, 100, 100]);
        let limits = MaxStartups::parse("10").unwrap();
        assert_eq!([9, 10].map(|count| limits.chance(count)), [0, 100]);
    }

    #[test]
    fn a_source_is_a_network() {
        let source = |sizes: &str, address: &str| {
            NetBlockSize::parse(sizes).unwrap().source(address.parse().unwrap()).to_string()
        };
        assert_eq!(source("32:64", "192.0.2.77"), "192.0.2.77");
        assert_eq!(source("24:64", "::ffff:192.0.2.77"), "192.0.2.0");
        assert_eq!(source("0:0", "192.0.2.77"), "0.0.0.0");
        assert_eq!(source("32:64", "2001:db8::1:2:3:4"), "2001:db8::");
        assert_eq!(source("32:128", "2001:db8::1"), "2001:db8::1");
        assert_eq!(source("32:0", "2001:db8::1"), "::");
        for text in ["", "33", "32:129", "a:b", "32:64:1"] {
            assert!(NetBlockSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn penalties_are_sshds_words() {
        let of = |text: &str| text.split(' ').map(PenaltyOption::parse).collect::<Result<Vec<_>, _>>();
        let penalties = Penalties::of(&of("crash:2m authfail:7 min:15s max-sources4:9 overflow:deny-all").unwrap());
        assert_eq!((penalties.crash, penalties.auth_fail), (Duration::from_secs(120), Duration::from_secs(7)));
        assert_eq!(
            (penalties.min, penalties.max_sources, penalties.deny_all),
            (Duration::from_secs(15), [9, 65_536], [true; 2])
        );
        assert_eq!(Penalties::of(&of("refuseconnection:10s invaliduser:5s").unwrap()), Penalties::default());
        assert!(!Penalties::of(&of("no").unwrap()).are_used);
        for text in [
            "authfail",
            "authfail:x",
            "nothing:5s",
            "overflow:maybe",
            "overflow:5s",
            "max-sources4:0",
            "no:1",
            "max:25h",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (MaxStartups::parse(&text), NetBlockSize::parse(&text), PenaltyOption::parse(&text));
        }

        #[test]
        fn more_clients_never_lower_the_chance(start in 1usize..200, more in 0usize..200, rate in 1u32..=100, count in 0usize..500) {
            let limits = MaxStartups { start, rate, full: start + more };
            prop_assert!(limits.chance(count) <= limits.chance(count + 1) && limits.chance(count) <= 100);
        }
    }
}
