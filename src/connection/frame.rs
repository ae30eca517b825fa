//! Frames of the agent stream: `uint32 length`, then one message, without padding or checksum.

use super::wire::Write;

/// The largest message in a frame, in bytes. A longer one is a protocol error that ends the stream.
pub const MAXIMUM: usize = 256 * 1024;

/// The version of the stream's protocol that `hello@berth` carries.
pub const VERSION: u32 = 1;

/// The name of the global request that each side sends first.
pub const HELLO: &[u8] = b"hello@berth";

/// The peer announced a frame over [`MAXIMUM`], or an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength(pub u32);

impl std::fmt::Display for BadLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a frame of {} bytes: between 1 and {MAXIMUM} are allowed", self.0)
    }
}

impl std::error::Error for BadLength {}

/// Appends `message` as a frame to `stream`.
pub fn append(stream: &mut Vec<u8>, message: &[u8]) {
    debug_assert!((1..=MAXIMUM).contains(&message.len()));
    stream.put_string(message);
}

/// The first frame of `bytes`: its message and what follows. `None` where it has not arrived whole yet.
pub fn split(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>, BadLength> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    if length == 0 || length as usize > MAXIMUM {
        return Err(BadLength(length));
    }
    Ok(rest.split_at_checked(length as usize))
}

#[cfg(test)]
mod tests {
    use super::{BadLength, append, split};

    #[test]
    fn a_frame_is_split_off_once_it_is_whole() {
        let mut stream = Vec::new();
        append(&mut stream, b"one");
        append(&mut stream, b"second");
        for end in 0..7 {
            assert_eq!(split(&stream[..end]), Ok(None));
        }
        let (first, rest) = split(&stream).unwrap().unwrap();
        assert_eq!(first, b"one");
        assert_eq!(split(rest), Ok(Some((&b"second"[..], &b""[..]))));
    }

    #[test]
    fn an_empty_or_oversized_frame_is_an_error() {
        assert_eq!(split(&[0, 0, 0, 0]), Err(BadLength(0)));
        assert_eq!(split(&[0, 4, 0, 1, 9]), Err(BadLength(0x40001)));
    }
}
