//! User authentication, RFC 4252: from the service request to success.
//!
//! Requests are answered strictly one after another. While a [`Check`] runs in a worker, no further message is looked
//! at. Every request is answered, whatever is in it: what cannot be understood fails like a wrong password.

mod check;

use std::net::SocketAddr;
use std::sync::Arc;

use libssh_server::{Session, number};

use self::check::{Check, Password, Then, Verdict};
use super::interactive::{Exchange, Next, Question};
use super::penalties::Offence;
use super::quota::{Kind, Share};
use super::services::Service;
use super::startups::Startup;
use super::userauth::{Credential, Request, UNKNOWN, decode_response};
use super::{Server, reason};
use crate::auth::{BadSignature, Grant, LONGEST_PASSWORD, Method, Offer, PublicKey, Requirements, fingerprint};
use crate::connection::wire::{Malformed, Reader, Write};
use crate::metrics::{self, Metric};
use crate::waker::Waker;

/// The longest user name, in bytes.
const LONGEST_NAME: usize = 1024;

/// The longest code that a browser shows, in bytes.
const LONGEST_CODE: usize = 8 * 1024;

/// The messages that a client may send before it is in: as many as sshd's requests.
const MOST_MESSAGES: u32 = 1024;

/// What a client is told that has tried too often.
const TOO_MANY: &str = "Too many authentication failures";

/// What a user is told who is in and cannot be served.
pub const UNAVAILABLE: &str = "the server cannot serve you at this time; try again later";

/// An authenticated user.
pub struct Login {
    /// The name that the client gave.
    pub user: String,
    /// The container that the client gave with it.
    pub container: Option<String>,
    /// What this user is given, and held to.
    pub grant: Grant,
    /// What this user is served with.
    pub service: Service,
    /// This connection among the user's.
    pub share: Share,
}

/// What a message led to.
pub enum Progress {
    /// The next message may be looked at.
    Continue,
    /// The user is in; SSH_MSG_USERAUTH_SUCCESS has been sent.
    Done(Box<Login>),
    /// The client is to be disconnected, with this reason and text.
    Refuse(u32, String),
    /// The session has failed.
    Failed(libssh_server::Error),
}

impl From<libssh_server::Error> for Progress {
    fn from(error: libssh_server::Error) -> Self {
        Progress::Failed(error)
    }
}

/// The state of one client's authentication.
pub struct Authentication {
    server: Arc<Server>,
    client: SocketAddr,
    waker: Waker,
    id: String,
    /// The user of all requests, once one has come.
    user: Option<String>,
    /// By what the last request tried it: the method, for the log.
    method: &'static str,
    /// The key with which it did, as people know it.
    fingerprint: Option<String>,
    service_accepted: bool,
    failures: u32,
    /// Whether it has tried anything but to ask for the methods.
    has_tried: bool,
    messages: u32,
    requests: u32,
    /// Where an INFO_REQUEST is out, which an INFO_RESPONSE must follow (RFC 4256).
    exchange: Option<Exchange>,
    /// What is asked of the user.
    required: Requirements,
    /// What has been proven so far, by which keys, and what that has given.
    proven: Vec<Method>,
    keys: Vec<PublicKey>,
    grant: Option<Grant>,
    /// As long as this is there, so is the client.
    client_alive: Arc<()>,
    /// The client's place, which all work for it holds.
    startup: Arc<Startup>,
    /// Whether it is the server that turns the client away, who has done nothing wrong.
    is_unavailable: bool,
    check: Option<Check>,
    /// The key that the client was last told would do, and what for: its signature need not be waited for twice.
    promised: Option<(Vec<u8>, Grant)>,
}

impl Authentication {
    /// `id` is the connection's, for the log.
    pub fn new(server: Arc<Server>, client: SocketAddr, waker: Waker, id: String, startup: Arc<Startup>) -> Self {
        Authentication {
            server,
            client,
            waker,
            id,
            user: None,
            method: UNKNOWN,
            fingerprint: None,
            service_accepted: false,
            failures: 0,
            has_tried: false,
            messages: 0,
            requests: 0,
            exchange: None,
            required: Requirements::default(),
            proven: Vec::new(),
            keys: Vec::new(),
            grant: None,
            client_alive: Arc::default(),
            startup,
            is_unavailable: false,
            check: None,
            promised: None,
        }
    }

