//! Sources that have misbehaved, and until when they are refused: sshd_config(5), `PerSourcePenalties`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::Penalties;

/// What a source is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// A thread that served its client panicked.
    Crash,
    /// Its client tried to log in, and left without being in.
    AuthFail,
    /// Its client left without having tried.
    NoAuth,
    /// Its client kept its place for too long.
    GraceExceeded,
}

/// Sources of one kind of address.
#[derive(Debug, Default)]
pub struct Table {
    sources: HashMap<IpAddr, Penalty>,
    /// The same, those first that end first.
    ends: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    end: Instant,
    /// Whether enough has come together.
    is_active: bool,
}

impl Table {
    /// Whether a source is to be turned away.
    pub fn refuses(&mut self, limits: &Penalties, source: IpAddr, now: Instant) -> bool {
        self.expire(now);
        let is_v6 = usize::from(source.is_ipv6());
        let is_full = self.sources.len() >= limits.max_sources[is_v6];
        is_full && limits.deny_all[is_v6] || self.sources.get(&source).is_some_and(|penalty| penalty.is_active)
    }

    /// Adds to what a source has to wait. Gives how long that is, where the source is refused from now on.
    pub fn add(&mut self, limits: &Penalties, source: IpAddr, offence: Offence, now: Instant) -> Option<Duration> {
        let time = match offence {
            Offence::Crash => limits.crash,
            Offence::AuthFail => limits.auth_fail,
            Offence::NoAuth => limits.no_auth,
            Offence::GraceExceeded => limits.grace_exceeded,
        };
        if !limits.are_used || time.is_zero() {
            return None;
        }
        self.expire(now);
        let is_v6 = usize::from(source.is_ipv6());
        let before = self.sources.get(&source).copied();
        if before.is_none() && self.sources.len() >= limits.max_sources[is_v6] {
            if limits.deny_all[is_v6] {
                return None;
            }
            if let Some((_, first)) = self.ends.pop_first() {
                self.sources.remove(&first);
            }
        }
        if let Some(before) = before {
            self.ends.remove(&(before.end, source));
        }
        let end = (before.map_or(now, |before| before.end) + time).min(now + limits.max);
        let was_active = before.is_some_and(|before| before.is_active);
        let is_active = was_active || end - now > limits.min;
        self.sources.insert(source, Penalty { end, is_active });
        self.ends.insert((end, source));
        (is_active && !was_active).then(|| end - now)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, source)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_first();
            self.sources.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Offence, Table};
    use crate::config::Penalties;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn penalties_add_up_until_they_count_and_end_by_themselves() {
        let (limits, start) = (Penalties { min: Duration::from_secs(15), ..Penalties::default() }, Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut table = Table::default();
        for _ in 0..3 {
            assert_eq!(table.add(&limits, source(1), Offence::AuthFail, start), None);
        }
        assert!(!table.refuses(&limits, source(1), start));
        assert_eq!(table.add(&limits, source(1), Offence::AuthFail, start), Some(Duration::from_secs(20)));
        // Told once.
        assert_eq!(table.add(&limits, source(1), Offence::AuthFail, start), None);
        assert!(table.refuses(&limits, source(1), at(24)) && !table.refuses(&limits, source(2), at(24)));
        assert!(!table.refuses(&limits, source(1), at(25)));
        for _ in 0..1000 {
            table.add(&limits, source(1), Offence::Crash, at(30));
        }
        assert!(table.refuses(&limits, source(1), at(629)) && !table.refuses(&limits, source(1), at(630)));
    }

    #[test]
    fn where_too_many_are_known_the_first_to_end_are_forgotten_or_all_are_refused() {
        let (start, mut table) = (Instant::now(), Table::default());
        let mut limits = Penalties { max_sources: [2; 2], min: Duration::ZERO, ..Penalties::default() };
        table.add(&limits, source(1), Offence::NoAuth, start);
        table.add(&limits, source(2), Offence::Crash, start);
        table.add(&limits, source(3), Offence::Crash, start);
        assert_eq!([1, 2, 3, 4].map(|last| table.refuses(&limits, source(last), start)), [false, true, true, false]);
        limits.deny_all = [true; 2];
        assert!(table.refuses(&limits, source(4), start));
        table.add(&limits, source(4), Offence::Crash, start);
        assert!(!table.sources.contains_key(&source(4)));
    }

    proptest! {
        #[test]
        fn the_table_is_bounded_and_both_its_halves_agree(
            events in proptest::collection::vec((0u8..20, 0u8..4, 0u64..30), 0..300),
        ) {
            let limits = Penalties { max_sources: [8; 2], ..Penalties::default() };
            let (mut now, mut table) = (Instant::now(), Table::default());
            for (last, offence, seconds) in events {
                now += Duration::from_secs(seconds);
                let all = [Offence::Crash, Offence::AuthFail, Offence::NoAuth, Offence::GraceExceeded];
                table.add(&limits, source(last), all[usize::from(offence)], now);
                prop_assert!(table.sources.len() <= 8 && table.sources.len() == table.ends.len());
                let agree = table.ends.iter().all(|(end, source)| table.sources[source].end == *end);
                prop_assert!(agree && table.ends.iter().all(|(end, _)| *end <= now + limits.max));
            }
        }
    }
}
