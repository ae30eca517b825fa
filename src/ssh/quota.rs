//! What each user has at once, counted over the whole process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Connections,
    Containers,
}

/// By kind and user. Only what is above zero.
static TAKEN: Mutex<BTreeMap<(Kind, String), usize>> = Mutex::new(BTreeMap::new());

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
}

impl Drop for Share {
    fn drop(&mut self) {
        let key = (self.0, std::mem::take(&mut self.1));
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&key)),
        }
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
}
