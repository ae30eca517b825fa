//! Docker's way to carry standard output and standard error in one stream (Engine API, "Attach to a container", stream
//! format): pieces, each behind a header of 8 bytes: the stream's number, three zeros, and the length as a `uint32`.

/// Which stream a piece is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Output,
    Error,
}

/// A header that names no stream of a program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes such a stream apart, as it comes.
#[derive(Debug, Default)]
pub(super) struct Demultiplexer {
    header: [u8; 8],
    /// How many bytes of the header have come.
    filled: usize,
    /// How many bytes of the piece are still to come.
    left: usize,
}

impl Demultiplexer {
    /// Takes the next part of a piece from the front of `bytes`. `None` once they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<(Kind, &'a [u8])>, Malformed> {
        while self.left == 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(self.header.len() - self.filled));
            self.header[self.filled..][..part.len()].copy_from_slice(part);
            self.filled += part.len();
            *bytes = rest;
            if self.filled < self.header.len() {
                return Ok(None);
            }
            self.filled = 0;
            let [.., a, b, c, d] = self.header;
            self.left = u32::from_be_bytes([a, b, c, d]) as usize;
            self.kind()?;
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let (part, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= part.len();
        *bytes = rest;
        Ok(Some((self.kind()?, part)))
    }

    fn kind(&self) -> Result<Kind, Malformed> {
        match self.header[..4] {
            // Podman gives what it says itself the number of standard input.
            [0 | 1, 0, 0, 0] => Ok(Kind::Output),
            [2, 0, 0, 0] => Ok(Kind::Error),
            _ => Err(Malformed),
        }
    }
}

/// A stream, in pieces.
pub(crate) fn fuzz(data: &[u8]) {
    let mut demultiplexer = Demultiplexer::default();
    for mut piece in crate::fuzzing::pieces(data) {
        while let Ok(Some((_, part))) = demultiplexer.next(&mut piece) {
            assert!(!part.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Demultiplexer, Kind, Malformed};

    fn all(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let mut demultiplexer = Demultiplexer::default();
        for mut bytes in pieces.iter().copied() {
            while let Some((kind, part)) = demultiplexer.next(&mut bytes)? {
                let stream = if kind == Kind::Output { &mut output } else { &mut error };
                stream.extend_from_slice(part);
            }
        }
        Ok((output, error))
    }

    fn piece(number: u8, text: &[u8]) -> Vec<u8> {
        [&[number, 0, 0, 0][..], &(text.len() as u32).to_be_bytes(), text].concat()
    }

    #[test]
    fn a_header_of_another_stream_is_malformed() {
        assert_eq!(all(&[&piece(3, b"x")]), Err(Malformed));
        assert_eq!(all(&[&[1, 0, 1, 0, 0, 0, 0, 0]]), Err(Malformed));
        assert_eq!(all(&[&piece(1, b""), &piece(2, b"x")]), Ok((Vec::new(), b"x".to_vec())));
    }

    proptest! {
        #[test]
        fn pieces_come_out_whole_however_they_are_cut(
            pieces in prop::collection::vec((1..=2u8, prop::collection::vec(any::<u8>(), 0..20)), 0..10),
            size in 1..40usize,
        ) {
            let of = |number| -> Vec<u8> {
                pieces.iter().filter(|piece| piece.0 == number).flat_map(|piece| piece.1.clone()).collect()
            };
            let stream: Vec<u8> = pieces.iter().flat_map(|(number, text)| piece(*number, text)).collect();
            prop_assert_eq!(all(&stream.chunks(size).collect::<Vec<_>>()), Ok((of(1), of(2))));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(0..4u8, 0..200)) {
            let _ = all(&[&bytes]);
        }
    }
}
