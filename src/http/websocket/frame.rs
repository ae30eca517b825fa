//! Frames (RFC 6455 section 5), as a client sends and receives them.

use std::ops::Range;

/// The longest payload of a control frame: section 5.5.
pub const CONTROL_LIMIT: usize = 125;

/// What a server has sent against the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A reserved bit: no extension was agreed on.
    Reserved,
    /// An opcode that the RFC does not know.
    Opcode(u8),
    /// A masked frame: only a client's are.
    Masked,
    /// A length that is not the shortest form of itself, or above 2^63 - 1.
    Length,
    /// A control frame that is longer than [`CONTROL_LIMIT`], or a fragment.
    Control,
    /// A continuation of no message, or a new message within another.
    Continuation,
    /// A text that is not UTF-8.
    Utf8,
    /// A close frame with half a code, or with one that must not be sent.
    CloseCode,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Reserved => f.write_str("reserved bit set"),
            Error::Opcode(opcode) => write!(f, "unknown opcode {opcode}"),
            Error::Masked => f.write_str("masked frame"),
            Error::Length => f.write_str("bad length"),
            Error::Control => f.write_str("control frame too long or fragmented"),
            Error::Continuation => f.write_str("fragments out of order"),
            Error::Utf8 => f.write_str("text that is not UTF-8"),
            Error::CloseCode => f.write_str("bad close code"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The code by which a connection is closed over this: section 7.4.1.
    pub fn close_code(self) -> u16 {
        match self {
            Error::Utf8 => 1007,
            _ => 1002,
        }
    }
}

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that has begun.
    Continuation,
    /// The begin of a message.
    Message(Kind),
    /// The last frame.
    Close,
    /// To be answered.
    Ping,
    /// The answer.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Opcode, Error> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Message(Kind::Text),
            2 => Opcode::Message(Kind::Binary),
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            opcode => return Err(Error::Opcode(opcode)),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Message(Kind::Text) => 1,
            Opcode::Message(Kind::Binary) => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Whether it is its message's last.
    fin: bool,
    opcode: Opcode,
    length: u64,
}

impl Header {
    /// Reads a server's header from the start of `input`: it and its length, or `None` while it is incomplete.
    fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, Error> {
        let [first, second, rest @ ..] = input else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Error::Reserved);
        }
        let (fin, opcode) = (first & 0x80 != 0, Opcode::from_bits(first & 0x0f)?);
        if second & 0x80 != 0 {
            return Err(Error::Masked);
        }
        let (length, size) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        let range = match size {
            2 => 0..=125,
            4 => 126..=0xffff,
            _ => 0x1_0000..=i64::MAX as u64,
        };
        if !range.contains(&length) {
            return Err(Error::Length);
        }
        if opcode.is_control() && (!fin || length > CONTROL_LIMIT as u64) {
            return Err(Error::Control);
        }
        Ok(Some((Header { fin, opcode, length }, size)))
    }
}

/// Appends a whole message, or a control frame, as a client sends it: in one frame, masked with `key`. Its payload are
/// the `parts`.
pub fn append(out: &mut Vec<u8>, opcode: Opcode, key: [u8; 4], parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode.bits());
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    let start = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    // Whole keys at a time, which the compiler makes whole vectors of.
    let (whole, rest) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>();
    for chunk in whole {
        *chunk = (u32::from_ne_bytes(*chunk) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Why and how a server closes: its code and reason; `None` where it gives none.
pub type Close = Option<(u16, String)>;

/// One step of what a server sends. Ranges are of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing more can be said without more input.
    More,
    /// A piece of a message, which can be empty.
    Data {
        /// What the message is made of. A text's pieces together are UTF-8, each alone need not be.
        kind: Kind,
        /// Whether the message begins with it.
        first: bool,
        /// Whether the message ends with it.
        last: bool,
        /// The piece.
        range: Range<usize>,
    },
    /// To be answered with the same bytes.
    Ping(Range<usize>),
    /// The answer to a ping, or a sign of life.
    Pong(Range<usize>),
    /// The last frame.
    Close(Close),
}

/// Takes a server's bytes apart. Owns no socket, and keeps nothing but where it stands.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message that has begun, and whether a piece of it has been given out.
    message: Option<(Kind, bool)>,
    /// The message's frame, and how much of it is to come.
    frame: Option<(bool, u64)>,
    utf8: Utf8,
}

