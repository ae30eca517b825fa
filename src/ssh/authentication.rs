//! User authentication, RFC 4252: from the service request to success.
//!
//! Requests are answered strictly one after another. While a [`Check`] runs in a worker, no further message is looked
//! at. Every request is answered, whatever is in it: what cannot be understood fails like a wrong password.

use std::net::SocketAddr;
use std::sync::Arc;

use libssh_server::{Session, number};

use super::services::{Service, Unavailable};
use super::worker::Pending;
use super::{Server, reason};
use crate::auth::{
    Attempt, Attested, Authenticator, BadSignature, Grant, LONGEST_PASSWORD, Offer, RevokedKeys, fingerprint,
};
use crate::connection::wire::{Malformed, Reader, Write};
use crate::metrics::{self, Metric};
use crate::waker::Waker;

/// The longest user name, in bytes.
const LONGEST_NAME: usize = 1024;

/// The methods that may continue.
const METHODS: &str = "publickey,password,keyboard-interactive";

/// What keyboard-interactive asks for, as PAM's modules put it. The client puts the user and host before it.
const PROMPT: &str = "Password: ";

/// What a user is told who is in and cannot be served.
const UNAVAILABLE: &str = "the server cannot serve you at this time; try again later";

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

/// A credential that a worker looks at.
struct Check {
    verdict: Pending<Verdict>,
    then: Then,
}

/// What a worker has found.
enum Verdict {
    /// The credential is not good, or the user may not in.
    No,
    /// The key would do.
    Yes(Grant),
    /// The user is in.
    In(Grant, Service),
    /// The user would be in, but cannot be served.
    Unavailable,
}

/// What a good verdict leads to.
enum Then {
    Success,
    /// The answer to a query whether a key would do (RFC 4252 section 7).
    KeyOk {
        algorithm: Vec<u8>,
        blob: Vec<u8>,
    },
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
    requests: u32,
    /// Whether an INFO_REQUEST is out, which an INFO_RESPONSE must follow (RFC 4256).
    has_asked: bool,
    check: Option<Check>,
    /// The key that the client was last told would do, and what for: its signature need not be waited for twice.
    promised: Option<(Vec<u8>, Grant)>,
}

