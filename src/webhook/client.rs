//! Questions to one server.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::wire;
use crate::auth::Attempt;
use crate::config::HttpServer;
use crate::http::{self, Body, Deadline, Request};
use crate::metrics::{self, Metric};

/// The longest answer, in bytes: it may have files in it.
const LONGEST: usize = 4 * 1024 * 1024;

/// How long is waited before another attempt: so there are as many as these and one.
const WAITS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];

/// A server that is asked. Connections are kept for the next question.
pub struct Client {
    server: HttpServer,
    http: http::Client,
}

/// Why there is no answer, or none of use.
#[derive(Debug)]
pub enum Error {
    /// The exchange failed.
    Exchange(http::Error),
    /// The server answered with this status.
    Status(u16),
    /// The answer is not what it should be.
    Answer(wire::Error),
}

impl Error {
    /// Whether the server may do better the next time.
    fn is_passing(&self) -> bool {
        match self {
            Error::Exchange(error) => !matches!(
                error,
                http::Error::Tls(_) | http::Error::TooLarge(_) | http::Error::Malformed(_) | http::Error::Source(_)
            ),
            Error::Status(status) => matches!(status, 408 | 429 | 500..),
            Error::Answer(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Exchange(error) => error.fmt(f),
            Error::Status(status @ 300..400) => write!(f, "status {status}, and redirects are not followed"),
            Error::Status(status) => write!(f, "status {status}"),
            Error::Answer(error) => error.fmt(f),
        }
    }
}

impl Client {
    /// Asks no one yet.
    pub fn new(server: HttpServer) -> Self {
        let http = http::Client::new(server.address.clone());
        Client { server, http }
    }

    /// Where questions of this kind go, for messages.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url.trim_end_matches('/'))
    }

    /// Asks a question for a client's sake, again where the server may do better the next time and the client is still
    /// there, for `time` at most.
    pub fn ask(&self, attempt: &Attempt<'_>, path: &str, question: &Value, time: Duration) -> Result<Vec<u8>, Error> {
        let (end, body) = (Deadline::after(time), question.to_string());
        let mut waits = WAITS.iter();
        loop {
            let error = match self.exchange(path, body.as_bytes(), end.min(Deadline::after(self.server.timeout))) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_wanted = error.is_passing() && attempt.presence.is_there();
            match waits.next().filter(|wait| is_wanted && Deadline::after(**wait) < end) {
                Some(wait) => {
                    let Attempt { user, connection, .. } = attempt;
                    log::warn!("{connection}: {user:?}: {}: {error}; asking again", self.url(path));
                    std::thread::sleep(*wait);
                }
                None => return Err(error),
            }
        }
    }

    fn exchange(&self, path: &str, body: &[u8], deadline: Deadline) -> Result<Vec<u8>, Error> {
        let kind = if path == "/authz" { "authorization" } else { path.trim_start_matches('/') };
        let (requests, failures, labels) = match kind {
            "" => (Metric::ConfigServerRequests, Metric::ConfigServerFailures, &[][..]),
            kind => (Metric::AuthServerRequests, Metric::AuthServerFailures, &[("authtype", kind)][..]),
        };
        metrics::count(requests, labels);
        self.post(path, body, deadline).inspect_err(|_| metrics::count(failures, labels))
    }

    fn post(&self, path: &str, body: &[u8], deadline: Deadline) -> Result<Vec<u8>, Error> {
        let target = match (self.server.path.as_str(), path) {
            ("", "") => "/".to_owned(),
            (base, "") => base.to_owned(),
            (base, path) => format!("{}{path}", base.trim_end_matches('/')),
        };
        let fields =
            [("Content-Type", "application/json"), ("Accept", "application/json"), ("User-Agent", http::USER_AGENT)];
        let request = Request { method: "POST", target: &target, fields: &fields, body: Body::Bytes(body) };
        let mut response = self.http.send(request, deadline).map_err(Error::Exchange)?;
        if response.status() != 200 {
            return Err(Error::Status(response.status()));
        }
        response.bytes(LONGEST, deadline).map_err(Error::Exchange)
    }
}
