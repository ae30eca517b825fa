//! The one method that libssh does not know: see [`hybrid`]. Its messages are those of RFC 5656 section 4, with
//! strings for its keys.

use openssl::sha::Sha256;

use super::Negotiation;
use crate::error::Error;
use crate::ffi;
use crate::hybrid::{self, Client};
use crate::number;
use crate::packet::Side;
use crate::secret::Secret;

/// What is kept between two messages.
#[derive(Default)]
pub(super) struct State {
    /// A client's, with what it has sent.
    begun: Option<(Client, Vec<u8>)>,
    /// K, encoded, until keys are made of it.
    pub secret: Option<Secret>,
}

impl Negotiation {
    /// Goes on after a message that libssh has found to be in its place.
    pub(super) fn exchange_hybrid(&mut self, number: u8, body: &[u8]) -> Result<(), Error> {
        if self.method(ffi::method::KEY_EXCHANGE) != hybrid::NAME {
            return Err(Error::Protocol("no such key exchange method".into()));
        }
        match (number, self.side) {
            (number::KEXINIT, Side::Client) => self.begin(),
            (number::KEX_HYBRID_INIT, Side::Server) => self.answer(body),
            (number::KEX_HYBRID_REPLY, Side::Client) => self.conclude(body),
            _ => Err(hybrid::Error::Message.into()),
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        let (client, init) = Client::begin()?;
        // SAFETY: the session is live; pointer and length are of `init`, which is copied.
        let result = unsafe { ffi::berth_session_begin(self.raw.as_ptr(), init.as_ptr(), init.len()) };
        self.hybrid.begun = Some((client, init));
        self.good(result)
    }

    fn answer(&mut self, body: &[u8]) -> Result<(), Error> {
        let [init] = hybrid::strings(body)?;
        let (reply, secret) = hybrid::respond(init)?;
        let hash = self.hash(&[], init, &reply, secret)?;
        // SAFETY: the session is live; each length is that of the bytes before it, which are copied.
        let result = unsafe {
            let raw = self.raw.as_ptr();
            ffi::berth_session_answer(raw, hash.as_ptr(), hash.len(), reply.as_ptr(), reply.len())
        };
        self.good(result)
    }

    fn conclude(&mut self, body: &[u8]) -> Result<(), Error> {
        let [key, reply, signature] = hybrid::strings(body)?;
        let (client, init) = self.hybrid.begun.take().ok_or(hybrid::Error::Message)?;
        let secret = client.finish(reply)?;
        let hash = self.hash(key, &init, reply, secret)?;
        // SAFETY: the session is live; each length is that of the bytes before it, which are copied.
        let result = unsafe {
            let raw = self.raw.as_ptr();
            ffi::berth_session_conclude(raw, hash.as_ptr(), hash.len(), signature.as_ptr(), signature.len())
        };
        self.good(result)
    }

    /// The exchange hash; K is kept. `key` is the host key that a client has been told.
    fn hash(&mut self, key: &[u8], init: &[u8], reply: &[u8], secret: Secret) -> Result<[u8; 32], Error> {
        let mut length = 0;
        // SAFETY: the session is live; pointer and length are of `key`; the answer is ours to free.
        let transcript = unsafe {
            let raw = self.raw.as_ptr();
            let bytes = ffi::berth_session_transcript(raw, key.as_ptr(), key.len(), &raw mut length);
            crate::key::take_bytes(bytes, length)
        };
        let mut hash = Sha256::new();
        hash.update(&transcript.ok_or_else(|| self.error())?);
        for string in [init, reply] {
            hash.update(&(string.len() as u32).to_be_bytes());
            hash.update(string);
        }
        let secret = secret.encoded();
        hash.update(&secret);
        self.hybrid.secret = Some(secret);
        Ok(hash.finish())
    }

    fn good(&self, result: i32) -> Result<(), Error> {
        if result == ffi::OK { Ok(()) } else { Err(self.error()) }
    }
}
