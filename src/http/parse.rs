//! HTTP/1.1 responses, framing only (RFC 9112): bytes in, events out. Nothing here owns a socket or waits.

use std::ops::Range;

/// The longest head, in bytes. The daemon's own are below one kilobyte.
pub const HEAD_LIMIT: usize = 32 * 1024;
/// The most header fields in a head.
const FIELD_LIMIT: usize = 64;
/// The longest chunk-size line, extensions included, and the longest trailer section.
const LINE_LIMIT: usize = 4096;

/// Why bytes are not an HTTP/1.1 response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The status line or a header field.
    Head(httparse::Error),
    /// The head is longer than [`HEAD_LIMIT`].
    HeadTooLong,
    /// A `Content-Length` that is no number, or several that differ.
    ContentLength,
    /// A `Transfer-Encoding` other than `chunked`.
    TransferEncoding,
    /// A chunk's size line, its end, or the trailers.
    Chunk,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Head(e) => write!(f, "bad head: {e}"),
            Error::HeadTooLong => write!(f, "head longer than {HEAD_LIMIT} bytes"),
            Error::ContentLength => f.write_str("bad Content-Length"),
            Error::TransferEncoding => f.write_str("unknown Transfer-Encoding"),
            Error::Chunk => f.write_str("bad chunk"),
        }
    }
}

/// A response's status line and header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    minor_version: u8,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Reads a head from the start of `input`: it and its length, or `None` while it is incomplete.
    pub fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, Error> {
        let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(input).map_err(Error::Head)? {
            httparse::Status::Complete(length) if length <= HEAD_LIMIT => {
                let fields = response.headers.iter().map(|h| (h.name.to_owned(), h.value.to_owned())).collect();
                let minor_version = response.version.unwrap_or(0);
                Ok(Some((Head { status: response.code.unwrap_or(0), minor_version, fields }, length)))
            }
            httparse::Status::Partial if input.len() < HEAD_LIMIT => Ok(None),
            _ => Err(Error::HeadTooLong),
        }
    }

    /// The first field of this name (in any case) whose value is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).next()
    }

    /// All fields of this name (in any case) whose values are text.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok())
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The comma-separated members of all fields of this name, trimmed.
    fn members(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.values(name).flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii)
    }

    /// Whether the connection may carry another request after this response (RFC 9112 section 9.3). One with both
    /// kinds of length does not (section 6.3), nor does HTTP/1.0.
    pub fn keeps_alive(&self) -> bool {
        self.minor_version >= 1
            && !self.members("connection").any(|m| m.eq_ignore_ascii_case(b"close"))
            && !(self.values("transfer-encoding").next().is_some() && self.values("content-length").next().is_some())
    }
}

/// One step of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing more can be said without more input.
    More,
    /// This part of the input is body; all of the input up to its end is consumed.
    Data(Range<usize>),
    /// The body has ended; this many bytes are consumed.
    End(usize),
}

/// How a response's body is delimited, and how far it has been decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes to go.
    Length(u64),
    /// Chunked, at a chunk's size line.
    ChunkSize,
    /// Chunked, with this many bytes of the chunk to go.
    ChunkData(u64),
    /// Chunked, at the line end after a chunk.
    ChunkEnd,
    /// Chunked, after the last chunk; this many bytes of trailers have been skipped.
    Trailers(usize),
    /// Until the server closes.
    UntilClose,
}

impl Framing {
    /// The framing of the body that follows `head` (RFC 9112 section 6.3), in answer to HEAD or to another method.
    pub fn of(head: &Head, answers_head: bool) -> Result<Framing, Error> {
        if answers_head || matches!(head.status, 100..=199 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let mut codings = head.members("transfer-encoding");
        if let Some(coding) = codings.next() {
            return match coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
                true => Ok(Framing::ChunkSize),
                false => Err(Error::TransferEncoding),
            };
        }
        let mut length = None;
        for member in head.members("content-length") {
            // Digits only: `parse` alone would take a sign.
            let digits = Some(member).filter(|m| m.iter().all(u8::is_ascii_digit));
            let value: Option<u64> = digits.and_then(|m| std::str::from_utf8(m).ok()?.parse().ok());
            if value.is_none() || (length.is_some() && length != value) {
                return Err(Error::ContentLength);
            }
            length = value;
        }
        Ok(length.map_or(Framing::UntilClose, Framing::Length))
    }

