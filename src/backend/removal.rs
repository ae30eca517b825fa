//! Removing what a lease owns, however often that takes.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a removal is tried, and how long is waited after the first failure; each further wait is twice as long.
pub const ATTEMPTS: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(500);

/// How many of many things are removed at once.
const AT_ONCE: usize = 4;

/// Removes all of `things`, some at once: so one that hangs keeps none of the others. Gives those that stay, and why one
/// of them does.
pub fn all<T: Send, E: Send>(things: Vec<T>, remove: impl Fn(&T) -> Result<(), E> + Sync) -> (Vec<T>, Result<(), E>) {
    let threads = things.len().min(AT_ONCE);
    let (queue, stay) = (Mutex::new(things.into_iter()), Mutex::new((Vec::new(), Ok(()))));
    let work = || {
        // A guard of its own statement: nobody has the queue while he removes.
        while let Some(thing) = { queue.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            if let Err(error) = remove(&thing) {
                let mut stay = stay.lock().unwrap_or_else(PoisonError::into_inner);
                stay.0.push(thing);
                stay.1 = Err(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread for it, the others take its part.
            let _ = thread::Builder::new().name("removal".into()).spawn_scoped(scope, work);
        }
        work();
    });
    stay.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Tries `remove` until it is good, `attempts` times at most. Failures are told to the log, which knows the thing as
/// `name`.
pub fn attempt<E: Display>(name: &str, attempts: u32, remove: impl Fn() -> Result<(), E>) {
    let mut wait = INTERVAL;
    for attempt in 1..=attempts {
        match remove() {
            Ok(()) => break,
            Err(error) if attempt == attempts => log::error!("{error}; {name} stays until the next reaping"),
            Err(error) => {
                log::warn!("{error}; {name}, attempt {attempt} of {attempts}");
                thread::sleep(wait);
                wait *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::{AT_ONCE, all};

    #[test]
    fn what_hangs_keeps_nothing_else() {
        let (done, others) = channel();
        // The first goes only after all others have.
        let others = std::sync::Mutex::new(others);
        let (stay, result) = all((0..3 * AT_ONCE).collect(), |thing| {
            if *thing == 0 {
                others.lock().unwrap().iter().take(3 * AT_ONCE - 1).for_each(drop);
            } else {
                done.send(()).unwrap();
            }
            if *thing == 5 { Err("five") } else { Ok(()) }
        });
        assert_eq!((stay, result), (vec![5], Err("five")));
    }

    #[test]
    fn nothing_is_removed_of_nothing() {
        assert_eq!(all(Vec::<u8>::new(), |_| Err("never")), (Vec::new(), Ok(())));
    }
}
