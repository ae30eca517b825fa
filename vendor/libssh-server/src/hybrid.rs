//! `mlkem768x25519-sha256`: a key exchange by ML-KEM-768 (FIPS 203) and X25519 (RFC 7748) at once, as
//! draft-ietf-sshm-mlkem-hybrid-kex describes it. Its secret stays one where either of them does: against who can break
//! X25519 with a quantum computer, today's recording in hand, and against who finds a fault in the younger ML-KEM.
//!
//! A client sends an encapsulation key and an X25519 key ([`Client::begin`]), a server answers with a ciphertext and an
//! X25519 key ([`respond`]), which the client opens ([`Client::finish`]). A ciphertext that was changed still opens, to
//! another secret (FIPS 203 section 6.3): it is the host's signature of the exchange hash that fails then.

mod kem;

use std::fmt;

use openssl::derive::Deriver;
use openssl::error::ErrorStack;
use openssl::pkey::{HasPrivate, HasPublic, Id, KeyType, PKey, PKeyRef, Private, Public};
use openssl::sha::Sha256;

use crate::secret::Secret;

/// An ML-KEM-768 encapsulation key, in bytes.
const ENCAPSULATION_KEY: usize = 1184;

/// An ML-KEM-768 ciphertext, in bytes.
const CIPHERTEXT: usize = 1088;

/// A public key of X25519, in bytes.
const X25519: usize = 32;

/// Any of the secrets, in bytes: ML-KEM's, X25519's, and the SHA-256 of both.
const SECRET: usize = 32;

/// The method's name.
pub(crate) const NAME: &str = "mlkem768x25519-sha256";

/// Why a hybrid key exchange failed.
#[derive(Debug)]
pub enum Error {
    /// A message that has not the parts that it must have.
    Message,
    /// The other side's part of it is not as long as it must be.
    Length {
        /// What it has to be, in bytes.
        expected: usize,
        /// What it is, in bytes.
        found: usize,
    },
    /// The client's encapsulation key has a coefficient that is not one (FIPS 203 section 7.2).
    EncapsulationKey,
    /// X25519 gives zero with the other side's key, which is of small order (RFC 7748 section 6.1).
    SmallOrder,
    /// OpenSSL could not do what it must always be able to.
    OpenSsl(ErrorStack),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Message => f.write_str("key exchange failed: a message has not the parts that it must have"),
            Error::Length { expected, found } => {
                write!(f, "key exchange failed: {found} bytes of keys where there must be {expected}")
            }
            Error::EncapsulationKey => f.write_str("key exchange failed: not an ML-KEM-768 encapsulation key"),
            Error::SmallOrder => f.write_str("key exchange failed: an X25519 key of small order"),
            Error::OpenSsl(error) => write!(f, "key exchange failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ErrorStack> for Error {
    fn from(error: ErrorStack) -> Self {
        Error::OpenSsl(error)
    }
}

/// The server's side: takes C_INIT, and gives S_REPLY and K.
pub(crate) fn respond(init: &[u8]) -> Result<(Vec<u8>, Secret), Error> {
    let [encapsulation, x25519] = halves(init, ENCAPSULATION_KEY)?;
    let encapsulation = kem::encapsulation_key(encapsulation)?;
    let own = PKey::generate_x25519()?;
    let (mut reply, kem_secret) = kem::encapsulate(&encapsulation)?;
    reply.extend_from_slice(&own.raw_public_key()?);
    let secret = combine(&kem_secret, &agree(&own, x25519)?);
    Ok((reply, secret))
}

/// A client that waits for its server's answer.
pub(crate) struct Client {
    decapsulation: PKey<Private>,
    x25519: PKey<Private>,
}

impl Client {
    /// The client's side: gives what is to be sent, C_INIT.
    pub(crate) fn begin() -> Result<(Self, Vec<u8>), Error> {
        Client::with(kem::generate()?, PKey::generate_x25519()?)
    }

    fn with(decapsulation: PKey<Private>, x25519: PKey<Private>) -> Result<(Self, Vec<u8>), Error> {
        let mut init = decapsulation.raw_public_key()?;
        init.extend_from_slice(&x25519.raw_public_key()?);
        Ok((Client { decapsulation, x25519 }, init))
    }

    /// Takes S_REPLY, and gives K.
    pub(crate) fn finish(self, reply: &[u8]) -> Result<Secret, Error> {
        let [ciphertext, x25519] = halves(reply, CIPHERTEXT)?;
        let kem_secret = kem::decapsulate(&self.decapsulation, ciphertext)?;
        Ok(combine(&kem_secret, &agree(&self.x25519, x25519)?))
    }
}

/// The strings that a message's body consists of (RFC 4251 section 5).
pub(crate) fn strings<const COUNT: usize>(mut body: &[u8]) -> Result<[&[u8]; COUNT], Error> {
    let mut strings = [&[][..]; COUNT];
    for string in &mut strings {
        let (length, rest) = body.split_first_chunk().ok_or(Error::Message)?;
        (*string, body) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(Error::Message)?;
    }
    if body.is_empty() { Ok(strings) } else { Err(Error::Message) }
}

/// What stands before the X25519 key, which is of this length, and the X25519 key.
fn halves(part: &[u8], first: usize) -> Result<[&[u8]; 2], Error> {
    if part.len() != first + X25519 {
        return Err(Error::Length { expected: first + X25519, found: part.len() });
    }
    Ok(part.split_at(first).into())
}

/// X25519's secret.
fn agree(own: &PKeyRef<Private>, peer: &[u8]) -> Result<Secret, Error> {
    let peer = PKey::public_key_from_raw_bytes(peer, Id::X25519)?;
    let mut deriver = Deriver::new(own)?;
    deriver.set_peer(&peer)?;
    // OpenSSL refuses zero, and nothing else.
    Secret::of(SECRET, |secret| deriver.derive(secret).map(drop)).map_err(|_| Error::SmallOrder)
}

/// K.
fn combine(kem_secret: &[u8], x25519_secret: &[u8]) -> Secret {
    let mut hash = Sha256::new();
    hash.update(kem_secret);
    hash.update(x25519_secret);
    Secret::take(&mut hash.finish())
}

/// Both sides with any bytes as the other's message, and the answer to a good one changed by them.
pub fn fuzz(data: &[u8]) {
    let (client, init) = Client::begin().expect("OpenSSL makes keys");
    let (mut reply, secret) = respond(&init).expect("a client's own keys are good");
    if let Ok([init]) = strings(data) {
        let _ = respond(init);
    }
    if let Ok([_, reply, _]) = strings(data) {
        let _ = client.finish(reply);
    } else {
        let changes: Vec<_> = data.iter().take(CIPHERTEXT).collect();
        reply.iter_mut().zip(&changes).for_each(|(byte, change)| *byte ^= **change);
        let opened = client.finish(&reply).expect("an X25519 key that is good");
        assert_eq!(*opened == *secret, changes.iter().all(|change| **change == 0));
    }
}

#[cfg(test)]
mod tests;
