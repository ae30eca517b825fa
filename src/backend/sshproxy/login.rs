//! From a connection to another SSH server to an authenticated session: its host key, and RFC 4252 as a client.

use std::time::Duration;

use libssh_server::{HostKey, Session, number};
use rustix::event::PollFlags;

use super::relay::UNREAD_LIMIT;
use crate::auth::fingerprint;
use crate::backend::{Error, Waiter};
use crate::config;
use crate::connection::frame::Queue;
use crate::connection::wire::{Malformed, Reader, Write};
use crate::http::Deadline;

/// How often is looked whether the user still waits.
const INTERVAL: Duration = Duration::from_millis(500);

/// Who logs in, and how. The deadline is for all of it.
pub(super) struct Login<'a> {
    pub session: Session,
    pub user: &'a str,
    pub settings: &'a config::SshProxy,
    pub key: Option<&'a HostKey>,
    pub deadline: Deadline,
    pub waiter: &'a dyn Waiter,
}

/// The methods that can be tried, by their names.
const METHODS: [&str; 3] = ["publickey", "password", "keyboard-interactive"];

impl Login<'_> {
    /// Gives the session, and the messages that have come behind the last of authentication's.
    pub fn run(mut self) -> Result<(Session, Queue), Error> {
        let mut messages = Queue::default();
        while self.session.is_exchanging() {
            self.advance(&mut messages)?;
        }
        self.check_host_key()?;
        let mut request = vec![number::SERVICE_REQUEST];
        request.put_string("ssh-userauth");
        self.send(&request)?;
        self.answer(&mut messages)?;
        self.authenticate(&mut messages)?;
        Ok((self.session, messages))
    }

    fn check_host_key(&self) -> Result<(), Error> {
        let blob = self.session.host_key().unwrap_or_default();
        let found = fingerprint(&blob);
        if self.settings.allowed_host_key_fingerprints.contains(&found) {
            return Ok(());
        }
        let kind = String::from_utf8_lossy(Reader::new(&blob).string().unwrap_or_default()).into_owned();
        Err(Error::new(
            "the server behind this one is not the one that is expected",
            self.named(&format!("its {kind} host key {found} is not in sshproxy.allowedHostKeyFingerprints")),
        ))
    }

    fn authenticate(&mut self, messages: &mut Queue) -> Result<(), Error> {
        let mut left: Vec<&str> = METHODS.into();
        let mut method = "none";
        loop {
            let request = self.request(method)?;
            self.send(&request)?;
            let allowed = loop {
                let answer = self.answer(messages)?;
                match answer.split_first() {
                    Some((&number::USERAUTH_SUCCESS, _)) => return Ok(()),
                    Some((&number::USERAUTH_FAILURE, body)) => {
                        break String::from_utf8_lossy(Reader::new(body).string().unwrap_or_default()).into_owned();
                    }
                    Some((&number::USERAUTH_INFO_REQUEST, body)) if method == "keyboard-interactive" => {
                        let response = respond(body, self.password());
                        let response = response.map_err(|Malformed| self.broken("it asks for more than a password"))?;
                        self.send(&response)?;
                    }
                    _ => return Err(self.broken("an unexpected message")),
                }
            };
            let is_useful = |method: &&str| match *method {
                "publickey" => self.key.is_some(),
                _ => self.settings.password.is_some(),
            };
            let next = left
                .iter()
                .position(|method| is_useful(method) && allowed.split(',').any(|allowed| allowed == *method));
            let Some(next) = next else {
                return Err(Error::new(
                    "the server behind this one does not let you in",
                    self.named(&format!("it does not let {:?} in; it would take: {allowed}", self.user)),
                ));
            };
            method = left.remove(next);
        }
    }

    /// SSH_MSG_USERAUTH_REQUEST.
    fn request(&self, method: &str) -> Result<Vec<u8>, Error> {
        let mut request = vec![number::USERAUTH_REQUEST];
        request.put_string(self.user);
        request.put_string("ssh-connection");
        request.put_string(method);
        match (method, self.key) {
            ("publickey", Some(key)) => {
                let failed = |error| self.broken(&format!("sshproxy.privateKey: {error}"));
                let (blob, kind) = (key.public_blob().map_err(failed)?, key.type_name());
                let algorithm = if kind == "ssh-rsa" { "rsa-sha2-512" } else { kind };
                request.put_boolean(true);
                request.put_string(algorithm);
                request.put_string(blob);
                let mut signed = Vec::new();
                signed.put_string(self.session.identifier());
                signed.extend_from_slice(&request);
                request.put_string(key.sign(algorithm, &signed).map_err(failed)?);
            }
            ("password", _) => {
                request.put_boolean(false);
                request.put_string(self.password());
            }
            ("keyboard-interactive", _) => {
                // No language, no submethods.
                request.put_string("");
                request.put_string("");
            }
            _ => (),
        }
        Ok(request)
    }

    fn password(&self) -> &str {
        self.settings.password.as_ref().map_or("", |password| &password.0)
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.session.expect_answers();
        self.session.send(message).map_err(|error| self.broken(&error.to_string()))
    }

    /// Waits for the next message.
    fn answer(&mut self, messages: &mut Queue) -> Result<Vec<u8>, Error> {
        loop {
            if let Ok(Some(message)) = messages.front() {
                let message = message.to_vec();
                messages.pop();
                return Ok(message);
            }
            self.advance(messages)?;
        }
    }

    /// Waits until something can be read or written, and does that.
    fn advance(&mut self, messages: &mut Queue) -> Result<(), Error> {
        if self.waiter.is_gone() {
            return Err(self.broken("the user went away while berth logged in there"));
        }
        if self.deadline.has_passed() {
            return Err(self.broken("nobody could log in there within sshproxy.timeout"));
        }
        let soon = self.deadline.min(Deadline::after(INTERVAL));
        let socket = self.session.socket();
        let wanted = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
        let reads = wanted(self.session.pending() < UNREAD_LIMIT, PollFlags::IN);
        let writes = wanted(self.session.has_output(), PollFlags::OUT);
        // Poll does not tell of what was read already.
        let ready =
            if self.session.has_input() { Ok([true, false]) } else { soon.poll([(socket, reads), (socket, writes)]) };
        let result = match ready {
            Err(error) => return Err(self.broken(&error.to_string())),
            Ok([readable, writable]) => {
                let written = if writable { self.session.flush() } else { Ok(()) };
                written.and_then(|()| if readable { self.session.receive(messages.tail()) } else { Ok(()) })
            }
        };
        result.map_err(|error| match error {
            libssh_server::Error::Closed => self.broken("it closed the connection"),
            error => self.broken(&error.to_string()),
        })
    }

    /// A server that does not do what it should.
    fn broken(&self, what: &str) -> Error {
        Error::new("the server behind this one does not answer as it should", self.named(what))
    }

    fn named(&self, what: &str) -> String {
        format!("sshproxy: {}:{}: {what}", self.settings.server, self.settings.port)
    }
}

