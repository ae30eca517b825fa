//! Takes turns at work of which too much at once would hurt.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// How often those who wait look whether they are still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Lets in as much work at once as there are places and memory for. Sources take turns: however many wait for one, another
/// one's first is next but one. Within a source, first come is first served.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How many may be in.
    places: usize,
    /// How much memory they may take together, in KiB. Who takes more is let in alone.
    memory: u32,
    state: Mutex<State>,
    changed: Condvar,
}

/// Where one stands in the queue: the round in which its source's turn comes, and a number of its own.
type Ticket = (u64, u64);

#[derive(Debug, Default)]
struct State {
    /// Those who wait, with their sources.
    queue: BTreeMap<Ticket, Option<IpAddr>>,
    next_ticket: u64,
    /// The round that is being served.
    round: u64,
    /// The last round in which a source has one who waits.
    last: HashMap<Option<IpAddr>, u64>,
    /// How many are in, and the memory that they take.
    inside: usize,
    memory: u32,
}

/// A place inside, until it is dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    memory: u32,
}

impl Turns {
    pub(crate) fn new(places: usize, memory: u32) -> Self {
        Turns { places, memory, state: Mutex::default(), changed: Condvar::new() }
    }

    /// As many at once as there are processors: more of what only computes costs memory and time.
    pub(crate) fn for_processors(memory: u32) -> Self {
        Turns::new(available_parallelism().map_or(1, NonZero::get), memory)
    }

    /// Waits for a turn at work that takes `memory` KiB; gives up after `patience`.
    pub(crate) fn take(&self, memory: u32, patience: Duration) -> Option<Turn<'_>> {
        self.take_for(None, memory, patience, &|| true)
    }

    /// As [`Turns::take`], for this source, and for as long as it `is_wanted`.
    pub(crate) fn take_for(
        &self,
        source: Option<IpAddr>,
        memory: u32,
        patience: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let ticket = state.queue(source);
        let end = Instant::now() + patience;
        let has_turn = loop {
            let has_place = state.inside < self.places && self.memory.saturating_sub(state.memory) >= memory;
            let is_first = state.queue.first_key_value().is_some_and(|(first, _)| *first == ticket);
            if is_first && (has_place || state.inside == 0) {
                break true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !is_wanted() {
                break false;
            }
            state = self.changed.wait_timeout(state, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.queue.remove(&ticket);
        let turn = has_turn.then(|| {
            state.serve(ticket.0);
            state.inside += 1;
            state.memory += memory;
            Turn { turns: self, memory }
        });
        drop(state);
        // Another one is now the first, and there may be room for it.
        self.changed.notify_all();
        turn
    }

    /// Whether this source has one who waits.
    #[cfg(test)]
    pub(crate) fn is_awaited_by(&self, source: IpAddr) -> bool {
        self.lock().queue.values().any(|waiting| *waiting == Some(source))
    }

    /// All places, taken.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<Turn<'_>> {
        (0..self.places).map(|_| self.take(0, Duration::from_secs(60)).unwrap()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn queue(&mut self, source: Option<IpAddr>) -> Ticket {
        let round = self.last.get(&source).copied().unwrap_or_default().max(self.round) + 1;
        self.last.insert(source, round);
        let ticket = (round, self.next_ticket);
        self.next_ticket += 1;
        self.queue.insert(ticket, source);
        ticket
    }

    fn serve(&mut self, round: u64) {
        self.round = self.round.max(round);
        // Whoever comes next is of a later round anyway.
        let now = self.round;
        self.last.retain(|_, last| *last > now);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.inside -= 1;
        state.memory -= self.memory;
        drop(state);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use std::net::IpAddr;

    use super::{State, Turns};

    const LONG: Duration = Duration::from_secs(60);

    fn is_full(turns: &Turns, memory: u32) -> bool {
        turns.take(memory, Duration::ZERO).is_none()
    }

    #[test]
    fn no_more_are_let_in_than_there_are_places() {
        let turns = Turns::new(2, 100);
        let first = turns.take(10, LONG).unwrap();
        let _second = turns.take(10, LONG).unwrap();
        assert!(is_full(&turns, 10));
        drop(first);
        assert!(!is_full(&turns, 10));
    }

    #[test]
    fn memory_counts_too_and_too_much_of_it_goes_alone() {
        let turns = Turns::new(9, 100);
        let first = turns.take(60, LONG).unwrap();
        assert!(is_full(&turns, 60) && !is_full(&turns, 40));
        drop(first);
        let alone = turns.take(1000, LONG).unwrap();
        assert!(is_full(&turns, 1));
        drop(alone);
        assert!(!is_full(&turns, 1));
    }

    #[test]
    fn all_get_their_turn() {
        let turns = Turns::new(3, 100);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for memory in 0..50 {
                let (turns, inside, most) = (&turns, &inside, &most);
                scope.spawn(move || {
                    let _turn = turns.take(memory, LONG).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn sources_take_turns_however_many_wait_for_one() {
        let [one, two, three] = [1, 2, 3].map(|last| Some(IpAddr::from([10, 0, 0, last])));
        let mut state = State::default();
        for source in [one, one, one, one, two, two] {
            state.queue(source);
        }
        let mut served = Vec::new();
        while let Some((ticket, source)) = state.queue.pop_first() {
            state.serve(ticket.0);
            served.push(source);
            if served.len() == 3 {
                state.queue(three);
            }
        }
        assert_eq!(served, [one, two, one, two, one, three, one]);
        assert!(state.last.is_empty());
    }

    #[test]
    fn whoever_is_not_wanted_any_more_leaves_the_queue() {
        let turns = Turns::new(1, 100);
        let _inside = turns.take(0, LONG).unwrap();
        assert!(turns.take_for(None, 0, LONG, &|| false).is_none());
        assert!(turns.lock().queue.is_empty());
    }
}
