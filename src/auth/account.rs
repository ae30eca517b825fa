//! What a user's entry says of a key or certificate.

use std::net::IpAddr;
use std::path::PathBuf;

use super::certificate::{Certificate, Offer};
use super::key::{AuthorizedKey, AuthorizedPrincipal};
use super::{Presence, Restrictions, StrictModes, User, UserEnvironment, command, file};

/// A login by public key.
pub(super) struct Login<'a> {
    /// The user's name: the stand-in's, where there is no such user.
    pub name: &'a str,
    /// Whether there is. If not, nothing lets in, after the same work.
    pub exists: bool,
    pub offer: &'a Offer,
    pub client: IpAddr,
    /// Seconds since 1970.
    pub now: i64,
    /// `trustedUserCAKeys`
    pub authorities: &'a [PathBuf],
    /// `permitUserEnvironment`
    pub user_environment: &'a UserEnvironment,
    /// `strictModes`
    pub strict_modes: StrictModes,
    /// Whether the client is still there.
    pub presence: &'a Presence,
}

type Admission = Result<Restrictions, &'static str>;

impl User {
    /// What the user is held to, by the first line that lets in. After one that does not, another one may.
    pub(super) fn admit(&self, login: &Login<'_>) -> Option<Restrictions> {
        let by_line = |line: &AuthorizedKey| login.found(line.is_for(login.offer), || login.by_line(line));
        let inline = || self.authorized_keys.iter().find_map(by_line);
        let by_outer_line = |line: AuthorizedKey| by_line(&line).map(|restrictions| login.permitted(restrictions));
        let by_file = |path: &PathBuf| file::keys(path, login.name, login.strict_modes, by_outer_line);
        let in_files = || self.authorized_keys_files.iter().find_map(by_file);
        let by_command = || {
            let (words, account) = (&self.authorized_keys_command, self.authorized_keys_command_user.as_deref());
            command::keys(words, account, login.name, (login.offer, login.presence), by_outer_line)
        };
        inline().or_else(in_files).or_else(by_command).or_else(|| self.by_authority(login))
    }

    /// By an authority that is trusted for all users.
    fn by_authority(&self, login: &Login<'_>) -> Option<Restrictions> {
        let certificate = login.offer.certificate.as_ref()?;
        let check = |line: AuthorizedKey| {
            let (key, options) = line.parts();
            login.found(*key == certificate.authority, || {
                options.admit(login.client, login.now)?;
                // For touches, an authority that is trusted for all needs no word beside the certificate's own.
                let restrictions = login.permitted(options.restrictions.clone());
                let restrictions = Restrictions { no_touch_required: true, ..restrictions };
                self.by_principal(login, certificate)?.merge(restrictions)
            })
        };
        login.authorities.iter().find_map(|path| file::keys(path, login.name, login.strict_modes, check))
    }

    /// By the principals that a certificate has.
    fn by_principal(&self, login: &Login<'_>, certificate: &Certificate) -> Admission {
        let own = certificate.admit(login.client, login.now)?;
        if self.authorized_principals.is_empty() && self.authorized_principals_files.is_empty() {
            return if certificate.is_for(login.name) { Ok(own.clone()) } else { Err(NOT_THE_USERS) };
        }
        let check = |principal: &AuthorizedPrincipal| {
            let is_good =
                certificate.is_for(&principal.name) && principal.options.admit(login.client, login.now).is_ok();
            is_good.then(|| principal.options.restrictions.clone().merge(own.clone()))
        };
        let permitted = |restrictions: Admission| restrictions.map(|restrictions| login.permitted(restrictions));
        let by_file =
            |path: &PathBuf| file::principals(path, login.name, login.strict_modes, |line| check(&line).map(permitted));
        let in_files = || self.authorized_principals_files.iter().find_map(by_file);
        self.authorized_principals.iter().find_map(check).or_else(in_files).unwrap_or(Err(NOT_THE_USERS))
    }
}

const NOT_THE_USERS: &str = "the certificate has no principal that is good for the user";

impl Login<'_> {
    /// What a line that the configuration does not hold may say: its variables, as far as they are permitted.
    fn permitted(&self, mut restrictions: Restrictions) -> Restrictions {
        restrictions.environment.retain(|(name, _)| {
            let permits = self.user_environment.permits(name);
            if !permits {
                log::info!("a key of {:?} may not set {name}: ssh.permitUserEnvironment", self.name);
            }
            permits
        });
        restrictions
    }

    /// Takes a verdict where the line is the right one, and logs why it is a bad one.
    fn found(&self, is_line: bool, admit: impl FnOnce() -> Admission) -> Option<Restrictions> {
        if !(is_line && self.exists) {
            return None;
        }
        let (name, client) = (self.name, self.client);
        admit().inspect_err(|reason| log::info!("a key of {name:?} from {client} is refused: {reason}")).ok()
    }

    /// By a line of authorized keys that is for what is offered.
    fn by_line(&self, line: &AuthorizedKey) -> Admission {
        let (_, options) = line.parts();
        options.admit(self.client, self.now)?;
        let Some(certificate) = &self.offer.certificate else { return Ok(options.restrictions.clone()) };
        let is_users = match &options.principals {
            Some(principals) => principals.iter().any(|principal| certificate.is_for(principal)),
            None => certificate.is_for(self.name),
        };
        let own = certificate.admit(self.client, self.now)?;
        if is_users { options.restrictions.clone().merge(own.clone()) } else { Err(NOT_THE_USERS) }
    }
}