    /// Decodes the next step from the start of `input`, giving no more than `max` (above zero) bytes of data.
    pub fn decode(&mut self, input: &[u8], max: usize) -> Result<Event, Error> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            match self {
                Framing::Length(0) => return Ok(Event::End(at)),
                Framing::Length(left) | Framing::ChunkData(left) => {
                    let length = rest.len().min(max).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if length == 0 {
                        return Ok(self.pause(at));
                    }
                    *left -= length as u64;
                    if *self == Framing::ChunkData(0) {
                        *self = Framing::ChunkEnd;
                    }
                    return Ok(Event::Data(at..at + length));
                }
                Framing::ChunkSize => match httparse::parse_chunk_size(rest).map_err(|_| Error::Chunk)? {
                    httparse::Status::Complete((length, _)) if length > LINE_LIMIT => return Err(Error::Chunk),
                    httparse::Status::Complete((length, size)) => {
                        at += length;
                        *self = if size == 0 { Framing::Trailers(0) } else { Framing::ChunkData(size) };
                    }
                    httparse::Status::Partial if rest.len() > LINE_LIMIT => return Err(Error::Chunk),
                    httparse::Status::Partial => return Ok(self.pause(at)),
                },
                Framing::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        *self = Framing::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(self.pause(at)),
                    _ => return Err(Error::Chunk),
                },
                Framing::Trailers(skipped) => match rest.iter().position(|b| *b == b'\n') {
                    Some(end) => {
                        at += end + 1;
                        *skipped += end + 1;
                        if *skipped > LINE_LIMIT {
                            return Err(Error::Chunk);
                        }
                        if matches!(rest.get(..end), Some([] | [b'\r'])) {
                            *self = Framing::Length(0);
                        }
                    }
                    None if *skipped + rest.len() > LINE_LIMIT => return Err(Error::Chunk),
                    None => return Ok(self.pause(at)),
                },
                Framing::UntilClose if rest.is_empty() => return Ok(Event::More),
                Framing::UntilClose => return Ok(Event::Data(at..at + rest.len().min(max))),
            }
        }
    }

    /// More input is needed, and `at` bytes of framing have been consumed: an empty piece of data says so.
    fn pause(&self, at: usize) -> Event {
        if at == 0 { Event::More } else { Event::Data(at..at) }
    }
}

/// Runs the parser over `data` in one piece and in small ones: the entry for fuzzing. Both must agree, and neither may
/// panic or give more data than it was given.
pub(crate) fn fuzz(data: &[u8]) {
    let (step, data) = data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first).max(1), rest));
    let Ok(Some((head, length))) = Head::parse(data) else { return };
    let Ok(framing) = Framing::of(&head, false) else { return };
    let body = data.get(length..).unwrap_or_default();
    let (whole, split) = (decode_all(framing.clone(), body, body.len().max(1)), decode_all(framing, body, step));
    assert_eq!(whole, split);
    assert!(whole.is_ok_and(|(decoded, _)| decoded.len() <= body.len()) || split.is_err());
}

