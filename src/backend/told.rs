//! What the log was told of what others have said: each text once, however often they say it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// How many texts are remembered. Then all are forgotten: those that still come are told again.
const MOST: usize = 256;

/// The longest text that is told, in characters.
pub const LONGEST: usize = 1000;

/// The texts that were told.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<String>>);

impl Told {
    /// The text, or its beginning where it is long, if it was not told before. From here on, it was.
    pub fn once(&self, text: &str) -> Option<String> {
        let text: String = text.chars().take(LONGEST).collect();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains(&text) {
            return None;
        }
        if told.len() >= MOST {
            told.clear();
        }
        told.insert(text.clone());
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, MOST, Told};

    #[test]
    fn each_text_is_told_once_and_so_many_are_remembered() {
        let told = Told::default();
        assert_eq!((told.once("a"), told.once("a"), told.once("b")), (Some("a".into()), None, Some("b".into())));
        assert!((0..10 * MOST).all(|number| told.once(&number.to_string()).is_some()));
        assert!(told.0.lock().unwrap().len() <= MOST);
        // Whoever has much to say does not silence what comes later.
        assert!(told.once("a").is_some());
    }

    #[test]
    fn a_long_text_is_cut() {
        let told = Told::default();
        assert_eq!(told.once(&"é".repeat(5 * LONGEST)), Some("é".repeat(LONGEST)));
        assert_eq!(told.once(&"é".repeat(LONGEST)), None);
    }
}
