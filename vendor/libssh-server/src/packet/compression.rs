//! zlib@openssh.com (RFC 4253 section 6.2): one stream for all packets under one key, flushed after each.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{MAX_LENGTH, PacketError};

/// How much output is made room for at a time.
const STEP: usize = 4096;

/// What packets are compressed by: level 6, as OpenSSH's.
pub(super) struct Deflate(Compress);

impl Deflate {
    pub fn new() -> Deflate {
        Deflate(Compress::new(Compression::new(6), true))
    }

    /// Appends the compressed message to `out`.
    pub fn append(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), PacketError> {
        let mut rest = message;
        loop {
            out.try_reserve(rest.len() / 2 + STEP)?;
            let before = self.0.total_in();
            let status = self.0.compress_vec(rest, out, FlushCompress::Partial);
            rest = &rest[(self.0.total_in() - before) as usize..];
            match status {
                // With room left, all is flushed.
                Ok(Status::Ok | Status::BufError) if rest.is_empty() && out.len() < out.capacity() => return Ok(()),
                Ok(Status::Ok) => (),
                _ => return Err(PacketError::Compression),
            }
        }
    }
}

/// What packets are decompressed by.
pub(super) struct Inflate {
    stream: Decompress,
    message: Vec<u8>,
}

impl Inflate {
    pub fn new() -> Inflate {
        Inflate { stream: Decompress::new(true), message: Vec::new() }
    }

    /// The message that a packet had, until the next one: not empty, and no longer than an uncompressed one may be.
    pub fn message(&mut self, packet: &[u8]) -> Result<&[u8], PacketError> {
        self.message.clear();
        let mut rest = packet;
        loop {
            self.message.try_reserve(STEP)?;
            let before = self.stream.total_in();
            let status = self.stream.decompress_vec(rest, &mut self.message, FlushDecompress::Sync);
            rest = &rest[(self.stream.total_in() - before) as usize..];
            match status {
                _ if self.message.len() > MAX_LENGTH => return Err(PacketError::Compression),
                Ok(Status::Ok | Status::BufError)
                    if rest.is_empty() && self.message.len() < self.message.capacity() =>
                {
                    break;
                }
                Ok(Status::Ok) => (),
                // A stream has no end.
                _ => return Err(PacketError::Compression),
            }
        }
        if self.message.is_empty() { Err(PacketError::Compression) } else { Ok(&self.message) }
    }

    /// Gives back the last message's memory.
    pub fn shrink(&mut self) {
        self.message = Vec::new();
    }
}
