//! X11 forwarding, RFC 4254 section 6.3.
//!
//! The client sends a cookie that it has made up, and knows again when a program presents it: it checks it, and puts the
//! real one in its place. So the agent passes bytes through as they are, as `sshd` does, and X11's own protocol is of no
//! concern to it.

use crate::connection::wire::{Malformed, Reader};

use super::xauthority::{self, Authorization};

/// The longest authentication protocol's name, and the longest cookie, in bytes.
const LONGEST: usize = 256;

/// `x11-req`
#[derive(Debug)]
pub struct Request<'a> {
    /// Whether only one connection shall be forwarded.
    pub single_connection: bool,
    protocol: &'a [u8],
    /// In hexadecimal digits.
    cookie: &'a [u8],
    /// The screen that programs shall use.
    pub screen: u32,
}

/// What a program presents to the X server.
#[derive(Debug, PartialEq, Eq)]
pub struct Cookie {
    protocol: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'a> Request<'a> {
    /// Decodes what the request adds.
    pub fn decode(fields: &mut Reader<'a>) -> Result<Self, Malformed> {
        let single_connection = fields.boolean()?;
        let (protocol, cookie, screen) = (fields.string()?, fields.string()?, fields.u32()?);
        Ok(Request { single_connection, protocol, cookie, screen })
    }

    /// The cookie, where protocol and digits are such as xauth takes.
    pub fn cookie(&self) -> Option<Cookie> {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b".:/-_".contains(byte);
        let lengths = 1..=LONGEST;
        if !lengths.contains(&self.protocol.len()) || !self.protocol.iter().all(is_name) {
            return None;
        }
        let digits = std::str::from_utf8(self.cookie).ok()?;
        if !lengths.contains(&(digits.len() / 2)) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        Some(Cookie { protocol: self.protocol.to_vec(), bytes: pairs.iter().map(byte).collect::<Option<_>>()? })
    }
}

/// The client's X display, as programs of a session see it.
#[derive(Debug)]
pub struct Display {
    /// Which port is listened on, counted from X11's first.
    pub number: u16,
    /// The screen that programs shall use.
    pub screen: u32,
    /// What lets them in.
    pub cookie: Cookie,
}

impl Display {
    /// `DISPLAY`
    pub fn name(&self) -> String {
        format!("localhost:{}.{}", self.number, self.screen)
    }

    /// The display's entry for `.Xauthority`.
    pub fn authorization(&self) -> Authorization<'_> {
        Authorization::local(self.number, &self.cookie.protocol, &self.cookie.bytes)
    }
}

/// A request's fields. A cookie that is taken can be written down.
pub(crate) fn fuzz(fields: &[u8]) {
    let Ok(request) = Request::decode(&mut Reader::new(fields)) else { return };
    if let Some(cookie) = request.cookie() {
        let display = Display { number: 10, screen: request.screen, cookie };
        assert!(xauthority::merge(b"", &display.authorization()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::{Cookie, Request};
    use crate::connection::wire::{Malformed, Reader, Write};

    fn request(protocol: &str, cookie: &str) -> Vec<u8> {
        let mut message = Vec::new();
        message.put_boolean(true);
        message.put_string(protocol);
        message.put_string(cookie);
        message.put_u32(3);
        message
    }

    fn cookie(protocol: &str, cookie: &str) -> Option<Cookie> {
        Request::decode(&mut Reader::new(&request(protocol, cookie))).unwrap().cookie()
    }

    #[test]
    fn a_request_is_decoded_and_a_cut_one_is_malformed() {
        let whole = request("MIT-MAGIC-COOKIE-1", "00ff");
        let decoded = Request::decode(&mut Reader::new(&whole)).unwrap();
        assert_eq!((decoded.single_connection, decoded.screen), (true, 3));
        assert_eq!(decoded.cookie(), Some(Cookie { protocol: b"MIT-MAGIC-COOKIE-1".into(), bytes: vec![0, 255] }));
        for end in 0..whole.len() {
            assert!(matches!(Request::decode(&mut Reader::new(&whole[..end])), Err(Malformed)), "cut at {end}");
        }
    }

    #[test]
    fn what_xauth_would_not_take_is_no_cookie() {
        for (protocol, digits) in
            [("", "00"), ("A B", "00"), ("A\n", "00"), ("A", ""), ("A", "0"), ("A", "000"), ("A", "+0"), ("A", "0x")]
        {
            assert_eq!(cookie(protocol, digits), None, "{protocol:?} {digits:?}");
        }
        assert_eq!(cookie("A", &"00".repeat(257)), None);
    }
}
