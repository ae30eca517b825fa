//! Calls of the Docker Engine API, by the version that the daemon and berth share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::Error;
use crate::backend::told::Told;
use crate::config::DockerConnection;
pub(super) use crate::http::encode;
use crate::http::{self, Body, Client, Deadline, Exchange, Request, Response, Upgraded};

/// The oldest API that berth can use: before it there are no mounts, and no containers that the daemon removes by itself.
const OLDEST: Version = Version(1, 25);
/// The newest API that berth was written against. Newer daemons still speak it.
const NEWEST: Version = Version(1, 47);
/// The first API by which a terminal has its size before its program runs.
const CONSOLE_SIZE: Version = Version(1, 42);
/// The longest JSON answer: a list of some thousands of containers.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// The most of a daemon's error message that is kept.
const MESSAGE_LIMIT: usize = 1000;

/// An API version: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Version(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A daemon.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    /// For messages.
    host: String,
    /// What stands before the path of every request.
    base: String,
    timeout: Duration,
    /// The version to be spoken whatever the daemon says.
    fixed: Option<Version>,
    /// Negotiated at the first call, and again after the daemon was down: it may come back as another version.
    version: Mutex<Option<Version>>,
    is_podman: AtomicBool,
    pub(super) told: Told,
}

impl Api {
    /// The daemon behind this connection; `timeout` is for one ordinary call.
    pub(super) fn new(connection: &DockerConnection, timeout: Duration) -> Api {
        let DockerConnection { host, address, base, api_version, .. } = connection.clone();
        let fixed = api_version.as_deref().and_then(Version::parse);
        Api {
            client: Client::new(address),
            host,
            base,
            timeout,
            fixed,
            version: Mutex::default(),
            is_podman: AtomicBool::default(),
            told: Told::default(),
        }
    }

    /// The deadline of an ordinary call that begins now.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// Asks for the daemon's version (`GET /_ping`) and returns the one to be spoken.
    pub(super) fn ping(&self) -> Result<Version, Error> {
        const STEP: &str = "ping the daemon";
        let deadline = self.deadline();
        let target = format!("{}/_ping", self.base);
        let request = Request { method: "GET", target: &target, fields: &[], body: Body::Empty };
        let response = self.client.send(request, deadline).map_err(|e| match e {
            http::Error::TimedOut(_) => self.failed(STEP, e),
            // One that takes a connection and nothing more is not to be had, either: TLS 1.3 refuses clients so.
            source => self.unavailable(source),
        })?;
        // A daemon that is still starting answers 503 or 500, with the version all the same.
        let offered = response.field("api-version").unwrap_or_default().to_owned();
        self.is_podman.store(response.field("libpod-api-version").is_some(), Ordering::Relaxed);
        self.checked(STEP, response, deadline)?.bytes(MESSAGE_LIMIT, deadline).map_err(|e| self.failed(STEP, e))?;
        let version = self.fixed.or_else(|| negotiate(&offered)).ok_or(Error::Version { daemon: offered })?;
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        Ok(version)
    }

    /// Whether the daemon that was talked to is Podman, which does some things in its own way.
    pub(super) fn is_podman(&self) -> bool {
        self.is_podman.load(Ordering::Relaxed)
    }

    /// Whether the `ConsoleSize` of what is made or executed counts. Podman does not know it.
    pub(super) fn sets_size_first(&self) -> Result<bool, Error> {
        Ok(self.version()? >= CONSOLE_SIZE && !self.is_podman())
    }

    fn version(&self) -> Result<Version, Error> {
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        known.map_or_else(|| self.ping(), Ok)
    }

    /// `/v1.41` and the path.
    fn target(&self, path: &str) -> Result<String, Error> {
        Ok(format!("{}/v{}{path}", self.base, self.version()?))
    }

    /// Makes a call and returns the answer once its head is there; a status of 400 or more is an error. `step`
    /// completes "cannot ...".
    pub(super) fn open(
        &self,
        step: &'static str,
        method: &str,
        path: &str,
        body: Body<'_>,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        let (target, fields) = (self.target(path)?, fields(&body));
        let request = Request { method, target: &target, fields, body };
        let response = self.client.send(request, deadline).map_err(|e| self.failed(step, e))?;
        self.checked(step, response, deadline)
    }

    /// Makes a call with a JSON answer, or with none ([`Value::Null`]).
    pub(super) fn call(
        &self,
        step: &'static str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let bytes = body.map(Value::to_string);
        let body = bytes.as_ref().map_or(Body::Empty, |bytes| Body::Bytes(bytes.as_bytes()));
        let response = self.open(step, method, path, body, deadline)?;
        self.json(step, response, deadline)
    }

    /// Begins a call without body, whose answer is read later with [`Api::answer`] or [`Api::finish`].
    pub(super) fn begin(
        &self,
        step: &'static str,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<Exchange, Error> {
        let target = self.target(path)?;
        let request = Request { method, target: &target, fields, body: Body::Empty };
        self.client.begin(request, deadline).map_err(|e| self.failed(step, e))
    }

