//! Webhooks: HTTP servers that say who may in, and with what, in ContainerSSH's terms.
//!
//! `client` asks a server until it answers or time is up, `wire` is the JSON of questions and answers. Whatever a server
//! does, a bound or a deadline ends it, and what it says is only ever taken for a yes where it is a valid one.

mod client;
mod configuration;
mod wire;

use std::time::Duration;

use serde_json::Value;

use crate::auth::{Attempt, Authenticator, BrowserLogin, Busy, Grant, Offer, Requirements, Users};
use crate::config;
use crate::fuzzing::Target;
use crate::oauth2;
use client::Client;
pub use configuration::{Answer, ConfigServer};

pub(crate) const FUZZ_TARGETS: &[Target] = &[("webhook", wire::fuzz)];

/// Who may in: users of the configuration, and those whom webhooks let in.
pub struct Webhooks {
    users: Users,
    password: Option<Webhook>,
    public_key: Option<Webhook>,
    authorization: Option<Webhook>,
    browser: Option<config::OAuth2>,
}

/// One question's server.
struct Webhook {
    client: Client,
    /// Below the server's own path.
    path: &'static str,
    time: Duration,
}

impl Webhook {
    fn new(settings: config::Webhook, path: &'static str) -> Self {
        Webhook { client: Client::new(settings.server), path, time: settings.time }
    }

    /// What the server says, where it says yes.
    fn ask(&self, attempt: &Attempt<'_>, question: &Value) -> Option<Grant> {
        let what = format!("{}: {:?}", attempt.connection, attempt.user);
        let answer = self
            .client
            .ask(attempt, self.path, question, self.time)
            .and_then(|answer| wire::decode(&answer).map_err(client::Error::Answer));
        match answer {
            Ok((Some(true), metadata)) => Some(Grant { metadata, ..Grant::default() }),
            Ok((Some(false), _)) => None,
            Ok((None, _)) => {
                log::warn!(
                    "{what}: denied, for the answer of {} has no success: true or false",
                    self.client.url(self.path)
                );
                None
            }
            Err(error) => {
                log::error!("{what}: denied, for {} failed: {error}", self.client.url(self.path));
                None
            }
        }
    }
}

impl Webhooks {
    /// An authenticator for these users and the users of these webhooks.
    pub fn new(users: Users, webhooks: config::Webhooks) -> Self {
        let hook = |settings: Option<config::Webhook>, path| settings.map(|settings| Webhook::new(settings, path));
        Webhooks {
            users,
            password: hook(webhooks.password, "/password"),
            public_key: hook(webhooks.public_key, "/pubkey"),
            authorization: hook(webhooks.authorization, "/authz"),
            browser: webhooks.browser,
        }
    }
}

impl Authenticator for Webhooks {
    fn password(&self, attempt: &Attempt<'_>, password: &[u8]) -> Result<Option<Grant>, Busy> {
        let ask = || self.password.as_ref()?.ask(attempt, &wire::password(attempt, password));
        Ok(Authenticator::password(&self.users, attempt, password)?.or_else(ask))
    }

    fn public_key(&self, attempt: &Attempt<'_>, offer: &Offer) -> Option<Grant> {
        // Whether a certificate is good is nothing that is asked for.
        let webhook = self.public_key.as_ref().filter(|_| offer.certificate.is_none());
        let ask = || webhook?.ask(attempt, &wire::public_key(attempt, &offer.key));
        Authenticator::public_key(&self.users, attempt, offer).or_else(ask)
    }

    fn requirements(&self, user: &str) -> Requirements {
        Requirements { by_browser: self.browser.is_some(), ..self.users.requirements(user) }
    }

    fn begin_by_browser(&self, attempt: &Attempt<'_>) -> Result<Option<Box<dyn BrowserLogin>>, Busy> {
        self.browser.as_ref().map_or(Ok(None), |settings| oauth2::begin(settings, attempt))
    }

    fn first_methods(&self) -> String {
        self.users.first_methods()
    }

    fn code(&self, attempt: &Attempt<'_>, code: &[u8]) -> bool {
        self.users.code(attempt, code)
    }

    fn authorize(&self, attempt: &Attempt<'_>, mut grant: Grant) -> Option<Grant> {
        // Others may not tell them apart: then it is that user, without what the configuration holds this one to.
        if let Some(namesake) = self.users.namesake(attempt.user) {
            let user = attempt.user;
            log::error!(
                "{}: {user:?} turned away: auth.users has {namesake:?}, which differs by case",
                attempt.connection
            );
            return None;
        }
        if let Some(webhook) = &self.authorization {
            let answer = webhook.ask(attempt, &wire::authorization(attempt, &grant.metadata))?;
            grant.metadata.merge(answer.metadata);
        }
        Some(grant)
    }
}
