//! One direction's encryption and integrity under one key.

use openssl::cipher_ctx::CipherCtx;

use super::algorithm::{Algorithm, CipherName};
use super::mac::Mac;
use super::{LENGTH, PacketError};
use crate::secret::wipe;

/// The length of AES-GCM's and Poly1305's tags.
const TAG: usize = 16;

/// AES's block.
const BLOCK: usize = 16;

/// How packets are protected. A packet is its length, that many bytes, and the tag.
pub(super) enum Protection {
    /// Not at all: before the first NEWKEYS.
    None,
    /// RFC 5647, as in OpenSSH's PROTOCOL section 1.6: the length is authenticated, and not encrypted.
    Gcm { context: CipherCtx, iv: [u8; 12] },
    /// OpenSSH's PROTOCOL.chacha20poly1305: the length is encrypted by a key of its own, and all of the ciphertext
    /// authenticated.
    ChaCha { length: CipherCtx, body: CipherCtx, mac: Mac },
    /// RFC 4344 with RFC 4253's MAC over the plaintext, or with `etm` OpenSSH's over the ciphertext (PROTOCOL section 1.5).
    Ctr { context: CipherCtx, mac: Mac, etm: bool },
}

impl Protection {
    /// With keys of the right lengths for `algorithm`.
    pub fn new(
        algorithm: Algorithm,
        seals: bool,
        key: &[u8],
        iv: &[u8],
        integrity: &[u8],
    ) -> Result<Protection, PacketError> {
        let context = |key: &[u8], iv: Option<&[u8]>| {
            let mut context = CipherCtx::new()?;
            if seals {
                context.encrypt_init(Some(algorithm.cipher.openssl()), Some(key), iv)?;
            } else {
                context.decrypt_init(Some(algorithm.cipher.openssl()), Some(key), iv)?;
            }
            Ok::<_, PacketError>(context)
        };
        Ok(match (algorithm.cipher, algorithm.mac) {
            (CipherName::Aes128Gcm | CipherName::Aes256Gcm, _) => {
                Protection::Gcm { context: context(key, None)?, iv: iv.try_into().map_err(|_| PacketError::Cipher)? }
            }
            (CipherName::ChaCha20Poly1305, _) => {
                let (body, length) = key.split_at_checked(32).ok_or(PacketError::Cipher)?;
                let (length, body) = (context(length, None)?, context(body, None)?);
                Protection::ChaCha { length, body, mac: Mac::poly1305()? }
            }
            (_, Some(name)) => Protection::Ctr {
                context: context(key, Some(iv))?,
                mac: Mac::hmac(name.digest, integrity)?,
                etm: name.etm,
            },
            (_, None) => return Err(PacketError::Cipher),
        })
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Protection::None)
    }

    /// What the padding fills up: RFC 4253 section 6 has 8 as the least.
    pub fn block(&self) -> usize {
        match self {
            Protection::None | Protection::ChaCha { .. } => 8,
            Protection::Gcm { .. } | Protection::Ctr { .. } => BLOCK,
        }
    }

    /// Whether the length is part of the blocks that the padding fills up.
    pub fn counts_length(&self) -> bool {
        matches!(self, Protection::None | Protection::Ctr { etm: false, .. })
    }

    /// The length of what stands behind a packet.
    pub fn tag(&self) -> usize {
        match self {
            Protection::None => 0,
            Protection::Gcm { .. } | Protection::ChaCha { .. } => TAG,
            Protection::Ctr { mac, .. } => mac.length(),
        }
    }

    /// How many bytes of a packet have to be there for [`Protection::length`].
    pub fn head(&self) -> usize {
        match self {
            Protection::Ctr { etm: false, .. } => BLOCK,
            _ => LENGTH,
        }
    }

    /// A packet's length, from its first bytes, some of which may be decrypted by that: to be asked once for each packet.
    /// It is not authenticated yet.
    pub fn length(&mut self, sequence: u32, head: &mut [u8]) -> Result<u32, PacketError> {
        let bytes = match self {
            Protection::None | Protection::Gcm { .. } | Protection::Ctr { etm: true, .. } => first(head),
            Protection::ChaCha { length, .. } => {
                let mut bytes = first(head);
                length.decrypt_init(None, None, Some(&nonce(sequence)))?;
                apply(length, &mut bytes)?;
                bytes
            }
            Protection::Ctr { context, .. } => {
                apply(context, &mut head[..BLOCK])?;
                first(head)
            }
        };
        Ok(u32::from_be_bytes(bytes))
    }

    /// Verifies and decrypts a packet, the tag at its end included, after [`Protection::length`] was asked for it. Where
    /// this fails, nothing in it means anything.
    pub fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), PacketError> {
        let (packet, tag) = packet.split_at_mut(packet.len() - self.tag());
        match self {
            Protection::None => Ok(()),
            Protection::Gcm { context, iv } => {
                context.decrypt_init(None, None, Some(iv))?;
                advance(iv);
                context.set_tag(tag)?;
                context.cipher_update(&packet[..LENGTH], None)?;
                apply(context, &mut packet[LENGTH..])?;
                // Whatever is wrong here, it is the tag.
                context.cipher_final(&mut []).map(|_| ()).map_err(|_| PacketError::Mac)
            }
            Protection::ChaCha { body, mac, .. } => {
                body.decrypt_init(None, None, Some(&nonce(sequence)))?;
                one_time_key(body, mac)?;
                mac.update(packet)?;
                mac.verify(tag)?;
                apply(body, &mut packet[LENGTH..])
            }
            Protection::Ctr { context, mac, etm } => {
                if !*etm {
                    apply(context, &mut packet[BLOCK..])?;
                }
                mac.restart()?;
                mac.update(&sequence.to_be_bytes())?;
                mac.update(packet)?;
                mac.verify(tag)?;
                if *etm { apply(context, &mut packet[LENGTH..]) } else { Ok(()) }
            }
        }
    }

    /// Encrypts a packet, and puts the tag into its last bytes.
    pub fn seal(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), PacketError> {
        let (packet, tag) = packet.split_at_mut(packet.len() - self.tag());
        match self {
            Protection::None => Ok(()),
            Protection::Gcm { context, iv } => {
                context.encrypt_init(None, None, Some(iv))?;
                advance(iv);
                context.cipher_update(&packet[..LENGTH], None)?;
                apply(context, &mut packet[LENGTH..])?;
                context.cipher_final(&mut [])?;
                Ok(context.tag(tag)?)
            }
            Protection::ChaCha { length, body, mac } => {
                length.encrypt_init(None, None, Some(&nonce(sequence)))?;
                apply(length, &mut packet[..LENGTH])?;
                body.encrypt_init(None, None, Some(&nonce(sequence)))?;
                one_time_key(body, mac)?;
                apply(body, &mut packet[LENGTH..])?;
                mac.update(packet)?;
                tag.copy_from_slice(&mac.finish()?[..TAG]);
                Ok(())
            }
            Protection::Ctr { context, mac, etm } => {
                if *etm {
                    apply(context, &mut packet[LENGTH..])?;
                }
                mac.restart()?;
                mac.update(&sequence.to_be_bytes())?;
                mac.update(packet)?;
                tag.copy_from_slice(&mac.finish()?[..tag.len()]);
                if *etm { Ok(()) } else { apply(context, packet) }
            }
        }
    }
}

