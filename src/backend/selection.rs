//! Containers and pods that users choose by name, as in `ssh alice+web@host`.

use super::Request;
use crate::config::{ContainerName, NameOf};
use crate::pattern;

/// Whether the user of this request may have what is named so. `key` is that of the patterns in the configuration.
pub(super) fn may_have(request: &Request, name: &str, what: NameOf, patterns: &[ContainerName], key: &str) -> bool {
    let fits =
        |pattern: &ContainerName| pattern::matches(pattern.fill(&request.user, what).as_bytes(), name.as_bytes());
    let may = is_name(name) && patterns.iter().any(fits);
    if !may {
        log::info!("{}: refused: {key} has no {name:?}", request.connection);
    }
    may
}

/// The name that a template makes for the user of this request.
pub(super) fn name_for(request: &Request, template: &ContainerName, what: NameOf) -> String {
    let name = template.fill(&request.user, what);
    if name != template.fill_any(&request.user) {
        log::info!("{}: {:?} cannot be in such a name; it is {name}", request.connection, request.user);
    }
    name
}

/// Whether a container or pod can have such a name, or a container such an id: so it can stand in a path, or a selector.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_user_says_stays_a_name_in_a_path_or_a_selector() {
        assert!(is_name("web-1.a_b"));
        let hostile = ["", "..", "a/b", "../images", "a?x=y", "a%2fb", "-a", "é", "a,metadata.name!=b", "a\\,b", "a&b"];
        for name in hostile {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_name_is_compared_as_a_whole_with_patterns_that_may_hold_the_users() {
        let patterns: Vec<_> = ["web", "%u-*", "db-?"].map(|text| ContainerName::parse(text).unwrap()).to_vec();
        let may_have = |user: &str, name: &str| {
            let request = Request {
                connection: "0".repeat(32),
                number: 0,
                user: user.into(),
                client: ([127, 0, 0, 1], 1).into(),
                container: Some(name.into()),
                metadata: Arc::default(),
            };
            may_have(&request, name, NameOf::Container, &patterns, "key")
        };
        for name in ["web", "alice-1", "alice-", "db-1"] {
            assert!(may_have("alice", name), "{name}");
        }
        for name in ["web1", "we", "bob-1", "db-12", "*", "alice-a/b", ""] {
            assert!(!may_have("alice", name), "{name}");
        }
        // A user's name is no pattern.
        assert!(!may_have("*", "bob-1") && may_have("*", "web"));
    }
}
