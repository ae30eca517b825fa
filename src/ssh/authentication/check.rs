//! What workers look at for a client, and what they find.

use std::sync::Arc;

use libssh_server::Session;

use super::{Authentication, Progress};
use crate::auth::{
    Attempt, Attested, Authenticator, BrowserLogin, Busy, Grant, Method, Methods, Offer, Presence, PublicKey,
    RevokedKeys, Step,
};
use crate::ssh::Server;
use crate::ssh::services::{Service, Unavailable};
use crate::ssh::worker::Pending;

/// A credential that a worker looks at.
pub(super) struct Check {
    pub verdict: Pending<Verdict>,
    pub then: Then,
}

/// What a worker has found.
pub(super) enum Verdict {
    /// The credential is not good, or the user may not in.
    No,
    /// The key would do, or the answer does and the next question follows.
    Yes(Grant),
    /// The login has begun of which the user is to be told.
    Begun(Box<dyn BrowserLogin>),
    /// It is good, and this is left to be proven.
    Partial(Grant, Methods),
    /// The user is in.
    In(Grant, Service),
    /// The user would be in, but cannot be served.
    Unavailable,
}

/// What a good verdict leads to.
pub(super) enum Then {
    /// This has been proven, by this key.
    Proven(Method, Option<PublicKey>),
    /// The exchange's next question.
    Ask,
    /// The answer to a query whether a key would do (RFC 4252 section 7).
    KeyOk { algorithm: Vec<u8>, blob: Vec<u8> },
}

impl Authentication {
    /// Has a worker do something for the client, whose place it keeps meanwhile.
    fn work(
        &mut self,
        session: &Session,
        then: Then,
        work: impl FnOnce(&Server, &Attempt<'_>) -> Verdict + Send + 'static,
    ) -> Progress {
        let (server, client, connection) = (Arc::clone(&self.server), self.client, self.id.clone());
        let (user, version) = (self.user.clone().unwrap_or_default(), session.client().unwrap_or_default());
        let (startup, presence) = (Arc::clone(&self.startup), Presence::of(&self.client_alive));
        let verdict = Pending::start(self.waker.clone(), move || {
            let _startup = startup;
            let (user, _) = server.services.split(&user);
            let source = server.source(client.ip());
            let (connection, version, presence) = (&connection, &version, &presence);
            work(&server, &Attempt { user, client, source, connection, version, presence })
        });
        self.check = Some(Check { verdict, then });
        Progress::Continue
    }

    /// Has a worker look at a credential.
    pub(super) fn check(
        &mut self,
        session: &Session,
        then: Then,
        look: impl FnOnce(&dyn Authenticator, &Attempt<'_>) -> Result<Option<Grant>, Busy> + Send + 'static,
    ) -> Progress {
        // What is not to be proven now is looked at all the same: the time it takes tells nobody what would be.
        let step = match &then {
            Then::Proven(method, _) => Some(self.required.methods.step(*method)),
            Then::KeyOk { .. } => {
                Some(self.required.methods.step(Method::PublicKey)).filter(|step| *step == Step::Refused)
            }
            Then::Ask => None,
        };
        let before = self.grant.clone();
        self.work(session, then, move |server, attempt| {
            let (authenticator, connection) = (server.authenticator.as_ref(), attempt.connection);
            let grant = match look(authenticator, attempt) {
                Ok(Some(grant)) => grant,
                Ok(None) => return Verdict::No,
                Err(Busy) => return Verdict::Unavailable,
            };
            let left = match step {
                None => return Verdict::Yes(grant),
                Some(Step::Refused) => {
                    log::info!("{connection}: that was right, and not to be proven now");
                    return Verdict::No;
                }
                Some(Step::Partial(left)) => Some(left),
                Some(Step::Done) => None,
            };
            let grant = match before.unwrap_or_default().merge(grant) {
                Ok(grant) => grant,
                Err(reason) => {
                    log::info!("{connection}: what was proven does not go together: {reason}");
                    return Verdict::No;
                }
            };
            if let Some(left) = left {
                return Verdict::Partial(grant, left);
            }
            let Some(mut grant) = authenticator.authorize(attempt, grant) else { return Verdict::No };
            match server.services.find(attempt, &mut grant.metadata) {
                Ok(service) => Verdict::In(grant, service),
                Err(Unavailable) => Verdict::Unavailable,
            }
        })
    }

    /// `attested` is what a security key has, in its signature.
    pub(super) fn check_key(
        &mut self,
        session: &Session,
        then: Then,
        attested: Option<Attested>,
        offer: Offer,
        blob: &[u8],
    ) -> Progress {
        let promised = self.promised.take().filter(|(other, _)| other == blob && matches!(then, Then::Proven(..)));
        let is_used = self.keys.contains(&offer.key);
        let required = self.server.settings.pubkey_auth_options.clone();
        let settings = &self.server.settings;
        let revoked = RevokedKeys::new(settings.revoked_keys.clone(), settings.strict_modes);
        self.check(session, then, move |authenticator, attempt| {
            let is_revoked = revoked.cover(&offer);
            let grant = promised.map(|(_, grant)| grant).or_else(|| authenticator.public_key(attempt, &offer));
            let Some(grant) = grant else { return Ok(None) };
            if is_revoked || is_used {
                let reason = if is_revoked { "revoked" } else { "the same as one before" };
                log::info!("{}: the key is {reason}", attempt.connection);
                return Ok(None);
            }
            if let Some(attested) = attested
                && let Err(missing) = grant.restrictions.satisfied_by(attested, &required)
            {
                log::info!("{}: the security key is refused: {missing}", attempt.connection);
                return Ok(None);
            }
            Ok(Some(grant))
        })
    }

    pub(super) fn check_password(&mut self, session: &Session, then: Then, password: &[u8]) -> Progress {
        let password = Password(password.to_vec());
        self.check(session, then, move |authenticator, attempt| authenticator.password(attempt, &password.0))
    }

    /// Has a worker find out where the user is to go.
    pub(super) fn begin_by_browser(&mut self, session: &Session) -> Progress {
        self.work(session, Then::Ask, |server, attempt| match server.authenticator.begin_by_browser(attempt) {
            Ok(login) => login.map_or(Verdict::No, Verdict::Begun),
            Err(Busy) => Verdict::Unavailable,
        })
    }
}

/// A password on its way to the check, overwritten afterwards.
pub(super) struct Password(pub Vec<u8>);

impl Drop for Password {
    fn drop(&mut self) {
        self.0.fill(0);
        // The read keeps the compiler from leaving the write out.
        std::hint::black_box(&self.0);
    }
}
