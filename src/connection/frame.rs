//! Frames of the agent stream: `uint32 length`, then one message, without padding or checksum.

use std::io::{self, Write};

use super::wire::Write as _;

/// The largest message in a frame, in bytes. A longer one is a protocol error that ends the stream.
pub const MAXIMUM: usize = 256 * 1024;

/// The version of the stream's protocol that `hello@berth` carries.
pub const VERSION: u32 = 2;

/// The name of the global request that each side sends first.
pub const HELLO: &[u8] = b"hello@berth";

/// The name of the global request by which an agent says that its container is being stopped.
pub const STOPPING: &[u8] = b"stopping@berth";

/// The name under which a channel request travels that was refused. Nobody knows such a one: so its refusal comes in its
/// turn among the answers to the channel's other requests (RFC 4254 section 4 wants them in order).
pub const REFUSED: &[u8] = b"refused@berth";

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

/// A message, and what follows its frame.
type MessageAndRest<'a> = (&'a [u8], &'a [u8]);

/// The first frame of `bytes`. `None` where it has not arrived whole yet.
pub fn split(bytes: &[u8]) -> Result<Option<MessageAndRest<'_>>, BadLength> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    if length == 0 || length as usize > MAXIMUM {
        return Err(BadLength(length));
    }
    Ok(rest.split_at_checked(length as usize))
}

/// Frames that wait, in the order of their arrival; the last one may be incomplete.
#[derive(Debug, Default)]
pub struct Queue {
    bytes: Vec<u8>,
    /// Where the first waiting frame begins.
    start: usize,
    /// How many bytes at the end are only room for more, kept so that they need no clearing again. Invariant:
    /// `start + spare <= bytes.len()`.
    spare: usize,
}

impl Queue {
    /// Where to append frames, or pieces of them as they arrive.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.end());
        self.spare = 0;
        self.compact();
        &mut self.bytes
    }

    /// Appends what `read` puts into the `room` bytes that it is given, and returns how many those were.
    pub fn fill<E>(&mut self, room: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        self.compact();
        let end = self.end();
        if self.spare < room {
            self.bytes.resize(end + room, 0);
            self.spare = room;
        }
        let count = read(&mut self.bytes[end..end + room])?.min(room);
        self.spare -= count;
        Ok(count)
    }

    /// Moves what waits to the front, where less moves than there is room: each byte moves about once at most.
    fn compact(&mut self) {
        if self.start > self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    fn end(&self) -> usize {
        self.bytes.len() - self.spare
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.end() - self.start
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first frame's message, where it is whole.
    pub fn front(&self) -> Result<Option<&[u8]>, BadLength> {
        Ok(split(self.bytes())?.map(|(message, _)| message))
    }

    /// Removes the first frame, where it is whole.
    pub fn pop(&mut self) {
        if let Ok(Some(message)) = self.front() {
            self.consume(4 + message.len());
        }
    }

    /// All that waits, for a writer.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end()]
    }

    /// Writes to a stream what that takes now. An error is that it takes no more at all.
    pub fn write_to(&mut self, stream: &mut dyn Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(self.bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.consume(count),
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes `count` bytes, which a writer has written.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end());
        if self.is_empty() {
            self.spare += self.start;
            self.start = 0;
        }
    }

    /// The messages of all whole frames.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (message, after) = split(rest).ok()??;
            rest = after;
            Some(message)
        })
    }

    /// Gives back unused memory: to be called where the connection falls idle.
    pub fn shrink(&mut self) {
        self.tail().shrink_to_fit();
    }
}

/// Whether a non-blocking stream only has nothing, or no room, at this time.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A stream gives the same messages, and the same error, however it arrives.
pub(crate) fn fuzz(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let (mut whole, mut rest) = (Vec::new(), stream);
    let end = loop {
        match split(rest) {
            Ok(Some((message, after))) => (rest, _) = (after, whole.push(message.to_vec())),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut queue = Queue::default();
    let mut gathered = Vec::new();
    for piece in stream.chunks(usize::from(*step).max(1)) {
        queue.tail().extend_from_slice(piece);
        while let Ok(Some(message)) = queue.front() {
            gathered.push(message.to_vec());
            queue.pop();
        }
    }
    assert_eq!(gathered, whole);
    assert_eq!(queue.front().map(|message| assert!(message.is_none())), end);
    assert_eq!(queue.bytes(), rest);
}

#[cfg(test)]
mod tests {
    use super::{BadLength, Queue, append, split};

    #[test]
    fn a_queue_gives_its_frames_in_order() {
        let mut queue = Queue::default();
        append(queue.tail(), b"one");
        append(queue.tail(), b"two");
        queue.tail().extend_from_slice(&[0, 0, 0, 9, 1]);
        assert_eq!(queue.iter().collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(queue.front(), Ok(Some(&b"one"[..])));
        queue.pop();
        queue.pop();
        assert_eq!((queue.front(), queue.len()), (Ok(None), 5));
        queue.pop();
        assert_eq!(queue.len(), 5);
    }

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
