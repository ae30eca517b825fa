//! Packets that come in.

use std::ops::Range;

use super::compression::Inflate;
use super::protection::Protection;
use super::{LENGTH, MAX_LENGTH, MIN_PADDING, MOST_PACKETS, PacketError, Use};

/// Opens the packets of one direction under one key. After an error it gives that again.
pub(crate) struct Opener {
    protection: Protection,
    /// The next packet's sequence number.
    sequence: u32,
    /// The next packet's length, where it has been decrypted already.
    length: Option<u32>,
    used: Use,
    compression: bool,
    inflate: Option<Inflate>,
    failed: Option<PacketError>,
}

/// A packet that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    /// Never empty: its number is first.
    pub message: &'a [u8],
    /// How many bytes it was.
    pub length: usize,
}

impl Opener {
    /// Without protection.
    pub fn plain() -> Opener {
        Opener::new(Protection::None, false)
    }

    pub(super) fn new(protection: Protection, compression: bool) -> Opener {
        Opener { protection, sequence: 0, length: None, used: Use::default(), compression, inflate: None, failed: None }
    }

    /// The next packet's sequence number.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Goes on with another one's numbers (RFC 4253 section 6.4: they are never reset, but by strict key exchange).
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
        if self.compression && self.inflate.is_none() {
            self.inflate = Some(Inflate::new());
        }
    }

    /// Gives back memory that holds nothing.
    pub fn shrink(&mut self) {
        if let Some(inflate) = &mut self.inflate {
            inflate.shrink();
        }
    }

    /// Opens the packet at the beginning of `data`, in place. `None` where it is not whole yet: then the same bytes must be
    /// given again, as they are, with more behind them.
    pub fn open<'a>(&'a mut self, data: &'a mut [u8]) -> Result<Option<Opened<'a>>, PacketError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some((message, length)) = self.verify(data).inspect_err(|error| self.failed = Some(*error))? else {
            return Ok(None);
        };
        let mut message = &data[message];
        if let Some(inflate) = &mut self.inflate {
            message = inflate.message(message).inspect_err(|error| self.failed = Some(*error))?;
        }
        Ok(Some(Opened { message, length }))
    }

    /// Decrypts the packet: where its message is, compressed or not, and how long it was.
    fn verify(&mut self, data: &mut [u8]) -> Result<Option<(Range<usize>, usize)>, PacketError> {
        let Some(length) = self.length(data)? else { return Ok(None) };
        let whole = LENGTH + length + self.protection.tag();
        let Some(packet) = data.get_mut(..whole) else { return Ok(None) };
        if self.used.packets >= MOST_PACKETS || (self.is_plain() && self.sequence == u32::MAX) {
            return Err(PacketError::Sequence);
        }
        self.protection.open(self.sequence, packet)?;
        self.length = None;
        self.sequence = self.sequence.wrapping_add(1);
        self.used.count(length);
        let padding = packet[LENGTH];
        // The padding's length, a message of one byte at least, and the padding.
        if usize::from(padding) < MIN_PADDING || usize::from(padding) + 2 > length {
            return Err(PacketError::Padding(padding));
        }
        Ok(Some((LENGTH + 1..LENGTH + length - usize::from(padding), whole)))
    }

    /// The packet's length, checked, where enough of it is there.
    fn length(&mut self, data: &mut [u8]) -> Result<Option<usize>, PacketError> {
        let length = match (self.length, data.get_mut(..self.protection.head())) {
            (Some(length), _) => length,
            (None, None) => return Ok(None),
            (None, Some(head)) => {
                let length = self.protection.length(self.sequence, head)?;
                self.check(length)?;
                *self.length.insert(length)
            }
        };
        Ok(Some(length as usize))
    }

    fn check(&self, length: u32) -> Result<(), PacketError> {
        let size = length as usize;
        // The padding's length, a message of one byte and the padding; and the blocks that its length was read from.
        let least = (2 + MIN_PADDING).max(self.protection.head() - LENGTH);
        if size < least || size > MAX_LENGTH {
            return Err(PacketError::Length(length));
        }
        let blocks = if self.protection.counts_length() { size + LENGTH } else { size };
        if blocks % self.protection.block() != 0 {
            return Err(PacketError::Alignment(length));
        }
        Ok(())
    }
}
