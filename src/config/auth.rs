//! The `auth` section.

use super::kind::{Named, any_number_of, parsed, path};
use super::section::Section;
use super::{Config, forwarding, webhook};
use crate::auth::{AuthorizedKey, AuthorizedPrincipal, PasswordHash, User};

/// The longest user name, in bytes: what the SSH side takes.
const LONGEST_NAME: usize = 1024;

pub(super) fn section() -> Section<Config> {
    let users = Named {
        allowed: "a text of 1 to 1024 bytes without control characters",
        good: |name| !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(char::is_control),
        value: user(),
    };
    Section::new()
        .key("users", |config: &mut Config| &mut config.users, users)
        .inline(|config| &mut config.webhooks_typed, webhook::methods())
}

fn user() -> Section<User> {
    let password = parsed("the hash of a password", PasswordHash::parse).optional();
    Section::new()
        .key("password", |user: &mut User| &mut user.password, password)
        .key(
            "authorizedKeys",
            |user| &mut user.authorized_keys,
            any_number_of(parsed("a public key as in an authorized_keys file", AuthorizedKey::parse)),
        )
        .key("authorizedKeysFile", |user| &mut user.authorized_keys_files, any_number_of(path()))
        .key(
            "authorizedPrincipals",
            |user| &mut user.authorized_principals,
            any_number_of(parsed("a certificate's principal", AuthorizedPrincipal::parse)),
        )
        .key("authorizedPrincipalsFile", |user| &mut user.authorized_principals_files, any_number_of(path()))
        .later("forwarding", forwarding::section())
}
