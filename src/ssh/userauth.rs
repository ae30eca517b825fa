//! The messages of user authentication: RFC 4252, and RFC 4256.

use crate::auth::LONGEST_PASSWORD;
use crate::connection::wire::{Malformed, Reader};

/// SSH_MSG_USERAUTH_REQUEST.
pub(super) struct Request<'a> {
    pub user: &'a str,
    pub service: &'a [u8],
    pub credential: Credential<'a>,
}

pub(super) enum Credential<'a> {
    None,
    Password(&'a [u8]),
    PublicKey {
        algorithm: &'a [u8],
        blob: &'a [u8],
        /// The server's, as the client has seen it, where the request is bound to it.
        host_key: Option<&'a [u8]>,
        signature: Option<&'a [u8]>,
    },
    KeyboardInteractive {
        submethods: &'a str,
    },
    Unknown,
}

/// The method `publickey` with the server's host key among what is signed: OpenSSH's PROTOCOL, section 3.1. An
/// authentication agent knows by it where a key is about to be used.
const HOST_BOUND: &[u8] = b"publickey-hostbound-v00@openssh.com";

/// A method that berth does not have, or a request that is none.
pub(super) const UNKNOWN: &str = "unknown";

impl Credential<'_> {
    /// RFC 4252's name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Credential::None => "none",
            Credential::Password(_) => "password",
            Credential::PublicKey { .. } => "publickey",
            Credential::KeyboardInteractive { .. } => "keyboard-interactive",
            Credential::Unknown => UNKNOWN,
        }
    }
}

impl<'a> Request<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let (user, service, method) = (r.utf8()?, r.string()?, r.string()?);
        let credential = match method {
            b"none" => Credential::None,
            b"password" => {
                let change = r.boolean()?;
                let password = r.string()?;
                // A change of password (RFC 4252 section 8) is asked for by servers alone, and berth never asks.
                if change || password.len() > LONGEST_PASSWORD {
                    Credential::Unknown
                } else {
                    Credential::Password(password)
                }
            }
            b"publickey" | HOST_BOUND => {
                let signed = r.boolean()?;
                let (algorithm, blob) = (r.string()?, r.string()?);
                let host_key = if method == HOST_BOUND { Some(r.string()?) } else { None };
                let signature = if signed { Some(r.string()?) } else { None };
                r.end()?;
                Credential::PublicKey { algorithm, blob, host_key, signature }
            }
            b"keyboard-interactive" => {
                let (_language, submethods) = (r.string()?, r.utf8()?);
                r.end()?;
                Credential::KeyboardInteractive { submethods }
            }
            _ => Credential::Unknown,
        };
        Ok(Request { user, service, credential })
    }
}

/// Takes an SSH_MSG_USERAUTH_INFO_RESPONSE with one response, to the one prompt; or with none, where there was none.
pub(super) fn decode_response(body: &[u8], has_prompt: bool) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(body);
    if r.u32()? != u32::from(has_prompt) {
        return Err(Malformed);
    }
    let response = if has_prompt { r.string()? } else { &[] };
    r.end()?;
    Ok(response)
}

/// What comes before there is a user.
pub(crate) fn fuzz(body: &[u8]) {
    let _ = Request::decode(body);
    if let Ok(password) = decode_response(body, true) {
        assert_eq!(password.len() + 8, body.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{Credential, Request, decode_response};
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
        assert!(request.user == "alice" && matches!(request.credential, Credential::Password(b"abc")));
    }

    #[test]
    fn an_unknown_method_is_no_error_but_a_cut_request_is() {
        assert!(matches!(Request::decode(&request("hostbased", b"?")).unwrap().credential, Credential::Unknown));
        let whole = request("publickey", b"\x01\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c");
        assert!(Request::decode(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(Request::decode(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_key_may_be_bound_to_the_servers() {
        let (plain, bound) = (b"\0\0\0\0\x01a\0\0\0\x01b", b"\0\0\0\0\x01a\0\0\0\x01b\0\0\0\x01h");
        let host_key = |method, rest| match Request::decode(&request(method, rest)).map(|request| request.credential) {
            Ok(Credential::PublicKey { host_key, signature: None, .. }) => Ok(host_key.map(<[u8]>::to_vec)),
            Ok(_) => panic!("no public key"),
            Err(error) => Err(error),
        };
        assert_eq!(host_key("publickey", plain), Ok(None));
        assert_eq!(host_key("publickey-hostbound-v00@openssh.com", bound), Ok(Some(b"h".to_vec())));
        assert_eq!(host_key("publickey", bound), Err(Malformed));
        assert_eq!(host_key("publickey-hostbound-v00@openssh.com", plain), Err(Malformed));
    }

    #[test]
    fn one_response_is_taken_and_no_other_number() {
        assert_eq!(decode_response(b"\0\0\0\x01\0\0\0\x03abc", true), Ok(&b"abc"[..]));
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
            assert_eq!(decode_response(body, true), Err(Malformed), "{body:?}");
        }
    }

    #[test]
    fn no_response_follows_no_prompt() {
        assert_eq!(decode_response(b"\0\0\0\0", false), Ok(&b""[..]));
        for body in [&b""[..], b"\0\0\0\x01\0\0\0\0", b"\0\0\0\0?"] {
            assert_eq!(decode_response(body, false), Err(Malformed), "{body:?}");
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
