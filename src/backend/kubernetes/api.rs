//! Calls of the Kubernetes API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value as Json;

use super::Error;
use super::access::{Access, Credentials, Grant};
use super::kubeconfig::read;
use super::warning;
use crate::backend::told::Told;
use crate::config::KubernetesConnection;
use crate::http::websocket::{self, Opening, WebSocket};
use crate::http::{self, Address, Body, Client, Deadline, Request, Response, Tls, TlsOffer, TlsSettings, Upgraded};

/// The longest JSON answer: a page of pods.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
/// The most of an API server's error message that is kept, in characters.
const MESSAGE_LIMIT: usize = 1000;
/// How long what was read of files counts: certificates are exchanged under a running berth.
const FRESH: Duration = Duration::from_secs(60);
/// How long is waited where the server is busy and does not say for how long.
const BUSY: Duration = Duration::from_secs(1);

/// An API server.
pub(super) struct Api {
    settings: KubernetesConnection,
    timeout: Duration,
    session: Mutex<Option<Arc<Session>>>,
    /// Of its warnings.
    told: Told,
}

/// A way to the server, as the files and programs that say it were last asked.
struct Session {
    access: Access,
    grant: Option<Grant>,
    client: Client,
    since: Instant,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Api {
    /// The server behind this connection; `timeout` is for one ordinary call.
    pub(super) fn new(settings: &KubernetesConnection, timeout: Duration) -> Api {
        Api { settings: settings.clone(), timeout, session: Mutex::default(), told: Told::default() }
    }

    /// Whether this is how it is reached.
    pub(super) fn is_by(&self, settings: &KubernetesConnection) -> bool {
        self.settings == *settings
    }

    /// The deadline of an ordinary call that begins now.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// The namespace that goes with the connection.
    pub(super) fn namespace(&self) -> Result<String, Error> {
        Ok(self.session()?.access.namespace.clone().unwrap_or_else(|| "default".to_owned()))
    }

    /// Asks for the server's version; gives it with the server's address.
    pub(super) fn version(&self) -> Result<String, Error> {
        let session = self.session()?;
        let target = format!("{}/version", session.access.server.prefix);
        let answer = self.json("ask for the version", "GET", &target, None, self.deadline())?;
        let version = answer.get("gitVersion").and_then(Json::as_str).unwrap_or("unknown version");
        Ok(format!("{version} at {}", session.access.server))
    }

    /// Makes a call with a JSON answer. `path` follows `/api`, or is that of a group in `/apis`; `step` completes "cannot ...".
    pub(super) fn call(
        &self,
        step: &'static str,
        method: &str,
        path: &str,
        body: Option<&Json>,
        deadline: Deadline,
    ) -> Result<Json, Error> {
        let target = self.session()?.target(path);
        self.json(step, method, &target, body, deadline)
    }

    fn json(
        &self,
        step: &'static str,
        method: &str,
        target: &str,
        body: Option<&Json>,
        deadline: Deadline,
    ) -> Result<Json, Error> {
        let bytes = body.map(Json::to_string);
        let body = || bytes.as_ref().map_or(Body::Empty, |bytes| Body::Bytes(bytes.as_bytes()));
        let mut response = self.send(step, method, target, body, deadline)?;
        let bytes = response.bytes(ANSWER_LIMIT, deadline).map_err(|source| Error::Http { step, source })?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer { step, detail: error.to_string() })
    }

    /// Makes a call whose answer comes line by line, for as long as the caller reads.
    pub(super) fn open(&self, step: &'static str, path: &str, deadline: Deadline) -> Result<Response, Error> {
        let target = self.session()?.target(path);
        self.send(step, "GET", &target, || Body::Empty, deadline)
    }

