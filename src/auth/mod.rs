//! Who may in, and with what restrictions.

mod account;
mod by_name;
mod certificate;
mod command;
mod composite;
mod file;
mod key;
mod methods;
mod options;
mod password;
mod public_key;
mod revocation;
mod signature;
mod source;
mod spent;
mod token;
mod totp;
mod users;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

pub use by_name::ByName;
pub use certificate::{Certificate, Offer, OfferError};
pub use command::COMMAND_TOKENS;
pub use file::StrictModes;
pub use key::{AuthorizedKey, AuthorizedPrincipal, KeyLineError};
pub use methods::{Device, Method, MethodList, Methods, Step};
pub use options::UserEnvironment;
pub use password::{HashError, LONGEST_PASSWORD, MakeError, PasswordHash};
pub use public_key::{KeyError, PublicKey, fingerprint};
pub use revocation::RevokedKeys;
pub use signature::{Attested, BadSignature, SIGNATURE_ALGORITHMS};
pub use source::Sources;
pub use spent::keep_spent_codes;
pub use token::check_tokens;
pub use totp::{Totp, TotpAlgorithm, TotpSecret};
pub use users::Users;

use crate::fuzzing::Target;
use crate::metadata::Metadata;
use crate::pattern;

pub(crate) const FUZZ_TARGETS: &[Target] = &[
    ("authorized_keys", file::fuzz),
    ("certificate", certificate::fuzz),
    ("password_hash", password::fuzz),
    ("revocation", revocation::fuzz),
    ("signature", signature::fuzz),
];

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
    /// `permitopen=`: the only destinations that may be connected to, where there are any.
    pub permit_open: Option<Vec<ForwardAddress>>,
    /// `permitlisten=`: the only addresses that may be listened on, where there are any.
    pub permit_listen: Option<Vec<ForwardAddress>>,
    /// `no-touch-required`: a security key need not have been touched.
    pub no_touch_required: bool,
    /// `verify-required`: a security key must have verified its user.
    pub verify_required: bool,
}

/// What security keys must attest, whatever a key's options say: sshd_config(5), PubkeyAuthOptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubkeyAuthOption {
    /// `touch-required`
    TouchRequired,
    /// `verify-required`
    VerifyRequired,
}

impl Restrictions {
    /// Both together, as OpenSSH puts a line's options and a certificate's together: what either forbids is forbidden. Of
    /// lists and variables the first ones hold, where there are any.
    fn merge(self, other: Restrictions) -> Result<Restrictions, &'static str> {
        let command = match (self.command, other.command) {
            (Some(one), Some(another)) if one != another => return Err("its forced commands differ"),
            (one, another) => one.or(another),
        };
        Ok(Restrictions {
            command,
            no_pty: self.no_pty || other.no_pty,
            no_port_forwarding: self.no_port_forwarding || other.no_port_forwarding,
            no_agent_forwarding: self.no_agent_forwarding || other.no_agent_forwarding,
            no_x11_forwarding: self.no_x11_forwarding || other.no_x11_forwarding,
            environment: if self.environment.is_empty() { other.environment } else { self.environment },
            permit_open: self.permit_open.or(other.permit_open),
            permit_listen: self.permit_listen.or(other.permit_listen),
            no_touch_required: self.no_touch_required && other.no_touch_required,
            verify_required: self.verify_required || other.verify_required,
        })
    }

    /// Whether a security key has attested enough for these options, and for those that hold for all; or what is missing.
    pub fn satisfied_by(&self, attested: Attested, for_all: &[PubkeyAuthOption]) -> Result<(), &'static str> {
        let needs_touch = !self.no_touch_required || for_all.contains(&PubkeyAuthOption::TouchRequired);
        let needs_verification = self.verify_required || for_all.contains(&PubkeyAuthOption::VerifyRequired);
        if needs_touch && !attested.present {
            return Err("nobody has touched it");
        }
        if needs_verification && !attested.verified {
            return Err("it has not verified its user, as verify-required demands");
        }
        Ok(())
    }
}

/// `HOST:PORT` of a forwarding, where `*` stands for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAddress {
    /// The host's name or address, as the client must give it; none stands for any.
    pub host: Option<String>,
    /// The port; none stands for any.
    pub port: Option<u16>,
}