impl Decoder {
    /// Decodes the next step from the start of `input`, and says how much of that it took.
    pub fn decode(&mut self, input: &[u8]) -> Result<(Event, usize), Error> {
        let mut start = 0;
        if self.frame.is_none() {
            let Some((header, size)) = Header::parse(input)? else { return Ok((Event::More, 0)) };
            if header.opcode.is_control() {
                // A control frame fits into any buffer, so it is taken as a whole.
                let range = size..size + header.length as usize;
                let Some(payload) = input.get(range.clone()) else { return Ok((Event::More, 0)) };
                let end = range.end;
                let event = match header.opcode {
                    Opcode::Ping => Event::Ping(range),
                    Opcode::Pong => Event::Pong(range),
                    _ => Event::Close(close(payload)?),
                };
                return Ok((event, end));
            }
            self.message = match (header.opcode, self.message) {
                (Opcode::Message(kind), None) => Some((kind, false)),
                (Opcode::Continuation, Some(message)) => Some(message),
                _ => return Err(Error::Continuation),
            };
            self.frame = Some((header.fin, header.length));
            start = size;
        }
        // Always there, since both were just seen to.
        let (Some((fin, left)), Some((kind, begun))) = (self.frame, self.message) else { return Ok((Event::More, 0)) };
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - start);
        if length == 0 && left > 0 {
            return Ok((Event::More, start));
        }
        let (range, left) = (start..start + length, left - length as u64);
        let last = fin && left == 0;
        if kind == Kind::Text {
            self.utf8.check(input.get(range.clone()).unwrap_or_default(), last)?;
        }
        self.frame = (left > 0).then_some((fin, left));
        self.message = (!last).then_some((kind, true));
        let end = range.end;
        Ok((Event::Data { kind, first: !begun, last, range }, end))
    }
}

fn close(payload: &[u8]) -> Result<Close, Error> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Error::CloseCode) };
    };
    let code = u16::from_be_bytes(*code);
    // Section 7.4, and what was registered since: 1012 to 1014.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Error::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Error::Utf8)?;
    Ok(Some((code, reason.to_owned())))
}

/// Checks a text that comes in pieces.
#[derive(Debug, Default)]
struct Utf8 {
    /// The begin of a character whose rest has not come: three bytes at most.
    begun: Vec<u8>,
}

impl Utf8 {
    fn check(&mut self, piece: &[u8], last: bool) -> Result<(), Error> {
        let mut rest = piece;
        while !self.begun.is_empty()
            && let Some((byte, behind)) = rest.split_first()
        {
            self.begun.push(*byte);
            rest = behind;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) if error.error_len().is_some() => return Err(Error::Utf8),
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(rest) {
            if error.error_len().is_some() {
                return Err(Error::Utf8);
            }
            self.begun.extend_from_slice(rest.get(error.valid_up_to()..).unwrap_or_default());
        }
        if last && !self.begun.is_empty() { Err(Error::Utf8) } else { Ok(()) }
    }
}

/// Decodes `data` in one piece and in small ones: the entry for fuzzing. Both must agree, and neither may panic.
pub(crate) fn fuzz(data: &[u8]) {
    let (step, data) = data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first).max(1), rest));
    assert_eq!(decode_all(data, data.len().max(1)), decode_all(data, step));
}

/// What a server has said in whole: messages, the one that has not ended included, and the payloads of control frames,
/// with the opcode's bits before each. And what is wrong with the rest.
type Said = (Vec<(u8, Vec<u8>)>, Option<Error>);

/// Decodes all of `input`, which arrives in pieces of `step` bytes.
fn decode_all(input: &[u8], step: usize) -> Said {
    let (mut said, mut open) = (Vec::new(), None);
    let (mut decoder, mut start, mut end) = (Decoder::default(), 0, 0);
    let wrong = loop {
        let piece = input.get(start..end).unwrap_or_default();
        let bytes = |range: Range<usize>| piece.get(range).unwrap_or_default();
        let (event, length) = match decoder.decode(piece) {
            Ok(result) => result,
            Err(error) => break Some(error),
        };
        start += length;
        match event {
            Event::More if end == input.len() => break None,
            Event::More => end = (end + step).min(input.len()),
            Event::Data { kind, first, last, range } => {
                assert_eq!(first, open.is_none());
                open.get_or_insert((Opcode::Message(kind).bits(), Vec::new())).1.extend_from_slice(bytes(range));
                said.extend(open.take_if(|_| last));
            }
            Event::Ping(range) => said.push((Opcode::Ping.bits(), bytes(range).to_vec())),
            Event::Pong(range) => said.push((Opcode::Pong.bits(), bytes(range).to_vec())),
            Event::Close(close) => said.push((Opcode::Close.bits(), format!("{close:?}").into_bytes())),
        }
    };
    // A text can be wrong in its middle, which one who has it in pieces sees earlier than one who has it whole.
    if wrong != Some(Error::Utf8) {
        said.extend(open);
    }
    (said, wrong)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