/// Answers SSH_MSG_USERAUTH_INFO_REQUEST (RFC 4256 section 3.2), given without its number: the one question, if there is
/// one, with the password.
fn respond(body: &[u8], password: &str) -> Result<Vec<u8>, Malformed> {
    let mut fields = Reader::new(body);
    let (_name, _instruction, _language) = (fields.string()?, fields.string()?, fields.string()?);
    let mut response = vec![number::USERAUTH_INFO_RESPONSE];
    match fields.u32()? {
        0 => response.put_u32(0),
        1 => {
            let (_prompt, _echo) = (fields.string()?, fields.boolean()?);
            response.put_u32(1);
            response.put_string(password);
        }
        _ => return Err(Malformed),
    }
    fields.end()?;
    Ok(response)
}

/// A server's questions.
pub(super) fn fuzz(body: &[u8]) {
    if let Ok(response) = respond(body, "password") {
        assert!(matches!(response.len(), 5 | 17), "{response:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, respond};

    #[test]
    fn one_question_is_answered_and_no_more() {
        let prompts = |rest: &[u8]| [&[0; 12], rest].concat();
        assert_eq!(respond(&prompts(b"\0\0\0\0"), "x"), Ok(b"\x3d\0\0\0\0".to_vec()));
        let one = prompts(b"\0\0\0\x01\0\0\0\x04Who?\0");
        assert_eq!(respond(&one, "x"), Ok(b"\x3d\0\0\0\x01\0\0\0\x01x".to_vec()));
        for wrong in [&one[..one.len() - 1], &prompts(b"\0\0\0\x02\0\0\0\0\0\0\0\0\0\0"), &prompts(b"\xff\xff\xff\xff")]
        {
            assert_eq!(respond(wrong, "x"), Err(Malformed), "{wrong:?}");
        }
    }
}
