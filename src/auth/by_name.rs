//! What there is for users, by their names.

use std::collections::BTreeMap;

use crate::pattern;

/// Things for users of one name, or of all names that a pattern of `*` and `?` fits.
#[derive(Clone, Debug)]
pub struct ByName<T> {
    /// First those of one name, in the names' order; then patterns, the one that says most first.
    entries: Vec<(String, T)>,
    /// How many are of one name.
    single: usize,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName { entries: Vec::new(), single: 0 }
    }
}

impl<T> ByName<T> {
    /// By these names and patterns.
    pub fn new(entries: BTreeMap<String, T>) -> Self {
        let (mut entries, mut patterns): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(name, _)| !is_pattern(name));
        // An order of its own, since JSON's mappings have none. The sort keeps the names' order among equals.
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.replace(['*', '?'], "").len()));
        let single = entries.len();
        entries.append(&mut patterns);
        ByName { entries, single }
    }

    /// All of it: the names and patterns, and what is there for them.
    pub(super) fn entries(&self) -> &[(String, T)] {
        &self.entries
    }

    /// What there is for a user: by the very name, else by the pattern that fits and has the most characters besides `*`
    /// and `?`. A pattern fits no name with control characters.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.place(name).map(|place| &self.entries[place].1)
    }

    /// The one name that differs from this one by case alone, where this one has no entry of its own.
    pub(super) fn namesake(&self, name: &str) -> Option<&str> {
        let single = &self.entries[..self.single];
        if single.binary_search_by(|(other, _)| other.as_str().cmp(name)).is_ok() {
            return None;
        }
        let folded = name.to_lowercase();
        single.iter().map(|(other, _)| other.as_str()).find(|other| other.to_lowercase() == folded)
    }

    /// The same of something else, made of each.
    pub fn try_map<U, E>(&self, make: impl Fn(&T) -> Result<U, E>) -> Result<ByName<U>, E> {
        let entries = self.entries.iter().map(|(name, thing)| Ok((name.clone(), make(thing)?)));
        Ok(ByName { entries: entries.collect::<Result<_, E>>()?, single: self.single })
    }

    /// Where among the entries that is.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        let (single, patterns) = self.entries.split_at(self.single);
        let fits = |(pattern, _): &(String, T)| pattern::matches(pattern.as_bytes(), name.as_bytes());
        single.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok().or_else(|| {
            let is_name = !name.is_empty() && !name.contains(char::is_control);
            patterns.iter().position(fits).filter(|_| is_name).map(|place| self.single + place)
        })
    }
}

/// Whether a name in the configuration stands for many.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::ByName;

    #[test]
    fn a_name_goes_before_patterns_and_the_pattern_that_says_most_before_others() {
        let names = ["*", "a*", "alice", "al*e", "?", "bob"];
        let by_name = ByName::new(names.into_iter().map(|name| (name.to_owned(), name)).collect());
        for (name, expected) in [
            ("alice", "alice"),
            ("bob", "bob"),
            ("alfie", "al*e"),
            ("anna", "a*"),
            ("carol", "*"),
            // "?" says no more than "*".
            ("x", "*"),
            ("Alice", "*"),
        ] {
            assert_eq!(by_name.get(name), Some(&expected), "{name}");
        }
        for name in ["", "a\0b", "a\nb", "\u{7f}"] {
            assert_eq!(by_name.get(name), None, "{name:?}");
        }
        assert_eq!(ByName::new([("a".to_owned(), 1)].into()).get("b"), None);
    }

    #[test]
    fn a_name_that_differs_by_case_alone_is_found() {
        let names = ["alice", "Bob", "bob", "Ünal", "c*"];
        let by_name = ByName::new(names.into_iter().map(|name| (name.to_owned(), ())).collect());
        for (name, expected) in [
            ("Alice", Some("alice")),
            ("ALICE", Some("alice")),
            ("alice", None),
            ("bob", None),
            ("BOB", Some("Bob")),
            ("ünal", Some("Ünal")),
            ("carol", None),
            ("C*", None),
            ("", None),
        ] {
            assert_eq!(by_name.namesake(name), expected, "{name}");
        }
    }
}