fn first(bytes: &[u8]) -> [u8; LENGTH] {
    bytes.first_chunk().copied().unwrap_or_default()
}

/// Encrypts or decrypts in place, by a cipher that works on single bytes.
fn apply(context: &mut CipherCtx, data: &mut [u8]) -> Result<(), PacketError> {
    let length = data.len();
    if length == 0 || context.cipher_update_inplace(data, length)? == length {
        Ok(())
    } else {
        Err(PacketError::Cipher)
    }
}

/// RFC 5647 section 7.1: the last 64 bits count the packets.
fn advance(iv: &mut [u8; 12]) {
    if let Some(counter) = iv.last_chunk_mut() {
        *counter = u64::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
    }
}

/// OpenSSL's initial vector of ChaCha20: a counter of blocks, and the nonce, whose last bytes are the sequence number.
fn nonce(sequence: u32) -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce[12..].copy_from_slice(&sequence.to_be_bytes());
    nonce
}

/// The first block of the key stream has Poly1305's key; the packet is encrypted by the next ones.
fn one_time_key(body: &mut CipherCtx, mac: &mut Mac) -> Result<(), PacketError> {
    let mut block = [0; 64];
    apply(body, &mut block)?;
    let result = mac.key(&block[..32]);
    wipe(&mut block);
    result
}
