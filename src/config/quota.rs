//! How much a user may have at once.

use std::sync::Arc;

use super::kind::integer;
use super::section::Section;
use crate::auth::ByName;

/// What one user may have at once. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// `maxConnections`
    pub connections: usize,
    /// `maxContainers`
    pub containers: usize,
}

/// The quotas of all users.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// `security`
    pub everyone: Quota,
    /// The same for users of `auth.users`, with what their groups and they themselves have over that.
    pub users: Arc<ByName<Quota>>,
}

impl Quotas {
    /// What this user may have.
    pub fn of(&self, user: &str) -> Quota {
        self.users.get(user).copied().unwrap_or(self.everyone)
    }
}

pub(super) fn section() -> Section<Quota> {
    Section::new().key("maxConnections", |quota: &mut Quota| &mut quota.connections, integer(0..=1_000_000)).key(
        "maxContainers",
        |quota| &mut quota.containers,
        integer(0..=1_000_000),
    )
}