/// The decoded body and, where it has ended, what follows it; the input arrives in pieces of `step` bytes.
fn decode_all(mut framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), Error> {
    let (mut out, mut start, mut end) = (Vec::new(), 0, 0);
    loop {
        match framing.decode(input.get(start..end).unwrap_or_default(), step)? {
            Event::End(n) => return Ok((out, Some(start + n))),
            Event::Data(range) => {
                out.extend_from_slice(input.get(start + range.start..start + range.end).unwrap_or_default());
                start += range.end;
            }
            Event::More if end == input.len() => return Ok((out, None)),
            Event::More => end = (end + step).min(input.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(head: &str) -> Result<Framing, Error> {
        Framing::of(&Head::parse(head.as_bytes()).unwrap().unwrap().0, false)
    }

    fn body_of(framing: Framing, body: &[u8]) -> Result<(Vec<u8>, Option<usize>), Error> {
        decode_all(framing, body, body.len().max(1))
    }

    /// xorshift64*: enough to vary inputs, the same on every run.
    struct Random(u64);
    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
        }
    }

    #[test]
    fn a_head_is_incomplete_until_its_empty_line() {
        let head = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\n\r\n";
        for length in 0..head.len() {
            assert_eq!(Head::parse(&head[..length]), Ok(None), "{length} bytes");
        }
        let (parsed, length) = Head::parse(head).unwrap().unwrap();
        assert_eq!((parsed.status, length, parsed.field("api-version")), (200, head.len(), Some("1.41")));
    }

    #[test]
    fn a_head_without_end_is_refused_at_the_limit() {
        let mut head = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        head.resize(HEAD_LIMIT - 1, b'a');
        assert_eq!(Head::parse(&head), Ok(None));
        head.push(b'a');
        assert_eq!(Head::parse(&head), Err(Error::HeadTooLong));
    }

    #[test]
    fn framing_follows_rfc_9112() {
        assert_eq!(framing_of("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), Ok(Framing::ChunkSize));
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::UntilClose));
        for bad in ["+5", "5, 6", "", "-1", "99999999999999999999"] {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bad}\r\n\r\n");
            assert_eq!(framing_of(&head), Err(Error::ContentLength), "{bad}");
        }
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), Err(Error::TransferEncoding));
    }

    #[test]
    fn a_connection_is_not_kept_after_close_or_http_1_0_or_two_lengths() {
        let keeps = |head: &str| Head::parse(head.as_bytes()).unwrap().unwrap().0.keeps_alive();
        assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: foo, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        let body = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\nHTTP";
        assert_eq!(body_of(Framing::ChunkSize, body), Ok((b"hello!".to_vec(), Some(body.len() - 4))));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for bad in ["zz\r\n", "fffffffffffffffff\r\n", "1\r\nab\r\n", "-1\r\n"] {
            assert_eq!(body_of(Framing::ChunkSize, bad.as_bytes()), Err(Error::Chunk), "{bad:?}");
        }
        let endless = [b"1;".as_slice(), &vec![b'x'; 2 * LINE_LIMIT]].concat();
        assert_eq!(body_of(Framing::ChunkSize, &endless), Err(Error::Chunk));
        let trailers = [b"0\r\n".as_slice(), &b"A: b\r\n".repeat(LINE_LIMIT)].concat();
        assert_eq!(body_of(Framing::ChunkSize, &trailers), Err(Error::Chunk));
    }

    #[test]
    fn any_body_survives_any_chunking_and_any_arrival() {
        let mut random = Random(1);
        for _ in 0..500 {
            let body: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
            let (mut encoded, mut rest) = (Vec::new(), body.as_slice());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(1 + random.below(rest.len()));
                encoded.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                encoded.extend_from_slice(piece);
                encoded.extend_from_slice(b"\r\n");
                rest = tail;
            }
            encoded.extend_from_slice(b"0\r\n\r\n");
            let step = 1 + random.below(encoded.len());
            assert_eq!(decode_all(Framing::ChunkSize, &encoded, step), Ok((body, Some(encoded.len()))));
        }
    }

    #[test]
    fn mutated_responses_never_panic_and_do_not_depend_on_arrival() {
        let seeds: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nfoo\r\n0\r\nX: y\r\n\r\nrest",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n{\"message\":1}",
            b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nraw",
        ];
        let mut random = Random(7);
        for round in 0..20_000 {
            let mut data = vec![1 + random.below(40) as u8];
            data.extend_from_slice(seeds[round % seeds.len()]);
            for _ in 0..random.below(4) {
                let at = 1 + random.below(data.len() - 1);
                match random.below(3) {
                    0 => data[at] = random.below(256) as u8,
                    1 => drop(data.remove(at)),
                    _ => data.insert(at, b"0123456789abcdef\r\n;: "[random.below(21)]),
                }
            }
            fuzz(&data);
        }
    }
}