    /// Makes a call; a status of 400 or more is an error. Credentials that are refused are asked for again once, and a busy
    /// server is given the time that it wants.
    fn send<'b>(
        &self,
        step: &'static str,
        method: &str,
        target: &str,
        body: impl Fn() -> Body<'b>,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        let mut refused = false;
        loop {
            let session = self.session()?;
            let fields = session.fields()?;
            let mut all: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            all.push(("Accept", "application/json"));
            let body = body();
            if matches!(body, Body::Bytes(_)) {
                all.push(("Content-Type", "application/json"));
            }
            let request = Request { method, target, fields: &all, body };
            let response = session.client.send(request, deadline).map_err(|e| self.failed(step, &session, e))?;
            warning::hear(&self.told, response.fields("Warning"));
            match response.status() {
                ..=399 => return Ok(response),
                401 if !refused => {
                    refused = true;
                    self.forget();
                }
                status => {
                    let wait = wait_of(&response).filter(|_| matches!(status, 429 | 503));
                    let wait = wait.or((status == 429).then_some(BUSY));
                    match wait.filter(|wait| *wait < deadline.remaining()) {
                        Some(wait) => thread::sleep(wait),
                        None => return Err(refusal(step, response, deadline)),
                    }
                }
            }
        }
    }

    /// Opens a websocket; gives it with the protocol that was chosen of these.
    pub(super) fn websocket(
        &self,
        step: &'static str,
        path: &str,
        protocols: &[&str],
        deadline: Deadline,
    ) -> Result<(WebSocket<Upgraded>, String), Error> {
        let mut refused = false;
        loop {
            let session = self.session()?;
            let fields = session.fields()?;
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            match websocket::open(&session.client, &session.target(path), &fields, protocols, deadline) {
                Ok(Opening::Open(socket, protocol)) => return Ok((socket, protocol)),
                Ok(Opening::Refused(response)) if response.status() == 401 && !refused => {
                    refused = true;
                    self.forget();
                }
                Ok(Opening::Refused(response)) => return Err(refusal(step, response, deadline)),
                Err(websocket::Error::Http(source)) => return Err(self.failed(step, &session, source)),
                Err(source) => return Err(Error::Stream { step, source }),
            }
        }
    }

    /// The error for a call without answer.
    fn failed(&self, step: &'static str, session: &Session, source: http::Error) -> Error {
        match source {
            http::Error::Connect(_) | http::Error::Tls(_) | http::Error::TimedOut(http::Phase::Connect) => {
                // Its certificates may have been exchanged since.
                self.forget();
                Error::Unavailable { server: session.access.server.to_string(), source }
            }
            source => Error::Http { step, source },
        }
    }

    fn session(&self) -> Result<Arc<Session>, Error> {
        let mut known = self.known();
        if let Some(session) = known.as_ref().filter(|session| session.is_fresh()) {
            return Ok(Arc::clone(session));
        }
        let access = Access::find(&self.settings)?;
        let session = match known.take() {
            Some(old) if old.access == access && !old.has_expired() => {
                let (grant, client) = (old.grant.clone(), old.client.clone());
                Session { access, grant, client, since: Instant::now() }
            }
            _ => Session::new(access)?,
        };
        Ok(Arc::clone(known.insert(Arc::new(session))))
    }

    fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn new(access: Access) -> Result<Session, Error> {
        let grant = match &access.credentials {
            Credentials::Plugin(plugin) => Some(plugin.run(&access.for_plugins)?),
            _ => None,
        };
        let identity = grant.as_ref().and_then(|grant| grant.identity.as_ref()).or(access.identity.as_ref());
        let tls = if access.server.tls {
            let settings = TlsSettings {
                authorities: access.authorities.as_deref(),
                identity: identity.map(|(certificate, key)| (certificate.as_slice(), key.as_slice())),
                server_name: access.server_name.as_deref(),
                verify: !access.insecure,
                offer: TlsOffer::default(),
            };
            Some(Tls::new(&settings).map_err(|error| Error::Settings(format!("{}: {error}", access.server)))?)
        } else {
            None
        };
        let address = Address::Tcp {
            host: access.server.host.clone(),
            port: access.server.port,
            tls,
            proxy: access.proxy.clone(),
        };
        Ok(Session { access, grant, client: Client::new(address), since: Instant::now() })
    }

    fn has_expired(&self) -> bool {
        let expires = self.grant.as_ref().and_then(|grant| grant.expires);
        expires.is_some_and(|end| end <= SystemTime::now())
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < FRESH && !self.has_expired()
    }

    fn target(&self, path: &str) -> String {
        let Access { server, root, .. } = &self.access;
        let root = if path.starts_with("/apis/") { root.strip_suffix("/api").unwrap_or_default() } else { root };
        format!("{}{root}{path}", server.prefix)
    }

    /// The header fields that say who speaks.
    fn fields(&self) -> Result<Vec<(&str, String)>, Error> {
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        let authorization = match &self.access.credentials {
            Credentials::None => None,
            Credentials::Token(token) => bearer(token),
            Credentials::TokenFile { path, fallback } => match (read(path), fallback) {
                (Ok(bytes), _) => {
                    let token = String::from_utf8_lossy(&bytes).trim().to_owned();
                    if token.is_empty() || token.contains(char::is_control) {
                        return Err(Error::Settings(format!("{} holds no token", path.display())));
                    }
                    bearer(&token)
                }
                (Err(_), Some(token)) => bearer(token),
                (Err(error), None) => {
                    return Err(Error::Settings(format!("cannot read {}: {error}", path.display())));
                }
            },
            Credentials::Basic { name, password } => Some(http::basic(name, password)),
            Credentials::Plugin(_) => self.grant.as_ref().and_then(|grant| bearer(grant.token.as_ref()?)),
        };
        let mut fields = vec![("User-Agent", http::USER_AGENT.to_owned())];
        fields.extend(authorization.map(|value| ("Authorization", value)));
        fields.extend(self.access.impersonate.iter().map(|(name, value)| (name.as_str(), value.clone())));
        Ok(fields)
    }
}

/// How long a server wants to be left alone: RFC 9110 section 10.2.3, in seconds.
fn wait_of(response: &Response) -> Option<Duration> {
    Some(Duration::from_secs(response.field("Retry-After")?.trim().parse().ok()?))
}

/// The error that an answer stands for, which has a `metav1.Status` as its body.
fn refusal(step: &'static str, mut response: Response, deadline: Deadline) -> Error {
    let status = response.status();
    let body = response.bytes(ANSWER_LIMIT, deadline).unwrap_or_default();
    let json: Json = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name| json.get(name).and_then(Json::as_str);
    let whole = String::from_utf8_lossy(&body);
    let message = text("message").unwrap_or(whole.trim()).chars().take(MESSAGE_LIMIT).collect();
    Error::Api { step, status, reason: text("reason").unwrap_or_default().to_owned(), message }
}
