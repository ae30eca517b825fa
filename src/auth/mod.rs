//! Who may in, and with what restrictions.

mod key;
mod password;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

pub use key::{AuthorizedKey, KeyLineError};
pub use password::{HashError, MakeError, PasswordHash};

/// What an authenticated user is held to: OpenSSH's key options, by the names of sshd(8), AUTHORIZED_KEYS FILE FORMAT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// `command=`: runs in place of whatever the client asks for.
    pub command: Option<String>,
    /// `no-pty`.
    pub no_pty: bool,
    /// `no-port-forwarding`.
    pub no_port_forwarding: bool,
    /// `no-agent-forwarding`.
    pub no_agent_forwarding: bool,
    /// `no-X11-forwarding`.
    pub no_x11_forwarding: bool,
    /// `environment=`: set in every session.
    pub environment: Vec<(String, String)>,
}

/// Checks credentials. One per process, shared by all connections; calls may block (a webhook, a slow hash), so they
/// are made in a worker thread.
pub trait Authenticator: Send + Sync {
    /// Whether `password` is this user's. Takes as long for an unknown user as for a known one.
    fn password(&self, user: &str, password: &[u8], client: IpAddr) -> Option<Restrictions>;

    /// Whether this user may use the public key `blob` (RFC 4253 section 6.6 encoding) from `client`, now. The caller
    /// has verified, or will verify, the signature.
    fn public_key(&self, user: &str, blob: &[u8], client: IpAddr) -> Option<Restrictions>;
}

/// A user of `auth.users`.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// `password`: none means that no password lets this user in.
    pub password: Option<PasswordHash>,
    /// `authorizedKeys`
    pub authorized_keys: Vec<AuthorizedKey>,
    /// `authorizedKeysFile`: read at each login.
    pub authorized_keys_files: Vec<PathBuf>,
}

/// The users of the configuration file.
pub struct Users(BTreeMap<String, User>);

impl Users {
    /// An authenticator for these users, by name.
    pub fn new(users: BTreeMap<String, User>) -> Self {
        Users(users)
    }
}

impl Authenticator for Users {
    fn password(&self, user: &str, password: &[u8], _client: IpAddr) -> Option<Restrictions> {
        let hash = self.0.get(user)?.password.as_ref()?;
        hash.verify(password).then(Restrictions::default)
    }

    fn public_key(&self, user: &str, blob: &[u8], _client: IpAddr) -> Option<Restrictions> {
        self.0.get(user)?.authorized_keys.iter().find_map(|key| key.matches(blob))
    }
}
