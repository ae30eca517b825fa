//! Packets that go out.

use openssl::rand::rand_bytes;

use super::compression::Deflate;
use super::protection::Protection;
use super::{LENGTH, MIN_PADDING, MOST_PACKETS, PacketError, Use};

/// The length, and the padding's length.
const HEADER: usize = LENGTH + 1;

/// Bytes of padding that are made at a time.
const POOL: usize = 256;

/// Seals the packets of one direction under one key. After an error it is not to be used any more.
pub(crate) struct Sealer {
    protection: Protection,
    /// The next packet's sequence number.
    sequence: u32,
    used: Use,
    compression: bool,
    deflate: Option<Deflate>,
    /// Random padding; the first `left` bytes are unused.
    pool: [u8; POOL],
    left: usize,
}

impl Sealer {
    /// Without protection.
    pub fn plain() -> Sealer {
        Sealer::new(Protection::None, false)
    }

    pub(super) fn new(protection: Protection, compression: bool) -> Sealer {
        let (used, pool) = (Use::default(), [0; POOL]);
        Sealer { protection, sequence: 0, used, compression, deflate: None, pool, left: 0 }
    }

    /// The next packet's sequence number.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Goes on with another one's numbers.
    pub fn continue_from(&mut self, sequence: u32) {
        self.sequence = sequence;
    }

    pub fn is_plain(&self) -> bool {
        self.protection.is_none()
    }

    /// Whether it is time for new keys.
    pub fn is_spent(&self) -> bool {
        self.used.is_much(self.protection.block())
    }

    /// Begins with compression, where that was negotiated: the user is logged in.
    pub fn enable_compression(&mut self) {
        if self.compression && self.deflate.is_none() {
            self.deflate = Some(Deflate::new());
        }
    }

    /// Appends `message` as a packet to `out`; nothing of it where this fails.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), PacketError> {
        let start = out.len();
        let result = self.append(message, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn append(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), PacketError> {
        if self.used.packets >= MOST_PACKETS || (self.is_plain() && self.sequence == u32::MAX) {
            return Err(PacketError::Sequence);
        }
        let (start, block, tag) = (out.len(), self.protection.block(), self.protection.tag());
        out.try_reserve(HEADER + message.len() + MIN_PADDING + block + tag)?;
        out.extend_from_slice(&[0; HEADER]);
        match &mut self.deflate {
            Some(deflate) => deflate.append(message, out)?,
            None => out.extend_from_slice(message),
        }
        let end = out.len() - start;
        let blocks = if self.protection.counts_length() { end } else { end - LENGTH };
        let mut padding = block - blocks % block;
        if padding < MIN_PADDING {
            padding += block;
        }
        let length = u32::try_from(end - LENGTH + padding).map_err(|_| PacketError::Memory)?;
        out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
        out[start + LENGTH] = padding as u8;
        self.pad(padding, out)?;
        out.resize(out.len() + tag, 0);
        self.protection.seal(self.sequence, &mut out[start..])?;
        self.sequence = self.sequence.wrapping_add(1);
        self.used.count(length as usize);
        Ok(())
    }

    /// Random where that is not seen (RFC 4253 section 6), zeros in the clear.
    fn pad(&mut self, length: usize, out: &mut Vec<u8>) -> Result<(), PacketError> {
        if self.is_plain() {
            out.resize(out.len() + length, 0);
            return Ok(());
        }
        if self.left < length {
            rand_bytes(&mut self.pool)?;
            self.left = POOL;
        }
        self.left -= length;
        out.extend_from_slice(&self.pool[self.left..self.left + length]);
        Ok(())
    }
}
