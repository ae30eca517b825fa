//! What a container has for its user: variables and files that webhooks gave.

use std::io::{self, Read};
use std::sync::Arc;

use serde_json::Value;

use super::api::{Api, encode};
use super::archive::{self, BLOCK, Entry};
use super::{Docker, Error, body};
use crate::http::{Body, Deadline};
use crate::metadata::{Fact, Metadata};

impl Docker {
    /// With the variables that are for this user.
    pub(super) fn personal(&self, metadata: &Metadata) -> Docker {
        let facts = metadata.facts.iter().filter(|_| self.settings.expose_metadata);
        let variables: Vec<_> =
            facts.chain(&metadata.environment).filter(|(name, fact)| is_variable(name, fact)).collect();
        if variables.is_empty() {
            return self.clone();
        }
        let mut settings = self.settings.as_ref().clone();
        let mut list = body::words(settings.container.get("Env"));
        // Of two of a name, the first would count.
        let is_own = |entry: &Value, name: &str| {
            entry.as_str().is_some_and(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
        };
        for (name, fact) in variables {
            list.retain(|entry| !is_own(entry, name));
            list.push(format!("{name}={}", fact.value).into());
        }
        settings.container.insert("Env".into(), list.into());
        Docker { settings: Arc::new(settings), ..self.clone() }
    }

    /// Puts the user's files into a container that has been created with these settings.
    pub(super) fn put_files(&self, container: &str, metadata: &Metadata, deadline: Deadline) -> Result<(), Error> {
        put_files(&self.shared.api, user(&self.settings.container), container, metadata, deadline)
    }
}

/// A container's user, by its settings.
pub(super) fn user(settings: &serde_json::Map<String, Value>) -> &str {
    settings.get("User").and_then(Value::as_str).unwrap_or_default()
}

fn is_variable(name: &str, fact: &Fact<String>) -> bool {
    let good = !name.is_empty() && !name.contains(['=', '\0']) && !fact.value.contains('\0');
    if !good {
        log::warn!("docker: a webhook has given a variable that cannot be: {name:?}");
    }
    good
}

/// Puts files into a container, for its user there.
pub(super) fn put_files(
    api: &Api,
    user: &str,
    container: &str,
    metadata: &Metadata,
    deadline: Deadline,
) -> Result<(), Error> {
    const STEP: &str = "put files into the container";
    if metadata.files.is_empty() {
        return Ok(());
    }
    let owner = owner(user);
    let mut tar = Vec::new();
    for (path, file) in &metadata.files {
        // Where the user's number is not known, the file has to be for everybody in the container.
        let mode = if file.sensitive && owner.is_some() { 0o600 } else { 0o644 };
        let size = file.value.len() as u64;
        let entry = path.strip_prefix('/').filter(|path| !path.is_empty() && !path.contains('\0') && is_plain(path));
        let header =
            entry.and_then(|path| archive::header(&Entry { path, mode, owner: owner.unwrap_or_default(), size }));
        let header = header
            .ok_or_else(|| Error::Settings(format!("a webhook has given a file at an impossible path: {path:?}")))?;
        tar.extend_from_slice(&header);
        tar.extend_from_slice(&file.value);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    let length = (tar.len() + 2 * BLOCK) as u64;
    let mut tar = tar.as_slice().chain(io::repeat(0).take(2 * BLOCK as u64));
    let path = format!("/containers/{}/archive?path=/", encode(container));
    let mut response = api.open(STEP, "PUT", &path, Body::Stream(&mut tar, Some(length)), deadline)?;
    response.bytes(BLOCK, deadline).map_err(|error| api.failed(STEP, error))?;
    Ok(())
}

/// Whether a path says where it leads.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// The numbers of a container's user, where its settings have them.
fn owner(user: &str) -> Option<(u32, u32)> {
    if user == "root" {
        return Some((0, 0));
    }
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    // What ustar has room for.
    let number = |text: &str| text.parse().ok().filter(|number| *number < 1 << 21);
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_known_by_number() {
        assert_eq!(owner("1000"), Some((1000, 0)));
        assert_eq!(owner("1000:100"), Some((1000, 100)));
        assert_eq!(owner("root"), Some((0, 0)));
        assert_eq!((owner(""), owner("alice"), owner("1:staff"), owner("9999999")), (None, None, None, None));
    }

    #[test]
    fn paths_say_where_they_lead() {
        assert!(is_plain("etc/x.conf"));
        for bad in ["../x", "a/../b", "a//b", "a/", ".", ""] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
