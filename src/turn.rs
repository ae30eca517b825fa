//! Takes turns at work of which too much at once would hurt.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lets in as much work at once as there are places and memory for, first come, first served.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How many may be in.
    places: usize,
    /// How much memory they may take together, in KiB. Who takes more is let in alone.
    memory: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The tickets of those who wait, the oldest first.
    queue: VecDeque<u64>,
    next_ticket: u64,
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

    /// Waits for a turn at work that takes `memory` KiB; gives up after `patience`.
    pub(crate) fn take(&self, memory: u32, patience: Duration) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let has_to_wait = |state: &mut State| {
            let has_place = state.inside < self.places && self.memory.saturating_sub(state.memory) >= memory;
            state.queue.front() != Some(&ticket) || !(has_place || state.inside == 0)
        };
        let (mut state, result) =
            self.changed.wait_timeout_while(state, patience, has_to_wait).unwrap_or_else(PoisonError::into_inner);
        state.queue.retain(|&other| other != ticket);
        let turn = (!result.timed_out()).then(|| {
            state.inside += 1;
            state.memory += memory;
            Turn { turns: self, memory }
        });
        drop(state);
        // Another one is now the first, and there may be room for it.
        self.changed.notify_all();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    use super::Turns;

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
}
