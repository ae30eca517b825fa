//! Which clients may begin, and at whose cost: sshd_config(5), `MaxStartups` and `PerSource...`.
//!
//! A client that has not logged in holds a place, and so does all work that is done for it, until that has ended. Where
//! places become few, sshd turns newcomers away by chance; then whoever fills the places keeps everybody out. Here a
//! newcomer takes another's place where there is one that has less of a claim to it: a client that has said nothing yet,
//! one that has not exchanged keys in [`SLOW`], or one whose source has more places than the newcomer's would have.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::penalties::{Offence, Table};
use crate::config::{self, Penalties};
use crate::waker::Waker;

/// After so long a client that has not exchanged keys may lose its place.
const SLOW: Duration = Duration::from_secs(2);

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has said nothing.
    Silent,
    /// It has not exchanged keys.
    Exchanging,
    /// It is at its login.
    Authenticating,
    /// It has gone, and work for it goes on.
    Gone,
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `maxStartups`
    MaxStartups,
    /// `perSourceMaxStartups`
    PerSource,
    /// `perSourcePenalties`
    Penalties,
    /// `maxConnections`
    MaxConnections,
}

impl Refusal {
    /// The setting.
    pub fn setting(self) -> &'static str {
        match self {
            Refusal::MaxStartups => "ssh.maxStartups",
            Refusal::PerSource => "ssh.perSourceMaxStartups",
            Refusal::Penalties => "ssh.perSourcePenalties",
            Refusal::MaxConnections => "ssh.maxConnections",
        }
    }
}

/// What clients are held to.
pub struct Limits<'a> {
    pub settings: &'a config::Ssh,
    pub penalties: &'a Penalties,
}

/// All clients that have not logged in, and all sources that have misbehaved. Of the whole process.
#[derive(Clone, Debug, Default)]
pub struct Startups(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    places: Vec<Arc<Place>>,
    penalties: [Table; 2],
}

#[derive(Debug)]
struct Place {
    source: IpAddr,
    client: IpAddr,
    began: Instant,
    stage: AtomicU8,
    is_lost: AtomicBool,
    waker: Option<Waker>,
}

/// A client's place. Freed when the last of those who hold it has dropped it.
#[derive(Debug)]
pub struct Startup {
    startups: Startups,
    place: Arc<Place>,
}

impl Place {
    fn stage(&self) -> u8 {
        self.stage.load(Ordering::Relaxed)
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }
}

impl Startups {
    /// Lets a client in, at another's cost perhaps: then that one's address is given, too. `draw` is a number below 100
    /// that nobody can foretell.
    pub fn admit(
        &self,
        limits: &Limits<'_>,
        client: IpAddr,
        waker: Option<Waker>,
        draw: u32,
        now: Instant,
    ) -> Result<(Startup, Option<IpAddr>), Refusal> {
        let Limits { settings, penalties } = limits;
        let (client, source) = (client.to_canonical(), settings.per_source_net_block_size.source(client));
        let mut state = self.lock();
        if penalties.are_used
            && !is_exempt(settings, client)
            && state.penalties[usize::from(client.is_ipv6())].refuses(penalties, source, now)
        {
            return Err(Refusal::Penalties);
        }
        let (own, full) = (state.count_of(source), settings.max_startups.full);
        if settings.per_source_max_startups.is_some_and(|most| own >= most) {
            return Err(Refusal::PerSource);
        }
        // Those who have lost their places, too, until they have ended: not too many at once.
        if state.places.len() >= 2 * full {
            return Err(Refusal::MaxStartups);
        }
        let count = state.places.iter().filter(|place| !place.is_lost()).count();
        let mut displaced = None;
        if draw < settings.max_startups.chance(count) {
            let victim = state.victim(own, now).ok_or(Refusal::MaxStartups)?;
            victim.is_lost.store(true, Ordering::Relaxed);
            if let Some(waker) = &victim.waker {
                waker.wake();
            }
            let (source, client) = (victim.source, victim.client);
            if !is_exempt(settings, client) {
                state.penalties[usize::from(client.is_ipv6())].add(penalties, source, Offence::GraceExceeded, now);
            }
            displaced = Some(client);
        }
        let (stage, is_lost) = (AtomicU8::new(Stage::Silent as u8), AtomicBool::new(false));
        let place = Arc::new(Place { source, client, began: now, stage, is_lost, waker });
        state.places.push(Arc::clone(&place));
        Ok((Startup { startups: self.clone(), place }, displaced))
    }

