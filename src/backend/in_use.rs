//! What is in use, so that reaping leaves it alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kubernetes::Elections;

/// How often each name is in use. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<HashMap<String, usize>>>);

/// A use of a name, over when dropped.
#[derive(Debug)]
pub struct Use {
    names: Names,
    name: String,
}

impl Names {
    /// From here on, the name is in use. Waits for whoever has locked.
    pub fn begin(&self, name: &str) -> Use {
        *self.lock().entry(name.to_owned()).or_default() += 1;
        Use { names: self.clone(), name: name.to_owned() }
    }

    /// Those in use, and no other until this is dropped.
    pub fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the name is in use.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

impl Use {
    /// What is in use.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
    }
}

/// What this process uses, whatever its configuration was meanwhile.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Connections that have containers, by their ids.
    pub connections: Names,
    /// Users who are in the containers that are kept for them.
    pub users: Names,
    /// The leases of this process's.
    pub elections: Elections,
}