    /// Whether a worker is busy, so that no message may be given.
    pub fn is_waiting(&self) -> bool {
        self.check.is_some()
    }

    /// What is held against a client that leaves now.
    pub fn offence(&self) -> Option<Offence> {
        match (self.is_unavailable, self.has_tried) {
            (true, _) => None,
            (false, true) => Some(Offence::AuthFail),
            (false, false) => Some(Offence::NoAuth),
        }
    }

    /// Goes on where a worker has ended.
    pub fn resume(&mut self, session: &mut Session) -> Progress {
        let Some(verdict) = self.check.as_ref().and_then(|check| check.verdict.poll()) else {
            return Progress::Continue;
        };
        let Some(check) = self.check.take() else { return Progress::Continue };
        // A worker that was lost has looked at nothing.
        match (verdict.unwrap_or(Verdict::Unavailable), check.then) {
            (Verdict::In(grant, service), _) => self.let_in(session, grant, service),
            (Verdict::Partial(grant, left), Then::Proven(method, key)) => {
                self.report("partial");
                self.required.methods = left;
                self.proven.push(method);
                self.keys.extend(key);
                self.grant = Some(grant);
                let names = self.required.methods.names();
                send(session, &failure(&names, true))
            }
            (Verdict::Begun(login), _) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.login = Some(login);
                }
                self.ask(session)
            }
            (Verdict::Yes(grant), Then::Ask) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.grant = Some(grant);
                }
                self.ask(session)
            }
            (Verdict::Yes(grant), Then::KeyOk { algorithm, blob }) => {
                let mut message = vec![number::USERAUTH_PK_OK];
                message.put_string(algorithm);
                message.put_string(&blob);
                self.promised = Some((blob, grant));
                send(session, &message)
            }
            (Verdict::Unavailable, _) => {
                self.is_unavailable = true;
                Progress::Refuse(reason::BY_APPLICATION, UNAVAILABLE.into())
            }
            (Verdict::No | Verdict::Yes(_) | Verdict::Partial(..), _) => self.fail(session, true),
        }
    }

    /// Everything is proven.
    fn let_in(&mut self, session: &mut Session, grant: Grant, service: Service) -> Progress {
        let name = self.user.clone().unwrap_or_default();
        let (user, container) = self.server.services.split(&name);
        let (user, container) = (user.to_owned(), container.map(str::to_owned));
        let share = match Share::take(Kind::Connections, &user, service.quota.connections) {
            Ok(share) => share,
            Err(exceeded) => {
                self.is_unavailable = true;
                return Progress::Refuse(reason::TOO_MANY_CONNECTIONS, format!("berth: {exceeded}"));
            }
        };
        match session.authenticated() {
            Ok(()) => {
                self.report("accepted");
                Progress::Done(Box::new(Login { user, container, grant, service, share }))
            }
            Err(error) => error.into(),
        }
    }

    /// Takes one message: number and body.
    pub fn message(&mut self, session: &mut Session, message: &[u8]) -> Progress {
        let Some((&kind, body)) = message.split_first() else { return Progress::Continue };
        self.messages += 1;
        if self.messages > MOST_MESSAGES {
            return Progress::Refuse(reason::PROTOCOL_ERROR, TOO_MANY.into());
        }
        match kind {
            // Answered each time, as by sshd: Paramiko sends one before each attempt.
            number::SERVICE_REQUEST => match Reader::new(body).string() {
                Ok(service @ b"ssh-userauth") => {
                    self.service_accepted = true;
                    let mut message = vec![number::SERVICE_ACCEPT];
                    message.put_string(service);
                    send(session, &message)
                }
                _ => Progress::Refuse(reason::SERVICE_NOT_AVAILABLE, "no such service".into()),
            },
            number::USERAUTH_REQUEST if self.service_accepted => self.request(session, body),
            number::USERAUTH_INFO_RESPONSE if self.exchange.is_some() => self.response(session, body),
            // The transport lets connection messages through only after success.
            _ => Progress::Refuse(reason::PROTOCOL_ERROR, "authenticate first".into()),
        }
    }

    fn request(&mut self, session: &mut Session, body: &[u8]) -> Progress {
        self.requests += 1;
        // A new request ends an exchange that is under way, without an answer to it (RFC 4252 section 5.1). It may have
        // cost much to begin: so it counts as a failure.
        if self.exchange.take().is_some() {
            self.failures += 1;
            self.report("failed");
            if self.failures >= self.server.settings.max_auth_tries {
                return Progress::Refuse(reason::PROTOCOL_ERROR, TOO_MANY.into());
            }
        }
        if self.requests == 1
            && let Some(text) = &self.server.settings.banner
        {
            let mut message = vec![number::USERAUTH_BANNER];
            message.put_string(text);
            message.put_string("");
            if let Err(error) = session.send(&message) {
                return error.into();
            }
        }
        (self.method, self.fingerprint) = (UNKNOWN, None);
        match Request::decode(body) {
            Ok(request) => self.decoded(session, &request, body),
            Err(Malformed) => self.fail(session, true),
        }
    }

    fn decoded(&mut self, session: &mut Session, request: &Request<'_>, body: &[u8]) -> Progress {
        if request.service != b"ssh-connection" {
            return Progress::Refuse(reason::SERVICE_NOT_AVAILABLE, "no such service".into());
        }
        match &self.user {
            Some(user) if user == request.user => (),
            None if request.user.len() <= LONGEST_NAME => {
                let (user, _) = self.server.services.split(request.user);
                self.required = self.server.authenticator.requirements(user);
                self.user = Some(request.user.into());
            }
            _ => return Progress::Refuse(reason::PROTOCOL_ERROR, "change of user name not allowed".into()),
        }
        self.method = request.credential.name();
        self.has_tried |= !matches!(request.credential, Credential::None);
        match &request.credential {
            // A first "none" asks for the list of methods, and counts as no failure.
            Credential::None => self.fail(session, self.requests > 1),
            Credential::Unknown => self.fail(session, true),
            Credential::Password(password) => {
                self.check_password(session, Then::Proven(Method::Password, None), password)
            }
            Credential::KeyboardInteractive { submethods } => self.begin(session, submethods),
            Credential::PublicKey { algorithm, blob, host_key, signature } => {
                self.fingerprint = Some(fingerprint(blob));
                if host_key.is_some_and(|host_key| session.host_key().as_deref() != Some(host_key)) {
                    log::warn!("{}: a key was to be used for another server: it is refused", self.id);
                    return self.fail(session, true);
                }
                let Some(offer) = Offer::take(algorithm, blob) else { return self.fail(session, true) };
                if let Some(certificate) = &offer.certificate {
                    self.fingerprint = Some(format!("{} {certificate}", fingerprint(offer.key.blob())));
                }
                let Some(signature) = signature else {
                    let then = Then::KeyOk { algorithm: algorithm.to_vec(), blob: blob.to_vec() };
                    return self.check_key(session, then, None, offer, blob);
                };
                match offer.verify(algorithm, signature, &signed(session, signature, body)) {
                    Ok(attested) => {
                        let then = Then::Proven(Method::PublicKey, Some(offer.key.clone()));
                        self.check_key(session, then, attested, offer, blob)
                    }
                    Err(BadSignature) => self.fail(session, true),
                }
            }
        }
    }

    /// Begins an exchange by keyboard-interactive.
    fn begin(&mut self, session: &mut Session, submethods: &str) -> Progress {
        self.exchange = Some(Exchange::new(&self.required, &self.proven, submethods));
        self.ask(session)
    }

    /// Asks the exchange's next question.
    fn ask(&mut self, session: &mut Session) -> Progress {
        match self.exchange.as_ref().map_or(Next::Nothing, Exchange::next) {
            Next::Ask(message) => {
                session.expect_information();
                send(session, &message)
            }
            Next::Begin => self.begin_by_browser(session),
            Next::Nothing => self.fail(session, true),
        }
    }

    /// Takes the answer to what [`Self::ask`] asked for.
    fn response(&mut self, session: &mut Session, body: &[u8]) -> Progress {
        let Some(mut exchange) = self.exchange.take().filter(|exchange| !exchange.questions.is_empty()) else {
            return self.fail(session, true);
        };
        let login = exchange.login.take();
        let has_prompt = login.as_ref().is_none_or(|login| login.asks_for_code());
        let longest = if login.is_some() { LONGEST_CODE } else { LONGEST_PASSWORD };
        let answer = match decode_response(body, has_prompt) {
            Ok(answer) if answer.len() <= longest => answer,
            _ => return self.fail(session, true),
        };
        let question = exchange.questions.remove(0);
        let proven = Then::Proven(Method::KeyboardInteractive(exchange.device), None);
        let then = if exchange.questions.is_empty() { proven } else { Then::Ask };
        let before = exchange.grant.take();
        if matches!(then, Then::Ask) {
            self.exchange = Some(exchange);
        }
        match question {
            Question::Password => self.check_password(session, then, answer),
            Question::Browser => {
                let answer = Password(answer.to_vec());
                self.check(
                    session,
                    then,
                    move |_, attempt| Ok(login.and_then(|login| login.finish(attempt, &answer.0))),
                )
            }
            Question::Code => {
                let code = Password(answer.to_vec());
                self.check(session, then, move |authenticator, attempt| {
                    Ok(authenticator.code(attempt, &code.0).then(|| before.unwrap_or_default()))
                })
            }
        }
    }

    /// Logs how an attempt went, in a form that programs look for: see docs/log.md.
    fn report(&self, outcome: &str) {
        let Authentication { id, method, .. } = self;
        // Quoted, with what is in it escaped: whoever chooses a name cannot make up the rest of the line.
        let user = self.user.as_deref().unwrap_or_default();
        let (address, port) = (self.client.ip().to_canonical(), self.client.port());
        let metric = match outcome {
            "accepted" => Some(Metric::AuthSuccesses),
            "failed" => Some(Metric::AuthFailures),
            // Neither, so far.
            _ => None,
        };
        // ContainerSSH's word for it.
        let kind = if *method == "publickey" { "pubkey" } else { method };
        if let Some(metric) = metric {
            metrics::count(metric, &[("authtype", kind), ("country", self.server.country(address))]);
        }
        let key = self.fingerprint.as_ref().map_or(String::new(), |key| format!(": {key}"));
        log::info!("{id}: {outcome} {method} for {user:?} from {address} port {port}{key}");
    }

    fn fail(&mut self, session: &mut Session, counts: bool) -> Progress {
        self.failures += u32::from(counts);
        if counts {
            self.report("failed");
        }
        if self.failures >= self.server.settings.max_auth_tries {
            return Progress::Refuse(reason::PROTOCOL_ERROR, TOO_MANY.into());
        }
        self.exchange = None;
        // As long as nothing is proven, the same for everybody.
        let names = match self.proven.as_slice() {
            [] => self.server.authenticator.first_methods(),
            _ => self.required.methods.names(),
        };
        send(session, &failure(&names, false))
    }
}

/// SSH_MSG_USERAUTH_FAILURE: these methods may continue.
fn failure(names: &str, is_partial: bool) -> Vec<u8> {
    let mut message = vec![number::USERAUTH_FAILURE];
    message.put_string(names);
    message.put_boolean(is_partial);
    message
}

fn send(session: &mut Session, message: &[u8]) -> Progress {
    match session.send(message) {
        Ok(()) => Progress::Continue,
        Err(error) => error.into(),
    }
}

/// What a signature in a request covers (RFC 4252 section 7): the session, and the request up to the signature, which is
/// its last field.
fn signed(session: &Session, signature: &[u8], body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_string(session.identifier());
    data.push(number::USERAUTH_REQUEST);
    data.extend_from_slice(&body[..body.len().saturating_sub(signature.len() + 4)]);
    data
}