impl Authentication {
    /// `id` is the connection's, for the log.
    pub fn new(server: Arc<Server>, client: SocketAddr, waker: Waker, id: String) -> Self {
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
            requests: 0,
            has_asked: false,
            check: None,
            promised: None,
        }
    }

    /// Whether a worker is busy, so that no message may be given.
    pub fn is_waiting(&self) -> bool {
        self.check.is_some()
    }

    /// Goes on where a worker has ended.
    pub fn resume(&mut self, session: &mut Session) -> Progress {
        let Some(verdict) = self.check.as_ref().and_then(|check| check.verdict.poll()) else {
            return Progress::Continue;
        };
        let Some(check) = self.check.take() else { return Progress::Continue };
        match (verdict.unwrap_or(Verdict::No), check.then) {
            (Verdict::In(grant, service), _) => match session.authenticated() {
                Ok(()) => {
                    self.report("accepted");
                    let name = self.user.take().unwrap_or_default();
                    let (user, container) = self.server.services.split(&name);
                    let (user, container) = (user.to_owned(), container.map(str::to_owned));
                    Progress::Done(Box::new(Login { user, container, grant, service }))
                }
                Err(error) => error.into(),
            },
            (Verdict::Yes(grant), Then::KeyOk { algorithm, blob }) => {
                let mut message = vec![number::USERAUTH_PK_OK];
                message.put_string(algorithm);
                message.put_string(&blob);
                self.promised = Some((blob, grant));
                send(session, &message)
            }
            (Verdict::Unavailable, _) => Progress::Refuse(reason::BY_APPLICATION, UNAVAILABLE.into()),
            (Verdict::No | Verdict::Yes(_), _) => self.fail(session, true),
        }
    }

    /// Takes one message: number and body.
    pub fn message(&mut self, session: &mut Session, message: &[u8]) -> Progress {
        let Some((&kind, body)) = message.split_first() else { return Progress::Continue };
        match kind {
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
            number::USERAUTH_INFO_RESPONSE if self.has_asked => self.response(session, body),
            // libssh lets connection messages through only after success.
            _ => Progress::Refuse(reason::PROTOCOL_ERROR, "authenticate first".into()),
        }
    }

    fn request(&mut self, session: &mut Session, body: &[u8]) -> Progress {
        self.requests += 1;
        // A new request ends an exchange that is under way, without an answer to it (RFC 4252 section 5.1).
        self.has_asked = false;
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
            None if request.user.len() <= LONGEST_NAME => self.user = Some(request.user.into()),
            _ => return Progress::Refuse(reason::PROTOCOL_ERROR, "change of user name not allowed".into()),
        }
        self.method = request.method.name();
        match &request.method {
            // A first "none" asks for the list of methods, and counts as no failure.
            Method::None => self.fail(session, self.requests > 1),
            Method::Unknown => self.fail(session, true),
            Method::Password(password) => self.check_password(session, password),
            Method::KeyboardInteractive => self.ask(session),
            Method::PublicKey { algorithm, blob, signature } => {
                self.fingerprint = Some(fingerprint(blob));
                let Some(offer) = Offer::take(algorithm, blob) else { return self.fail(session, true) };
                if let Some(certificate) = &offer.certificate {
                    self.fingerprint = Some(format!("{} {certificate}", fingerprint(offer.key.blob())));
                }
                let Some(signature) = signature else {
                    let then = Then::KeyOk { algorithm: algorithm.to_vec(), blob: blob.to_vec() };
                    return self.check_key(session, then, None, offer, blob);
                };
                match offer.verify(algorithm, signature, &signed(session, signature, body)) {
                    Ok(attested) => self.check_key(session, Then::Success, attested, offer, blob),
                    Err(BadSignature) => self.fail(session, true),
                }
            }
        }
    }

    /// Has a worker look at a credential.
    fn check(
        &mut self,
        session: &Session,
        then: Then,
        look: impl FnOnce(&dyn Authenticator, &Attempt<'_>) -> Option<Grant> + Send + 'static,
    ) -> Progress {
        let (server, client, connection) = (Arc::clone(&self.server), self.client, self.id.clone());
        let (user, version) = (self.user.clone().unwrap_or_default(), session.client().unwrap_or_default());
        let is_login = matches!(then, Then::Success);
        let verdict = Pending::start(self.waker.clone(), move || {
            let (user, _) = server.services.split(&user);
            let attempt = Attempt { user, client, connection: &connection, version: &version };
            let authenticator = server.authenticator.as_ref();
            let Some(grant) = look(authenticator, &attempt) else { return Verdict::No };
            if !is_login {
                return Verdict::Yes(grant);
            }
            let Some(mut grant) = authenticator.authorize(&attempt, grant) else { return Verdict::No };
            match server.services.find(&attempt, &mut grant.metadata) {
                Ok(service) => Verdict::In(grant, service),
                Err(Unavailable) => Verdict::Unavailable,
            }
        });
        self.check = Some(Check { verdict, then });
        Progress::Continue
    }

    /// `attested` is what a security key has, in its signature.
    fn check_key(
        &mut self,
        session: &Session,
        then: Then,
        attested: Option<Attested>,
        offer: Offer,
        blob: &[u8],
    ) -> Progress {
        let promised = self.promised.take().filter(|(other, _)| other == blob && matches!(then, Then::Success));
        let required = self.server.settings.pubkey_auth_options.clone();
        let revoked = RevokedKeys::new(self.server.settings.revoked_keys.clone());
        self.check(session, then, move |authenticator, attempt| {
            let is_revoked = revoked.cover(&offer);
            let grant = promised.map(|(_, grant)| grant).or_else(|| authenticator.public_key(attempt, &offer))?;
            if is_revoked {
                log::info!("{}: the key is revoked", attempt.connection);
                return None;
            }
            if let Some(attested) = attested
                && let Err(missing) = grant.restrictions.satisfied_by(attested, &required)
            {
                log::info!("{}: the security key is refused: {missing}", attempt.connection);
                return None;
            }
            Some(grant)
        })
    }

    fn check_password(&mut self, session: &Session, password: &[u8]) -> Progress {
        let password = Password(password.to_vec());
        self.check(session, Then::Success, move |authenticator, attempt| authenticator.password(attempt, &password.0))
    }

    /// Asks for a password (RFC 4256 section 3.2): of everybody, so that it does not tell who exists.
    fn ask(&mut self, session: &mut Session) -> Progress {
        let mut message = vec![number::USERAUTH_INFO_REQUEST];
        // No name of the dialogue, no instruction, no language.
        for _ in 0..3 {
            message.put_string("");
        }
        message.put_u32(1);
        message.put_string(PROMPT);
        // Without echo.
        message.put_boolean(false);
        session.expect_information();
        self.has_asked = true;
        send(session, &message)
    }

    /// Takes the answer to what [`Self::ask`] asked for.
    fn response(&mut self, session: &mut Session, body: &[u8]) -> Progress {
        self.has_asked = false;
        match decode_response(body) {
            Ok(password) if password.len() <= LONGEST_PASSWORD => self.check_password(session, password),
            _ => self.fail(session, true),
        }
    }

    /// Logs how an attempt went, in a form that programs look for: see docs/log.md.
    fn report(&self, outcome: &str) {
        let Authentication { id, method, .. } = self;
        // Quoted, with what is in it escaped: whoever chooses a name cannot make up the rest of the line.
        let user = self.user.as_deref().unwrap_or_default();
        let (address, port) = (self.client.ip().to_canonical(), self.client.port());
        let metric = if outcome == "accepted" { Metric::AuthSuccesses } else { Metric::AuthFailures };
        // ContainerSSH's word for it.
        let kind = if *method == "publickey" { "pubkey" } else { method };
        metrics::count(metric, &[("authtype", kind), ("country", self.server.country(address))]);
        let key = self.fingerprint.as_ref().map_or(String::new(), |key| format!(": {key}"));
        log::info!("{id}: {outcome} {method} for {user:?} from {address} port {port}{key}");
    }

    fn fail(&mut self, session: &mut Session, counts: bool) -> Progress {
        self.failures += u32::from(counts);
        if counts {
            self.report("failed");
        }
        if self.failures >= self.server.settings.max_auth_tries {
            return Progress::Refuse(reason::PROTOCOL_ERROR, "Too many authentication failures".into());
        }
        let mut message = vec![number::USERAUTH_FAILURE];
        message.put_string(METHODS);
        message.put_boolean(false);
        send(session, &message)
    }
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

/// A password on its way to the check, overwritten afterwards.
struct Password(Vec<u8>);

impl Drop for Password {
    fn drop(&mut self) {
        self.0.fill(0);
        // The read keeps the compiler from leaving the write out.
        std::hint::black_box(&self.0);
    }
}

/// SSH_MSG_USERAUTH_REQUEST.
struct Request<'a> {
    user: &'a str,
    service: &'a [u8],
    method: Method<'a>,
}

