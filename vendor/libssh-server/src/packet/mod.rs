//! The binary packet protocol (RFC 4253 section 6), in both directions.
//!
//! ```text
//!  socket ─▶ Session's unread bytes ── Opener, in place ──▶ messages
//!  socket ◀─ Session's output       ◀─ Sealer, in place ── messages
//! ```
//!
//! An [`Opener`] gives a message, or wants more bytes, or gives an error, after which the connection has to end: it is
//! not for use any more. What it gives is authentic: a packet's tag or MAC is looked at before anything else of it is
//! but the length, and the length is checked before it is waited for. A [`Sealer`] appends a packet to the output whole,
//! or not at all.
//!
//! Both are used with one key: after NEWKEYS there are new ones.

mod algorithm;
mod compression;
mod keys;
mod mac;
mod open;
mod protection;
mod seal;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::secret::Secret;

pub(crate) use algorithm::Algorithm;
pub(crate) use keys::{Exchange, Hash, Side};
pub(crate) use open::Opener;
pub(crate) use seal::Sealer;

/// The largest packet length that is taken, as in OpenSSH and libssh.
const MAX_LENGTH: usize = 256 * 1024;

/// The length of a packet's length.
const LENGTH: usize = 4;

/// The smallest padding (RFC 4253 section 6).
const MIN_PADDING: usize = 4;

/// RFC 4344 section 3.1: new keys before so many packets.
const MANY_PACKETS: u64 = 1 << 31;

/// With one key never more: with ChaCha20 the sequence number is the nonce.
const MOST_PACKETS: u64 = 1 << 32;

/// What is wrong with a packet. The connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// A length under the smallest or over the largest.
    Length(u32),
    /// A length that is no multiple of the cipher's blocks.
    Alignment(u32),
    /// A tag or MAC that is not the packet's.
    Mac,
    /// A padding that leaves no message, or is too short.
    Padding(u8),
    /// What does not inflate, or inflates to too much.
    Compression,
    /// Too many packets under one key.
    Sequence,
    /// A message that may not come now, by its number.
    Message(u8),
    /// A message of the first key exchange that strict key exchange forbids.
    Strict,
    /// OpenSSL failed.
    Cipher,
    /// No memory for a packet.
    Memory,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PacketError::Length(length) => write!(f, "Bad packet length {length}."),
            PacketError::Alignment(length) => write!(f, "padding error: a packet length of {length}"),
            PacketError::Mac => f.write_str("Corrupted MAC on input."),
            PacketError::Padding(length) => write!(f, "Corrupted padlen {length} on input."),
            PacketError::Compression => f.write_str("a packet cannot be decompressed"),
            PacketError::Sequence => f.write_str("too many packets without a key exchange"),
            PacketError::Message(number) => write!(f, "message {number} may not come now"),
            PacketError::Strict => f.write_str("strict key exchange violation"),
            PacketError::Cipher => f.write_str("a cipher failed"),
            PacketError::Memory => f.write_str("out of memory"),
        }
    }
}

impl std::error::Error for PacketError {}

impl From<openssl::error::ErrorStack> for PacketError {
    fn from(_: openssl::error::ErrorStack) -> Self {
        PacketError::Cipher
    }
}

impl From<std::collections::TryReserveError> for PacketError {
    fn from(_: std::collections::TryReserveError) -> Self {
        PacketError::Memory
    }
}

/// For the fuzz target `packet`: the first byte chooses a cipher and MAC, the next ones how the rest arrives. Two openers
/// see the same bytes, one whole and one in pieces, and must find the same.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((&[choice, piece], data)) = data.split_first_chunk() else { return };
    let Some(mut whole) = fuzzed(choice) else { return };
    let Some(mut pieces) = fuzzed(choice) else { return };
    let (mut all, mut some) = (data.to_vec(), Vec::new());
    let (mut place, mut messages, mut found) = (0, 0, 0);
    let end = loop {
        match whole.open(&mut all[place..]) {
            Ok(Some(opened)) => (place, messages) = (place + opened.length, messages + opened.message.len()),
            end => break end.err(),
        }
    };
    for piece in data.chunks(usize::from(piece) + 1) {
        some.extend_from_slice(piece);
        loop {
            match pieces.open(&mut some) {
                Ok(Some(opened)) => {
                    found += opened.message.len();
                    let length = opened.length;
                    some.drain(..length);
                }
                Ok(None) => break,
                Err(error) => return assert_eq!((messages, end), (found, Some(error))),
            }
        }
    }
    assert_eq!((messages, end), (found, None));
}

/// An opener for what is not sealed, or for what one of the algorithms has sealed under a known key.
fn fuzzed(choice: u8) -> Option<Opener> {
    const CIPHERS: [&str; 4] = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr", "aes128-ctr"];
    const MACS: [&str; 2] = ["hmac-sha2-256", "hmac-sha2-512-etm@openssh.com"];
    let Some(place) = choice.checked_sub(1) else { return Some(Opener::plain()) };
    let (cipher, mac) =
        (CIPHERS[usize::from(place) % CIPHERS.len()], MACS[usize::from(place) / CIPHERS.len() % MACS.len()]);
    let algorithm = Algorithm::named(cipher, mac, "zlib@openssh.com")?;
    let exchange =
        Exchange { secret: Secret::new(vec![1]), hash: vec![2], identifier: vec![3], function: Hash::Sha256 };
    let mut opener = exchange.opener(Side::Server, algorithm).ok()?;
    if choice > 127 {
        opener.enable_compression();
    }
    Some(opener)
}

/// How much went one way under one key.
#[derive(Default)]
struct Use {
    packets: u64,
    bytes: u64,
}

impl Use {
    fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// RFC 4344 section 3.2: after 2^(L/4) blocks of L bits, and after 1 GiB where blocks are small (RFC 4253 section 9).
    fn is_much(&self, block: usize) -> bool {
        let most = if block >= 16 { (block as u64) << (block * 2) } else { 1 << 30 };
        self.packets >= MANY_PACKETS || self.bytes >= most
    }
}
