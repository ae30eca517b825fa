//! Users' names in other texts: `%u`.

use openssl::sha::sha256;

use crate::hex;

/// The longest label of the API's, in bytes, and the longest name of a pod.
const LONGEST_LABEL: usize = 63;
const LONGEST_POD: usize = 253;

/// How much of a user's name stands before the hash, in characters, and how long that is.
const LONGEST_REST: usize = 24;
const HASH: usize = 16;

/// A text in which `%u` stands for the user's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName(String);

/// What a text with a user's name in it is for, which says what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOf {
    /// The name of a Docker container: ASCII letters, digits, `_`, `.` and `-`.
    Container,
    /// The name of a pod: an RFC 1123 subdomain.
    Pod,
    /// The value of a Kubernetes label.
    Label,
}

impl ContainerName {
    /// Reads it; an error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.replace("%u", "").contains(|c: char| c == '%' || c.is_control()) {
            return Err("must be a text in which % stands before u alone: %u is the user's name");
        }
        Ok(ContainerName(text.to_owned()))
    }

    /// With the user's name in it. Where that cannot be in such a name, what is like it stands there, and a hash of it:
    /// no two users have the same.
    pub fn fill(&self, user: &str, what: NameOf) -> String {
        if what.has_room_for(&self.0, user) && !is_stand_in(user) {
            return self.fill_any(user);
        }
        self.fill_any(&stand_in(user, what))
    }

    /// With the user's name in it, whatever that is.
    pub fn fill_any(&self, user: &str) -> String {
        self.0.replace("%u", user)
    }

    /// Whether it depends on the user.
    pub fn has_user(&self) -> bool {
        self.0.contains("%u")
    }
}

impl NameOf {
    fn allows(self, byte: u8) -> bool {
        match self {
            NameOf::Container | NameOf::Label => byte.is_ascii_alphanumeric() || b"_.-".contains(&byte),
            NameOf::Pod => byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte),
        }
    }

    /// Whether `template` with the user's name in it can be such a name, for all that is known of the name.
    fn has_room_for(self, template: &str, user: &str) -> bool {
        let begins = || user.starts_with(|first: char| first.is_ascii_alphanumeric());
        let ends = || user.ends_with(|last: char| last.is_ascii_alphanumeric());
        let length = template.len() + template.matches("%u").count() * user.len().saturating_sub("%u".len());
        let fits = match self {
            NameOf::Container => true,
            NameOf::Pod => {
                let dotted = ["..", ".-", "-."].iter().any(|bad| user.contains(bad));
                length <= LONGEST_POD && !dotted && !user.starts_with('.') && !user.ends_with('.')
            }
            NameOf::Label => length <= LONGEST_LABEL,
        };
        fits && !user.is_empty()
            && user.bytes().all(|byte| self.allows(byte))
            && (!template.starts_with("%u") || begins())
            && (self == NameOf::Container || !template.ends_with("%u") || ends())
    }
}

/// The value of a Kubernetes label that stands for a text: the text itself, where it can be one.
pub fn label(text: &str) -> String {
    ContainerName("%u".to_owned()).fill(text, NameOf::Label)
}

/// What stands for a user's name that cannot be in a name.
fn stand_in(user: &str, what: NameOf) -> String {
    let mut rest = String::new();
    for c in user.chars() {
        let c = if what == NameOf::Pod { c.to_ascii_lowercase() } else { c };
        match c.is_ascii_alphanumeric() {
            true => rest.push(c),
            false if !rest.is_empty() && !rest.ends_with('-') => rest.push('-'),
            false => {}
        }
        if rest.len() == LONGEST_REST {
            break;
        }
    }
    let rest = match rest.trim_end_matches('-') {
        "" => "user",
        rest => rest,
    };
    let hash = hex::encode(&sha256(user.as_bytes())[..HASH / 2]);
    format!("{rest}--{hash}")
}