    /// A client has misbehaved. Gives for how long its source is refused, where that is news.
    pub fn penalise(&self, limits: &Limits<'_>, client: IpAddr, offence: Offence, now: Instant) -> Option<Duration> {
        let client = client.to_canonical();
        if !limits.penalties.are_used || is_exempt(limits.settings, client) {
            return None;
        }
        let source = limits.settings.per_source_net_block_size.source(client);
        self.lock().penalties[usize::from(client.is_ipv6())].add(limits.penalties, source, offence, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_exempt(settings: &config::Ssh, client: IpAddr) -> bool {
    settings.per_source_penalty_exempt_list.iter().any(|sources| sources.allow(client))
}

impl State {
    fn count_of(&self, source: IpAddr) -> usize {
        self.places.iter().filter(|place| place.source == source && !place.is_lost()).count()
    }

    /// Whose place a newcomer takes, whose source has `own` places: of the first kind that there is, of the source that
    /// has the most, the oldest.
    fn victim(&self, own: usize, now: Instant) -> Option<Arc<Place>> {
        let mut counts = std::collections::HashMap::new();
        for place in self.places.iter().filter(|place| !place.is_lost()) {
            *counts.entry(place.source).or_insert(0usize) += 1;
        }
        let candidates = self.places.iter().filter(|place| !place.is_lost()).filter_map(|place| {
            let count = counts.get(&place.source).copied().unwrap_or_default();
            let stage = place.stage();
            let may_go = stage == Stage::Silent as u8
                || stage == Stage::Exchanging as u8 && now.saturating_duration_since(place.began) >= SLOW
                || stage < Stage::Gone as u8 && count > own + 1;
            may_go.then_some((stage, count, place))
        });
        // Of equals the first, which is the oldest.
        candidates
            .min_by_key(|(stage, count, _)| (*stage, std::cmp::Reverse(*count)))
            .map(|(.., place)| Arc::clone(place))
    }
}

impl Startup {
    /// The client has come as far as this.
    pub fn reached(&self, stage: Stage) {
        self.place.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    /// Whether another one has taken the place: its client is to be left.
    pub fn is_lost(&self) -> bool {
        self.place.is_lost()
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        self.startups.lock().places.retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Limits, Refusal, SLOW, Stage, Startup, Startups};
    use crate::config::{MaxStartups, Penalties, Ssh};

    fn settings(max_startups: &str, per_source: Option<usize>) -> Ssh {
        let max_startups = MaxStartups::parse(max_startups).unwrap();
        Ssh { max_startups, per_source_max_startups: per_source, ..Ssh::new(std::path::Path::new("/")) }
    }

    struct Door {
        startups: Startups,
        settings: Ssh,
        penalties: Penalties,
        start: Instant,
    }

    impl Door {
        fn new(max_startups: &str, per_source: Option<usize>) -> Self {
            let settings = settings(max_startups, per_source);
            Door { startups: Startups::default(), settings, penalties: Penalties::default(), start: Instant::now() }
        }

        fn knock(&self, address: [u8; 4], draw: u32, seconds: u64) -> Result<Startup, Refusal> {
            let limits = Limits { settings: &self.settings, penalties: &self.penalties };
            let now = self.start + Duration::from_secs(seconds);
            self.startups.admit(&limits, IpAddr::from(address), None, draw, now).map(|(startup, _)| startup)
        }

        fn count(&self) -> usize {
            self.startups.lock().places.iter().filter(|place| !place.is_lost()).count()
        }
    }

    #[test]
    fn a_source_has_so_many_places() {
        let door = Door::new("10", Some(2));
        let first = door.knock([10, 0, 0, 1], 0, 0).unwrap();
        let _second = door.knock([10, 0, 0, 1], 0, 0).unwrap();
        assert_eq!(door.knock([10, 0, 0, 1], 0, 0).unwrap_err(), Refusal::PerSource);
        assert!(door.knock([10, 0, 0, 2], 0, 0).is_ok());
        drop(first);
        assert!(door.knock([10, 0, 0, 1], 0, 0).is_ok());
    }

    #[test]
    fn a_newcomer_takes_the_oldest_silent_ones_place_of_the_source_with_the_most() {
        let door = Door::new("4", None);
        let places: Vec<Startup> =
            [1, 2, 2, 3].map(|last| door.knock([10, 0, 0, last], 0, 0).unwrap()).into_iter().collect();
        let _new = door.knock([10, 0, 0, 9], 0, 0).unwrap();
        assert_eq!(places.iter().map(Startup::is_lost).collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(door.count(), 4);
    }

    #[test]
    fn whoever_is_at_the_key_exchange_or_the_login_keeps_its_place() {
        let door = Door::new("2", None);
        let one = door.knock([10, 0, 0, 1], 0, 0).unwrap();
        let other = door.knock([10, 0, 0, 2], 0, 0).unwrap();
        one.reached(Stage::Authenticating);
        other.reached(Stage::Exchanging);
        assert_eq!(door.knock([10, 0, 0, 3], 0, 0).unwrap_err(), Refusal::MaxStartups);
        // But for one that takes too long for its keys.
        assert!(door.knock([10, 0, 0, 3], 0, SLOW.as_secs()).is_ok());
        assert!(other.is_lost() && !one.is_lost());
    }

    #[test]
    fn a_source_with_many_places_gives_way_to_one_with_fewer() {
        let door = Door::new("4", None);
        let many: Vec<Startup> = (0..4).map(|_| door.knock([10, 0, 0, 1], 0, 0).unwrap()).collect();
        many.iter().for_each(|place| place.reached(Stage::Authenticating));
        let one = door.knock([10, 0, 0, 2], 0, 0).unwrap();
        one.reached(Stage::Authenticating);
        let two = door.knock([10, 0, 0, 2], 0, 0).unwrap();
        two.reached(Stage::Authenticating);
        // Now both have two.
        assert_eq!(door.knock([10, 0, 0, 2], 0, 0).unwrap_err(), Refusal::MaxStartups);
        assert_eq!(many.iter().filter(|place| place.is_lost()).count(), 2);
    }

    #[test]
    fn work_for_a_client_that_has_gone_keeps_its_place() {
        let door = Door::new("1", None);
        let gone = door.knock([10, 0, 0, 1], 0, 0).unwrap();
        gone.reached(Stage::Gone);
        assert_eq!(door.knock([10, 0, 0, 2], 0, 100).unwrap_err(), Refusal::MaxStartups);
    }

    #[test]
    fn whose_places_are_lost_again_and_again_is_refused() {
        let door = Door::new("1", None);
        for _ in 0..7 {
            let _one = door.knock([10, 0, 0, 1], 0, 0).unwrap();
            let _other = door.knock([10, 0, 0, 2], 0, 0).unwrap();
        }
        assert_eq!(door.knock([10, 0, 0, 1], 0, 1).unwrap_err(), Refusal::Penalties);
        assert!(door.knock([10, 0, 0, 2], 0, 1).is_ok() && door.knock([10, 0, 0, 1], 0, 1000).is_ok());
    }

    proptest! {
        /// Whatever comes, there are no more places than may be, and no source has more than its own.
        #[test]
        fn limits_hold(knocks in proptest::collection::vec((0u8..6, 0u32..100, 0u8..3, any::<bool>()), 0..200)) {
            let door = Door::new("4:30:12", Some(5));
            let mut places = Vec::new();
            for (second, (last, draw, stage, leaves)) in knocks.into_iter().enumerate() {
                if leaves && !places.is_empty() {
                    places.remove(usize::from(last) % places.len());
                }
                if let Ok(place) = door.knock([10, 0, 0, last], draw, second as u64 / 8) {
                    if stage > 0 {
                        place.reached(if stage == 1 { Stage::Exchanging } else { Stage::Authenticating });
                    }
                    places.push(place);
                }
                prop_assert!(door.count() <= 12 && places.len() <= 24);
                for last in 0..6 {
                    prop_assert!(door.startups.lock().count_of(IpAddr::from([10, 0, 0, last])) <= 5);
                }
            }
            drop(places);
            prop_assert_eq!(door.startups.lock().places.len(), 0);
        }
    }
}
