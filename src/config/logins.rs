//! Who can log in, by what the file says: a user whom nothing lets in is worth a warning.

use std::path::Path;

use super::Config;
use super::reader::Reader;
use super::yaml::Node;
use crate::auth::{Device, Method, Methods, User};

/// Warns of users who cannot log in, and of what cannot let them in.
pub(super) fn check(root: &Node, config: &Config, reader: &mut Reader<'_>) {
    for (name, user) in &config.users {
        let path = ["auth", "users", name];
        let ways = Ways::of(user, config);
        if !Methods::of(user, &config.ssh.authentication_methods).can_be_proven(&|method| ways.have(method)) {
            let message = match ways.any() {
                true => "nobody can log in as this user: each list of authenticationMethods asks for what there is not",
                false => "nobody can log in as this user: give a password, authorizedKeys, or another way in",
            };
            reader.warn_at(root, &path, message);
        }
        for (key, files) in [
            ("authorizedKeysFile", &user.authorized_keys_files),
            ("authorizedPrincipalsFile", &user.authorized_principals_files),
        ] {
            if files.iter().any(|file| is_url(file)) {
                let message = "the path of a file, not a URL: authorizedKeysCommand can name a program that fetches it";
                reader.warn_at(root, &[&path[..], &[key]].concat(), message);
            }
        }
    }
}

/// Behind the configuration's directory, which it was taken to be in.
fn is_url(file: &Path) -> bool {
    let text = file.to_string_lossy();
    ["http:/", "https:/"].iter().any(|scheme| text.contains(scheme))
}

/// By what a user can log in.
struct Ways {
    password: bool,
    key: bool,
    code: bool,
    browser: bool,
}

impl Ways {
    fn of(user: &User, config: &Config) -> Ways {
        let hooks = &config.webhooks;
        let has_keys = !user.authorized_keys.is_empty()
            || !user.authorized_keys_files.is_empty()
            || !user.authorized_keys_command.is_empty()
            || !config.ssh.trusted_user_ca_keys.is_empty();
        Ways {
            password: user.password.is_some() || hooks.password.is_some(),
            key: has_keys || hooks.public_key.is_some(),
            code: user.totp.is_used(),
            browser: hooks.browser.is_some(),
        }
    }

    fn have(&self, method: Method) -> bool {
        match method {
            Method::PublicKey => self.key,
            Method::Password | Method::KeyboardInteractive(Some(Device::Password)) => self.password,
            Method::KeyboardInteractive(Some(Device::Totp)) => self.code,
            Method::KeyboardInteractive(Some(Device::OAuth2)) => self.browser,
            // Behind another method it may be the code alone.
            Method::KeyboardInteractive(None) => self.password || self.browser || self.key && self.code,
        }
    }

    fn any(&self) -> bool {
        self.password || self.key || self.browser
    }
}