    /// Reads the head of the answer to a call that was begun.
    pub(super) fn answer(&self, step: &'static str, exchange: Exchange, deadline: Deadline) -> Result<Response, Error> {
        let response = exchange.response(deadline).map_err(|e| self.failed(step, e))?;
        self.checked(step, response, deadline)
    }

    /// Reads the whole JSON answer to a call that was begun.
    pub(super) fn finish(&self, step: &'static str, exchange: Exchange, deadline: Deadline) -> Result<Value, Error> {
        let response = self.answer(step, exchange, deadline)?;
        self.json(step, response, deadline)
    }

    /// Makes a call whose answer is a raw stream both ways ("hijacking").
    pub(super) fn hijack(
        &self,
        step: &'static str,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Upgraded, Error> {
        let target = self.target(path)?;
        let bytes = body.map(Value::to_string);
        let body = bytes.as_ref().map_or(Body::Empty, |bytes| Body::Bytes(bytes.as_bytes()));
        let fields = [("Content-Type", "application/json"), ("Connection", "Upgrade"), ("Upgrade", "tcp")];
        let request = Request { method: "POST", target: &target, fields: &fields, body };
        let response = self.client.send(request, deadline).map_err(|e| self.failed(step, e))?;
        self.checked(step, response, deadline)?.upgrade().map_err(|e| self.failed(step, e))
    }

    fn json(&self, step: &'static str, mut response: Response, deadline: Deadline) -> Result<Value, Error> {
        match response.bytes(ANSWER_LIMIT, deadline).map_err(|e| self.failed(step, e))?.as_slice() {
            [] | b"\n" => Ok(Value::Null),
            bytes => serde_json::from_slice(bytes).map_err(|e| Error::Answer { step, detail: e.to_string() }),
        }
    }

    /// Turns an answer with an error status into an error.
    fn checked(&self, step: &'static str, mut response: Response, deadline: Deadline) -> Result<Response, Error> {
        let status = response.status();
        if status < 400 {
            return Ok(response);
        }
        let body = response.bytes(ANSWER_LIMIT, deadline).unwrap_or_default();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = match json.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&body).into_owned(),
        };
        let message: String = text.trim().chars().take(MESSAGE_LIMIT).collect();
        if status == 400 && message.contains("client version") {
            // The daemon was exchanged for one that does not speak this version.
            self.forget_version();
        }
        Err(Error::Api { step, status: docker_status(status, &message), message })
    }

    /// The error for a call without answer.
    pub(super) fn failed(&self, step: &'static str, source: http::Error) -> Error {
        match source {
            http::Error::Connect(_) | http::Error::Tls(_) | http::Error::TimedOut(http::Phase::Connect) => {
                self.unavailable(source)
            }
            source => Error::Http { step, source },
        }
    }

    fn unavailable(&self, source: http::Error) -> Error {
        self.forget_version();
        Error::Unavailable { host: self.host.clone(), source }
    }

    fn forget_version(&self) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The status that Docker has for what Podman answers with 500.
fn docker_status(status: u16, message: &str) -> u16 {
    match status {
        500 if message.contains("no such container") => 404,
        // Podman 4 and 5.
        500 if message.contains("name is already in use") || message.contains("container already exists") => 409,
        status => status,
    }
}

/// The newest version that both can speak, where the daemon's newest is `offered`.
fn negotiate(offered: &str) -> Option<Version> {
    Version::parse(offered).filter(|daemon| *daemon >= OLDEST).map(|daemon| daemon.min(NEWEST))
}

fn fields(body: &Body<'_>) -> &'static [(&'static str, &'static str)] {
    match body {
        Body::Empty => &[],
        Body::Bytes(_) => &[("Content-Type", "application/json")],
        Body::Stream(..) => &[("Content-Type", "application/x-tar")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::parse("1.9") < Version::parse("1.40"));
        assert_eq!(Version::parse("1.41").map(|v| v.to_string()), Some("1.41".into()));
        assert_eq!(Version::parse("nonsense"), None);
    }

    #[test]
    fn podmans_statuses_become_dockers() {
        assert_eq!(docker_status(500, "inspecting: no such container"), 404);
        assert_eq!(
            docker_status(500, "creating: the container name \"x\" is in use: that name is already in use"),
            409
        );
        assert_eq!(docker_status(500, "container create: name \"x\" is in use: container already exists"), 409);
        assert_eq!((docker_status(500, "no space left"), docker_status(409, "in use")), (500, 409));
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let spoken = |offered| negotiate(offered).map(|version| version.to_string());
        assert_eq!(spoken("1.41").as_deref(), Some("1.41"));
        assert_eq!(spoken("1.52"), Some(NEWEST.to_string()));
        // Docker 29 refuses clients below this.
        assert!(NEWEST >= Version(1, 44));
        assert_eq!(spoken("1.25").as_deref(), Some("1.25"));
        assert_eq!(spoken("1.24"), None);
        assert_eq!(spoken(""), None);
    }
}
