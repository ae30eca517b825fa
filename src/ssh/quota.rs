//! What each user has at once, counted over the whole process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Connections,
    Containers,
}

/// By kind and user. Only what is above zero.
static TAKEN: Mutex<BTreeMap<(Kind, String), usize>> = Mutex::new(BTreeMap::new());

/// Woken when one is given back.
static GIVEN_BACK: Condvar = Condvar::new();

/// How long a user waits for a container that is being removed: a client that logs in again at once is let in.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often one who waits looks whether that is still wanted.
const PULSE: Duration = Duration::from_millis(250);

/// One of what a user has. Given back when dropped.
#[derive(Debug)]
pub struct Share(Kind, String);

/// The user has as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded(Kind, usize);

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exceeded(kind, count) = self;
        let one = if *count == 1 { "" } else { "s" };
        let what = match kind {
            Kind::Connections => "connection",
            Kind::Containers => "container",
        };
        write!(f, "you have {count} {what}{one} already, the most that are allowed")
    }
}

impl Share {
    /// One more for this user, where there are less than `most`; 0 is no limit.
    pub fn take(kind: Kind, user: &str, most: usize) -> Result<Share, Exceeded> {
        let key = (kind, user.to_owned());
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&key).copied().unwrap_or_default();
        if most > 0 && count >= most {
            return Err(Exceeded(kind, count));
        }
        taken.insert(key, count + 1);
        Ok(Share(kind, user.to_owned()))
    }

    /// As [`Self::take`], but waits for some seconds until there are less, for as long as it is wanted.
    pub fn wait(kind: Kind, user: &str, most: usize, is_wanted: impl Fn() -> bool) -> Result<Share, Exceeded> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Share::take(kind, user, most) {
                Err(_) if Instant::now() < end && is_wanted() => {}
                result => return result,
            }
            let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = |taken: &mut BTreeMap<_, usize>| {
                taken.get(&(kind, user.to_owned())).is_some_and(|count| *count >= most)
            };
            drop(GIVEN_BACK.wait_timeout_while(taken, PULSE, is_full));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let key = (self.0, std::mem::take(&mut self.1));
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&key)),
        }
        drop(taken);
        GIVEN_BACK.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Share, TAKEN};

    #[test]
    fn users_have_their_shares_and_give_them_back() {
        let take = |user, most| Share::take(Kind::Containers, user, most);
        let shares = [take("quota-a", 2).unwrap(), take("quota-a", 2).unwrap()];
        let refused = take("quota-a", 2).unwrap_err().to_string();
        assert_eq!(refused, "you have 2 containers already, the most that are allowed");
        assert!(
            take("quota-b", 2).is_ok()
                && take("quota-a", 0).is_ok()
                && Share::take(Kind::Connections, "quota-a", 1).is_ok()
        );
        drop(shares);
        assert!(take("quota-a", 1).is_ok());
        assert!(!TAKEN.lock().unwrap().keys().any(|(_, user)| user == "quota-a"));
    }

    #[test]
    fn whoever_logs_in_again_waits_for_what_is_being_given_back() {
        let first = Share::take(Kind::Containers, "quota-w", 1).unwrap();
        let is_asked = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                is_asked.wait();
                drop(first);
            });
            let first_time = std::sync::Once::new();
            let second = Share::wait(Kind::Containers, "quota-w", 1, || {
                // It has been refused.
                first_time.call_once(|| {
                    is_asked.wait();
                });
                true
            });
            assert!(second.is_ok());
            assert!(Share::wait(Kind::Containers, "quota-w", 1, || false).is_err());
        });
    }
}
