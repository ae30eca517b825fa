//! What is known of a connection beside its user: from authentication to the backend, which gives it to the container.

use std::collections::BTreeMap;
use std::fmt;

/// What webhooks have said about a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Who the user is, as far as was found out: it may differ from the name that the client gave.
    pub authenticated_user: Option<String>,
    /// Facts by name, for other webhooks and for the backend.
    pub facts: BTreeMap<String, Fact<String>>,
    /// Variables for all programs in the container.
    pub environment: BTreeMap<String, Fact<String>>,
    /// Files in the container, by path.
    pub files: BTreeMap<String, Fact<Vec<u8>>>,
}

/// A value, and whether it is told to no other webhook. A sensitive one is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// Whether it is sensitive.
    pub sensitive: bool,
}

impl<T: fmt::Debug> fmt::Debug for Fact<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive { f.write_str("sensitive") } else { self.value.fmt(f) }
    }
}

impl Metadata {
    /// Puts what is newer over this, entry by entry.
    pub fn merge(&mut self, newer: Metadata) {
        self.authenticated_user = newer.authenticated_user.or(self.authenticated_user.take());
        self.facts.extend(newer.facts);
        self.environment.extend(newer.environment);
        self.files.extend(newer.files);
    }
}
