//! passwd(5) and group(5), line by line: an image may have the accounts of a whole site.

use std::io::{BufRead, BufReader, Read, Take};

/// The longest line that counts, in bytes: a group's has all of its members. Longer ones are passed over.
const LONGEST: usize = 1024 * 1024;

/// How much of a file is read, in bytes: some 800,000 accounts. What stands in the file's place may have no end.
const MOST: u64 = 64 * 1024 * 1024;

/// A file's lines, without their ends.
pub(super) struct Lines<R> {
    file: BufReader<Take<R>>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(file: R) -> Self {
        Lines { file: BufReader::with_capacity(64 * 1024, file.take(MOST)), line: Vec::new() }
    }

    /// The next line; none at the end, or where the file cannot be read.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        loop {
            self.line.clear();
            let mut is_long = false;
            let has_end = loop {
                let piece = match self.file.fill_buf() {
                    Ok([]) => break false,
                    Ok(piece) => piece,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => return None,
                };
                let end = piece.iter().position(|byte| *byte == b'\n');
                let text = &piece[..end.unwrap_or(piece.len())];
                is_long |= self.line.len() + text.len() > LONGEST;
                if !is_long {
                    self.line.extend_from_slice(text);
                }
                let used = text.len() + usize::from(end.is_some());
                self.file.consume(used);
                if end.is_some() {
                    break true;
                }
            };
            if !is_long && (has_end || !self.line.is_empty()) {
                return Some(&self.line);
            }
            if !has_end {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, Lines};

    #[test]
    fn lines_are_read_to_the_end_and_those_without_end_are_passed_over() {
        let long = vec![b'x'; LONGEST + 1];
        let text = [b"one\n\n", &long[1..], b"\n", &long[..], b"\nlast"].concat();
        let mut lines = Lines::new(&text[..]);
        let mut next = || lines.next().map(<[u8]>::len);
        assert_eq!([(); 5].map(|()| next()), [Some(3), Some(0), Some(LONGEST), Some(4), None]);
        let mut lines = Lines::new(&long[..]);
        assert_eq!(lines.next(), None);
    }
}