impl ForwardAddress {
    /// Takes `HOST:PORT`; an address with colons must be in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:")?,
            None => text.split_once(':')?,
        };
        let port = match port {
            "*" => None,
            number => Some(number.parse().ok().filter(|&port| port != 0)?),
        };
        Some(ForwardAddress { host: (host != "*").then(|| host.to_owned()), port })
    }

    /// Takes `[HOST:]PORT`, for listening.
    pub fn parse_listener(text: &str) -> Option<Self> {
        if text.contains(':') { Self::parse(text) } else { Self::parse(&format!("*:{text}")) }
    }

    /// Whether it stands for this host and port, as a client has named them. Names have no case, and a pattern of `*`
    /// and `?` stands for many.
    pub fn covers(&self, host: &[u8], port: u32) -> bool {
        let is_host = |own: &String| pattern::matches(own.to_ascii_lowercase().as_bytes(), &host.to_ascii_lowercase());
        self.port.is_none_or(|own| u32::from(own) == port) && self.host.as_ref().is_none_or(is_host)
    }
}

/// Whether a client is still there, for those who work for it: so that they need not end what nobody waits for.
#[derive(Clone, Debug, Default)]
pub struct Presence(Weak<()>);

impl Presence {
    /// The client is there for as long as this is.
    pub fn of(client: &Arc<()>) -> Self {
        Presence(Arc::downgrade(client))
    }

    /// Whether it is.
    pub fn is_there(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// What was to be looked at could not be in time: that says nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A client that authenticates.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The user name that it gives. Hostile.
    pub user: &'a str,
    /// Its address, which is no IPv6 form of an IPv4 one.
    pub client: SocketAddr,
    /// The network that this is of (`perSourceNetBlockSize`): networks take turns at what is done for clients.
    pub source: IpAddr,
    /// The connection's id, unique over all berth processes.
    pub connection: &'a str,
    /// Its identification string (RFC 4253 section 4.2). Hostile.
    pub version: &'a str,
    /// Whether it is still there.
    pub presence: &'a Presence,
}

/// What an authenticated user is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// What the user is held to.
    pub restrictions: Restrictions,
    /// What is known of the user and meant for the container.
    pub metadata: Metadata,
}

impl Grant {
    /// For a user whose name is the one that was given.
    pub fn new(user: &str, restrictions: Restrictions) -> Self {
        let metadata = Metadata { authenticated_user: Some(user.to_owned()), ..Metadata::default() };
        Grant { restrictions, metadata }
    }

    /// Both together, of a user who has proven two things.
    ///
    /// # Errors
    /// Why they do not go together.
    pub fn merge(self, newer: Grant) -> Result<Grant, &'static str> {
        let Grant { restrictions, mut metadata } = self;
        let restrictions = restrictions.merge(newer.restrictions)?;
        metadata.merge(newer.metadata);
        Ok(Grant { restrictions, metadata })
    }
}

/// What is asked of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// What has to be proven.
    pub methods: Methods,
    /// Whether there is a password that berth knows of.
    pub has_password: bool,
    /// Whether there is a secret for codes.
    pub has_secret: bool,
    /// Whether keyboard-interactive is by a browser.
    pub by_browser: bool,
}

/// A login by a browser that has begun.
pub trait BrowserLogin: Send {
    /// What the user is told: where to go.
    fn instruction(&self) -> &str;

    /// Whether the user is to give what the browser shows in the end.
    fn asks_for_code(&self) -> bool;

