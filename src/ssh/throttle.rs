//! One line for the beginning and one for the end of what would else fill the log, with a count.

use std::time::{Duration, Instant};

/// After so long without another one, it has ended.
const QUIET: Duration = Duration::from_secs(10);

/// How often the count is told while it goes on.
const INTERVAL: Duration = Duration::from_secs(60);

/// Things of one kind that happen again and again.
#[derive(Clone, Copy, Debug)]
struct Spell {
    what: &'static str,
    count: u64,
    began: Instant,
    last: Instant,
    told: Instant,
}

/// What goes on, by kind.
#[derive(Debug, Default)]
pub struct Throttle(Vec<Spell>);

impl Throttle {
    /// It has happened: whether that is to be told, as the first of its kind.
    pub fn first(&mut self, what: &'static str, now: Instant) -> bool {
        if let Some(spell) = self.0.iter_mut().find(|spell| spell.what == what) {
            spell.count += 1;
            spell.last = now;
            return false;
        }
        self.0.push(Spell { what, count: 1, began: now, last: now, told: now });
        true
    }

    /// The lines that are due.
    pub fn lines(&mut self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        self.0.retain_mut(|Spell { what, count, began, last, told }| {
            let (so_far, time) = (now.saturating_duration_since(*began), last.saturating_duration_since(*began));
            let has_ended = now.saturating_duration_since(*last) >= QUIET;
            if has_ended && *count > 1 {
                lines
                    .push(format!("{what}: {count} clients were turned away in {} s, and no more now", time.as_secs()));
            } else if !has_ended && *count > 1 && now.saturating_duration_since(*told) >= INTERVAL {
                *told = now;
                lines.push(format!("{what}: {count} clients were turned away in {} s so far", so_far.as_secs()));
            }
            !has_ended
        });
        lines
    }

    /// Whether there will be something to tell.
    pub fn is_active(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Throttle;

    #[test]
    fn the_beginning_and_the_end_are_told_with_a_count() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(throttle.first("one", start) && throttle.first("other", start));
        for second in 0..=70 {
            assert!(!throttle.first("one", at(second)));
            let told = throttle.lines(at(second));
            let expected: &[&str] =
                if second == 60 { &["one: 62 clients were turned away in 60 s so far"] } else { &[] };
            assert_eq!(told, expected, "{second}");
        }
        assert!(throttle.lines(at(79)).is_empty() && throttle.is_active());
        assert_eq!(throttle.lines(at(80)), ["one: 72 clients were turned away in 70 s, and no more now"]);
        assert!(!throttle.is_active() && throttle.first("one", at(90)));
    }
}
