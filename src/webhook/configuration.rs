//! The configuration server: what one connection is served with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{self, Client};
use super::wire;
use crate::auth::Attempt;
use crate::config;
use crate::metadata::Metadata;

/// For all attempts together, as in ContainerSSH.
const TIME: Duration = Duration::from_secs(60);

/// The most answers that are kept.
const MOST_KEPT: usize = 1024;

/// A server that says what a connection is served with.
pub struct ConfigServer {
    client: Client,
    transmit_sensitive: bool,
    cache_time: Duration,
    cache: Mutex<HashMap<String, (Instant, Arc<Answer>)>>,
}

/// What it says.
#[derive(Debug)]
pub struct Answer {
    /// What goes over the configuration, in its keys.
    pub settings: Value,
    /// What goes over what is known of the connection.
    pub metadata: Metadata,
}

impl ConfigServer {
    /// Asks no one yet.
    pub fn new(settings: config::ConfigServer) -> Self {
        ConfigServer {
            client: Client::new(settings.server),
            transmit_sensitive: settings.transmit_sensitive,
            cache_time: settings.cache_time,
            cache: Mutex::default(),
        }
    }

    /// Asks about an authenticated user. A failure is in the log.
    pub fn ask(&self, attempt: &Attempt<'_>, metadata: &Metadata) -> Option<Arc<Answer>> {
        let question = wire::configuration(attempt, metadata, self.transmit_sensitive);
        if self.cache_time.is_zero() {
            return self.ask_server(attempt, &question);
        }
        let key = wire::repeated(attempt, question.clone()).to_string();
        let now = Instant::now();
        if let Some((_, answer)) = self.kept().get(&key).filter(|(end, _)| now < *end) {
            return Some(Arc::clone(answer));
        }
        let answer = self.ask_server(attempt, &question)?;
        let mut kept = self.kept();
        kept.retain(|_, (end, _)| now < *end);
        if kept.len() < MOST_KEPT {
            kept.insert(key, (Instant::now() + self.cache_time, Arc::clone(&answer)));
        }
        Some(answer)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<Answer>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_server(&self, attempt: &Attempt<'_>, question: &Value) -> Option<Arc<Answer>> {
        let what = format!("{}: {:?}", attempt.connection, attempt.user);
        let answer = self.client.ask(attempt, "", question, TIME);
        match answer.and_then(|answer| wire::decode_configuration(&answer).map_err(client::Error::Answer)) {
            Ok((settings, metadata)) => Some(Arc::new(Answer { settings, metadata })),
            Err(error) => {
                log::error!("{what}: turned away, for {} failed: {error}", self.client.url(""));
                None
            }
        }
    }
}