    /// Waits until the user has been there, for some time, and as long as the client is. A failure is in the log.
    fn finish(self: Box<Self>, attempt: &Attempt<'_>, answer: &[u8]) -> Option<Grant>;
}

/// Checks credentials. One per process, shared by all connections; calls may block (a webhook, a slow hash), so they
/// are made in a worker thread.
pub trait Authenticator: Send + Sync {
    /// Whether `password` is this user's. Takes as long for an unknown user as for a known one.
    ///
    /// # Errors
    /// It could not be looked at in time.
    fn password(&self, attempt: &Attempt<'_>, password: &[u8]) -> Result<Option<Grant>, Busy>;

    /// Whether this user may use a public key from here, now. The caller has verified, or will verify, the signature,
    /// and what a security key attests in it.
    fn public_key(&self, attempt: &Attempt<'_>, offer: &Offer) -> Option<Grant>;

    /// What is asked of this user. Of one who does not exist, what is asked of anybody.
    fn requirements(&self, user: &str) -> Requirements {
        let _ = user;
        Requirements::default()
    }

    /// The names of the methods by which anybody may begin, as in SSH_MSG_USERAUTH_FAILURE.
    fn first_methods(&self) -> String {
        Methods::default().names()
    }

    /// Whether a code is good for this user, now. It is good once.
    fn code(&self, attempt: &Attempt<'_>, code: &[u8]) -> bool {
        let _ = (attempt, code);
        false
    }

    /// Begins a login by a browser. A failure is in the log.
    ///
    /// # Errors
    /// Its turn did not come in time.
    fn begin_by_browser(&self, attempt: &Attempt<'_>) -> Result<Option<Box<dyn BrowserLogin>>, Busy> {
        let _ = attempt;
        Ok(None)
    }

    /// Whether a user who has authenticated may in, and with what.
    fn authorize(&self, attempt: &Attempt<'_>, grant: Grant) -> Option<Grant> {
        let _ = attempt;
        Some(grant)
    }
}

/// A user of `auth.users`.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// `password`: none means that no password lets this user in.
    pub password: Option<PasswordHash>,
    /// `authorizedKeys`
    pub authorized_keys: Vec<AuthorizedKey>,
    /// `authorizedKeysFile`: read at each login. In a path, `%u` stands for the user's name.
    pub authorized_keys_files: Vec<PathBuf>,
    /// `authorizedKeysCommand`: a program and its arguments, run at each login where no key was found so far. In an
    /// argument, [`COMMAND_TOKENS`] stand for what they do with sshd.
    pub authorized_keys_command: Vec<String>,
    /// `authorizedKeysCommandUser`: the account that it runs as, where that is not berth's own.
    pub authorized_keys_command_user: Option<String>,
    /// `totp`
    pub totp: Totp,
    /// `authenticationMethods`: in place of what is asked of all.
    pub authentication_methods: Vec<MethodList>,
    /// `authorizedPrincipals`: whose certificates let this user in, where the authority is trusted for all.
    pub authorized_principals: Vec<AuthorizedPrincipal>,
    /// `authorizedPrincipalsFile`: the same in files, read at each login.
    pub authorized_principals_files: Vec<PathBuf>,
}

impl User {
    /// What lets nobody in as things are: files that are not there, but for those that depend on the user's name, and a
    /// program that cannot be run.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let files = self.authorized_keys_files.iter().map(|file| ("authorizedKeysFile", file));
        let files = files.chain(self.authorized_principals_files.iter().map(|file| ("authorizedPrincipalsFile", file)));
        let of_files = files.filter(|(_, file)| !file.to_string_lossy().contains('%')).filter_map(|(key, file)| {
            let error = std::fs::metadata(file).err()?;
            Some(format!("{key}: {}: {error}", file.display()))
        });
        let of_program = self.authorized_keys_command.first().and_then(|program| {
            let error = command::verify(Path::new(program)).err()?;
            Some(format!("authorizedKeysCommand: {program}: {error}"))
        });
        of_files.chain(of_program)
    }
}

#[cfg(test)]
mod tests {
    use super::PubkeyAuthOption::{TouchRequired, VerifyRequired};
    use super::{Attested, Restrictions};

    #[test]
    fn a_security_key_must_attest_what_is_required() {
        let suffices = |no_touch_required, verify_required, for_all: &[_], present, verified| {
            let restrictions = Restrictions { no_touch_required, verify_required, ..Restrictions::default() };
            restrictions.satisfied_by(Attested { present, verified }, for_all).is_ok()
        };
        assert!(suffices(false, false, &[], true, false) && !suffices(false, false, &[], false, true));
        assert!(suffices(true, false, &[], false, false) && !suffices(true, false, &[TouchRequired], false, true));
        assert!(suffices(true, false, &[TouchRequired], true, false));
        assert!(suffices(false, true, &[], true, true) && !suffices(false, true, &[], true, false));
        assert!(suffices(true, true, &[], false, true) && !suffices(false, true, &[], false, true));
        assert!(suffices(false, false, &[VerifyRequired], true, true));
        assert!(!suffices(false, false, &[VerifyRequired], true, false));
    }
}
