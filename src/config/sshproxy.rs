//! The `sshproxy` section: another SSH server, which serves this one's users.

use std::time::Duration;

use super::kind::{Private, any_number_of, duration, integer, name, parsed, pem, switch, text};
use super::naming::seems_expanded;
use super::reader::Reader;
use super::section::Section;
use super::ssh::{CIPHERS, HOST_KEY_ALGORITHMS, KEX, MACS, all, parse_version};
use super::yaml::Node;
use super::{Config, Pem, Secret};

/// Settings of the other server, resolved.
#[derive(Clone, Debug)]
pub struct SshProxy {
    /// `server`: a name or an address.
    pub server: String,
    /// `port`
    pub port: u16,
    /// `usernamePassThrough`: whether users have their own names there.
    pub username_pass_through: bool,
    /// `username`: whose name all have, otherwise.
    pub username: String,
    /// `password`
    pub password: Option<Secret>,
    /// `privateKey`
    pub private_key: Option<Pem>,
    /// `allowedHostKeyFingerprints`: one of them is that of the server's host key.
    pub allowed_host_key_fingerprints: Vec<String>,
    /// `ciphers`
    pub ciphers: Vec<String>,
    /// `kex`
    pub kex: Vec<String>,
    /// `macs`
    pub macs: Vec<String>,
    /// `hostKeyAlgos`
    pub host_key_algorithms: Vec<String>,
    /// `timeout`: until the user is logged in there.
    pub timeout: Duration,
    /// `clientVersion`: what stands behind `SSH-2.0-` in the identification.
    pub client_version: String,
}