/// Whether a user's own name looks like what stands for another one's. Then something else stands for it as well.
fn is_stand_in(user: &str) -> bool {
    let hash = user.rsplit_once("--").map(|(_, hash)| hash);
    hash.is_some_and(|hash| {
        hash.len() == HASH && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A text in which nothing is expanded. A percent sign in it has probably been meant to be: it is written twice. An error
/// says so.
pub(super) fn literal(text: &str) -> Result<String, &'static str> {
    if text.split("%%").any(|part| part.contains('%')) {
        return Err("% stands for nothing here, %u not for the user's name either; write %% for a percent sign");
    }
    Ok(text.replace("%%", "%"))
}

/// Whether a text that is passed on as it is was probably meant to have the user's name in it. Completes a warning.
pub(super) fn seems_expanded(text: &str) -> Option<&'static str> {
    text.contains("%u").then_some("%u is passed on as it is: it does not stand for the user's name here")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(template: &str, user: &str, what: NameOf) -> String {
        ContainerName::parse(template).unwrap().fill(user, what)
    }

    #[test]
    fn a_name_that_can_be_in_another_is_there_as_it_is() {
        for (template, user, what) in [
            ("web-%u", "alice", NameOf::Container),
            ("web-%u", "A.l_ice-", NameOf::Container),
            ("web-%u", "_svc", NameOf::Container),
            ("%u", "Alice", NameOf::Label),
            ("shell-%u", "a.b-c", NameOf::Pod),
            ("%u-x", "a-", NameOf::Pod),
        ] {
            assert_eq!(fill(template, user, what), template.replace("%u", user));
        }
        assert_eq!(fill("web", "böse", NameOf::Container), "web");
    }

    #[test]
    fn one_that_cannot_has_a_hash() {
        assert_eq!(fill("web-%u", "user@corp.example", NameOf::Container), "web-user-corp-example--0131e1ce1d19d9e9");
        for (template, user, what, start) in [
            ("shell-%u", "Alice", NameOf::Pod, "shell-alice--"),
            ("shell-%u", "u_v", NameOf::Pod, "shell-u-v--"),
            ("%u", "-x", NameOf::Container, "x--"),
            ("%u", "x.", NameOf::Label, "x--"),
            ("a-%u", "CORP\\user", NameOf::Container, "a-CORP-user--"),
            ("a-%u", "\u{4e2d}\u{6587}", NameOf::Pod, "a-user--"),
            ("a-%u", "", NameOf::Pod, "a-user--"),
            ("a-%u", "a..b", NameOf::Pod, "a-a-b--"),
        ] {
            let name = fill(template, user, what);
            assert!(name.starts_with(start) && name.len() == start.len() + HASH, "{user}: {name}");
        }
        let long = "x".repeat(300);
        assert!(fill("shell-%u", &long, NameOf::Pod).len() < 64 && fill("%u", &long[..64], NameOf::Label).len() < 64);
        assert_eq!(fill("%u", &long[..63], NameOf::Label), long[..63]);
    }

    #[test]
    fn nobody_gets_anothers_by_a_name_that_looks_like_it() {
        let taken = fill("%u", "a@b", NameOf::Container);
        assert_ne!(fill("%u", &taken, NameOf::Container), taken);
        assert_ne!(fill("%u", "A", NameOf::Pod), fill("%u", "a", NameOf::Pod));
    }

    #[test]
    fn percent_signs_that_stand_for_nothing_are_told_apart() {
        assert_eq!(literal("100%%"), Ok("100%".to_owned()));
        for bad in ["%u", "a%", "%%%", "%%%u", "/srv/%h"] {
            assert!(literal(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_possible_and_no_two_are_the_same(user in "\\PC{0,80}", other in "[aA.@_-]{1,4}") {
            for what in [NameOf::Container, NameOf::Pod, NameOf::Label] {
                let name = fill("%u", &user, what);
                let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                prop_assert!(name.bytes().all(|byte| what.allows(byte)) && ends(name.chars().next()));
                prop_assert!(what == NameOf::Container || ends(name.chars().last()));
                prop_assert!(name.len() <= 80);
                prop_assert!(user == other || name != fill("%u", &other, what));
            }
        }
    }
}