enum Method<'a> {
    None,
    Password(&'a [u8]),
    PublicKey { algorithm: &'a [u8], blob: &'a [u8], signature: Option<&'a [u8]> },
    KeyboardInteractive,
    Unknown,
}

/// A method that berth does not have, or a request that is none.
const UNKNOWN: &str = "unknown";

impl Method<'_> {
    /// RFC 4252's name, for the log.
    fn name(&self) -> &'static str {
        match self {
            Method::None => "none",
            Method::Password(_) => "password",
            Method::PublicKey { .. } => "publickey",
            Method::KeyboardInteractive => "keyboard-interactive",
            Method::Unknown => UNKNOWN,
        }
    }
}

impl<'a> Request<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let (user, service, method) = (r.utf8()?, r.string()?, r.string()?);
        let method = match method {
            b"none" => Method::None,
            b"password" => {
                let change = r.boolean()?;
                let password = r.string()?;
                // A change of password (RFC 4252 section 8) is asked for by servers alone, and berth never asks.
                if change || password.len() > LONGEST_PASSWORD { Method::Unknown } else { Method::Password(password) }
            }
            b"publickey" => {
                let signed = r.boolean()?;
                let (algorithm, blob) = (r.string()?, r.string()?);
                let signature = if signed { Some(r.string()?) } else { None };
                r.end()?;
                Method::PublicKey { algorithm, blob, signature }
            }
            b"keyboard-interactive" => {
                let (_language, _submethods) = (r.string()?, r.string()?);
                r.end()?;
                Method::KeyboardInteractive
            }
            _ => Method::Unknown,
        };
        Ok(Request { user, service, method })
    }
}

/// Takes an SSH_MSG_USERAUTH_INFO_RESPONSE with one response, to the one prompt.
fn decode_response(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(body);
    if r.u32()? != 1 {
        return Err(Malformed);
    }
    let response = r.string()?;
    r.end()?;
    Ok(response)
}

/// What comes before there is a user.
pub(crate) fn fuzz(body: &[u8]) {
    let _ = Request::decode(body);
    if let Ok(password) = decode_response(body) {
        assert_eq!(password.len() + 8, body.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{Method, Request, decode_response};
    use crate::connection::wire::{Malformed, Write};

    fn request(method: &str, rest: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_string("alice");
        body.put_string("ssh-connection");
        body.put_string(method);
        body.extend_from_slice(rest);
        body
    }

    #[test]
    fn a_password_request_is_decoded() {
        let body = request("password", b"\0\0\0\0\x03abc");
        let request = Request::decode(&body).unwrap();
        assert!(request.user == "alice" && matches!(request.method, Method::Password(b"abc")));
    }

    #[test]
    fn an_unknown_method_is_no_error_but_a_cut_request_is() {
        assert!(matches!(Request::decode(&request("hostbased", b"?")).unwrap().method, Method::Unknown));
        let whole = request("publickey", b"\x01\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c");
        assert!(Request::decode(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(Request::decode(&whole[..end]).is_err(), "cut at {end}");
        }
    }
    #[test]
    fn one_response_is_taken_and_no_other_number() {
        assert_eq!(decode_response(b"\0\0\0\x01\0\0\0\x03abc"), Ok(&b"abc"[..]));
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\x01",
            b"\0\0\0\0\0\0\0\x03abc",
            b"\0\0\0\x02\0\0\0\x03abc",
            b"\0\0\0\x01\0\0\0\x03ab",
            b"\0\0\0\x01\0\0\0\x03abcd",
            b"\0\0\0\x02\0\0\0\x01a\0\0\0\x01b",
            b"\xff\xff\xff\xff",
        ] {
            assert_eq!(decode_response(body), Err(Malformed), "{body:?}");
        }
    }

    #[test]
    fn a_keyboard_interactive_request_has_a_language_and_submethods() {
        let method = |rest| Request::decode(&request("keyboard-interactive", rest)).map(|_| ());
        assert_eq!(method(b"\0\0\0\0\0\0\0\x03pam"), Ok(()));
        assert_eq!(method(b"\0\0\0\0"), Err(Malformed));
        assert_eq!(method(b"\0\0\0\0\0\0\0\0?"), Err(Malformed));
    }
}
