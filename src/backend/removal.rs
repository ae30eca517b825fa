//! Removing what a lease owns, however often that takes.

use std::fmt::Display;
use std::time::Duration;

/// How often a removal is tried, and how long is waited after the first failure; each further wait is twice as long.
pub const ATTEMPTS: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(500);

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
                std::thread::sleep(wait);
                wait *= 2;
            }
        }
    }
}