impl Default for SshProxy {
    fn default() -> Self {
        SshProxy {
            server: String::new(),
            port: 22,
            username_pass_through: false,
            username: String::new(),
            password: None,
            private_key: None,
            allowed_host_key_fingerprints: Vec::new(),
            ciphers: all(CIPHERS),
            kex: all(KEX),
            macs: all(MACS),
            host_key_algorithms: all(HOST_KEY_ALGORITHMS),
            timeout: Duration::from_secs(60),
            client_version: concat!("berth_", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Those that ContainerSSH has by default, too.
const OLD_ALGORITHMS: &[&str] = &[
    "ssh-rsa",
    "ssh-dss",
    "ssh-rsa-cert-v01@openssh.com",
    "ssh-dss-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
];

pub(super) fn section() -> Section<SshProxy> {
    let host = text("a host's name or address", |text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let username = text("a user's name", |text| text.len() <= 1024).which(|text| match seems_expanded(text) {
        Some(_) => Err("%u does not stand for the user's name here; set usernamePassThrough".to_owned()),
        None => Ok(()),
    });
    let password = parsed("a password", |text| Ok::<_, String>(Some(Secret(text.to_owned()))));
    let timeout = duration(Duration::from_millis(100)..=Duration::from_secs(3600));
    Section::new()
        .key("server", |proxy: &mut SshProxy| &mut proxy.server, host)
        .key("port", |proxy| &mut proxy.port, integer(1..=65_535))
        .key("usernamePassThrough", |proxy| &mut proxy.username_pass_through, switch())
        .key("username", |proxy| &mut proxy.username, username)
        .key("password", |proxy| &mut proxy.password, password)
        .key("privateKey", |proxy| &mut proxy.private_key, Private(pem().optional()))
        .key(
            "allowedHostKeyFingerprints",
            |proxy| &mut proxy.allowed_host_key_fingerprints,
            any_number_of(parsed("a fingerprint", parse_fingerprint)),
        )
        .key("ciphers", |proxy| &mut proxy.ciphers, any_number_of(name(CIPHERS)))
        .key("kex", |proxy| &mut proxy.kex, any_number_of(name(KEX)))
        .key("macs", |proxy| &mut proxy.macs, any_number_of(name(MACS)))
        .key(
            "hostKeyAlgos",
            |proxy| &mut proxy.host_key_algorithms,
            any_number_of(parsed("an algorithm", parse_host_key_algorithm)),
        )
        .key("timeout", |proxy| &mut proxy.timeout, timeout)
        .key("clientVersion", |proxy| &mut proxy.client_version, parsed("a version", parse_version))
}

/// As `ssh-keygen -l` shows it.
fn parse_fingerprint(text: &str) -> Result<String, &'static str> {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    match text.strip_prefix("SHA256:") {
        Some(hash) if hash.len() == 43 && hash.bytes().all(base64) => Ok(text.to_owned()),
        _ => Err("must be SHA256: and 43 characters, as ssh-keygen -l shows it"),
    }
}

fn parse_host_key_algorithm(text: &str) -> Result<String, String> {
    if HOST_KEY_ALGORITHMS.contains(&text) || OLD_ALGORITHMS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("not offered; offered are {}", HOST_KEY_ALGORITHMS.join(", ")))
}

/// Puts algorithms in place of empty lists, and leaves out those that berth does not offer.
pub(super) fn complete(root: &Node, config: &mut Config, reader: &mut Reader<'_>) {
    if reader.is_wrong_in("sshproxy") {
        return;
    }
    let proxy = &mut config.sshproxy;
    let SshProxy { ciphers, kex, macs, host_key_algorithms, .. } = SshProxy::default();
    for (list, default) in [
        (&mut proxy.ciphers, ciphers),
        (&mut proxy.kex, kex),
        (&mut proxy.macs, macs),
        (&mut proxy.host_key_algorithms, host_key_algorithms),
    ] {
        if list.is_empty() {
            *list = default;
        }
    }
    let all = proxy.host_key_algorithms.len();
    proxy.host_key_algorithms.retain(|name| !OLD_ALGORITHMS.contains(&name.as_str()));
    let left = proxy.host_key_algorithms.len();
    if 0 < left && left < all {
        let message = "certificates, DSA and SHA-1 are left out";
        reader.warn_at(root, &["sshproxy", "hostKeyAlgos"], message);
    }
}

/// Tells what is missing, where this backend is used.
pub(super) fn check(root: &Node, proxy: &SshProxy, reader: &mut Reader<'_>) {
    let mut wrong = |key, message: &str| reader.wrong_at(root, &["sshproxy", key], message);
    if proxy.server.is_empty() {
        wrong("server", "missing; name the server that users get to");
    }
    if proxy.username.is_empty() && !proxy.username_pass_through {
        wrong("username", "missing; name the user there, or set usernamePassThrough");
    }
    if proxy.password.is_none() && proxy.private_key.is_none() {
        wrong("privateKey", "missing; give a private key, or a password, by which the server lets berth in");
    }
    if proxy.allowed_host_key_fingerprints.is_empty() {
        wrong("allowedHostKeyFingerprints", "missing; give those of the server's host keys (ssh-keygen -lf FILE.pub)");
    }
    if proxy.host_key_algorithms.is_empty() {
        wrong("hostKeyAlgos", "has none that berth offers");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{error, good};

    const GOOD: &str = "backend: sshproxy\nsshproxy:\n  server: a\n  usernamePassThrough: true\n  password: b\n  \
         allowedHostKeyFingerprints: SHA256:0123456789012345678901234567890123456789012\n";

    #[test]
    fn what_it_takes_to_reach_the_server_is_asked_for_where_it_is_used() {
        assert_eq!(good(GOOD).sshproxy.port, 22);
        assert_eq!(good("sshproxy: {port: 2022}").sshproxy.port, 2022);
        for (line, message) in [
            ("  server: a\n", "sshproxy.server: missing; name the server"),
            ("  usernamePassThrough: true\n", "sshproxy.username: missing; name the user"),
            ("  password: b\n", "sshproxy.privateKey: missing; give a private key"),
        ] {
            let text = error(&GOOD.replace(line, ""));
            assert!(text.contains(message), "{text}");
        }
        assert!(error("sshproxy: {username: '%u'}").contains("set usernamePassThrough"));
        let text = error(&GOOD.replace("SHA256:", "MD5:"));
        assert!(text.contains("must be SHA256: and 43 characters"), "{text}");
    }

    #[test]
    fn algorithms_that_only_containerssh_has_are_left_out() {
        let config = good(&format!("{GOOD}  kex: []\n  hostKeyAlgos: [ssh-rsa, ssh-ed25519]\n"));
        assert_eq!(config.sshproxy.host_key_algorithms, ["ssh-ed25519"]);
        assert!(!config.sshproxy.kex.is_empty() && config.warnings.len() == 1);
        let text = error(&format!("{GOOD}  hostKeyAlgos: ssh-dss\n"));
        assert!(text.contains("has none that berth offers"), "{text}");
    }
}
