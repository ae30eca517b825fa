//! The sender's records, taken apart.

use std::time::Duration;

/// A record, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// `T`: what comes next has these times.
    Times(Times),
    /// `C`: a file with this mode, of so many bytes, under this name.
    File(u32, u64, &'a [u8]),
    /// `D`: a directory with this mode, under this name.
    Directory(u32, &'a [u8]),
    /// `E`: the directory is complete.
    End,
    /// 1 and a text: something is left out.
    Warning,
    /// 2 and a text: nothing follows.
    Fatal,
}

/// Times since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) modified: Duration,
    pub(super) accessed: Duration,
}

/// What is wrong with a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invalid<'a> {
    /// It is none of these.
    Unknown,
    /// One of its fields.
    Field(&'static str),
    /// A name that leads elsewhere, or that no file can have.
    Name(&'a [u8]),
}

/// Takes a record apart.
pub(super) fn parse(line: &[u8]) -> Result<Record<'_>, Invalid<'_>> {
    let Some((kind, fields)) = line.split_first() else { return Err(Invalid::Field("unexpected <newline>")) };
    match kind {
        b'T' => times(fields).map(Record::Times),
        b'C' => {
            let (mode, size, name) = entry(fields)?;
            Ok(Record::File(mode, size, name))
        }
        b'D' => {
            let (mode, _, name) = entry(fields)?;
            Ok(Record::Directory(mode, name))
        }
        b'E' => Ok(Record::End),
        1 => Ok(Record::Warning),
        2 => Ok(Record::Fatal),
        _ => Err(Invalid::Unknown),
    }
}

/// `SECONDS MICROSECONDS SECONDS MICROSECONDS`, of the modification and of the last access.
fn times(fields: &[u8]) -> Result<Times, Invalid<'static>> {
    let (seconds, rest) = number(fields).ok_or(Invalid::Field("mtime.sec not present"))?;
    let rest = space(rest).ok_or(Invalid::Field("mtime.sec not delimited"))?;
    let (modified, rest) = time(seconds, rest).ok_or(Invalid::Field("mtime.usec not delimited"))?;
    let rest = space(rest).ok_or(Invalid::Field("mtime.usec not delimited"))?;
    let (seconds, rest) = number(rest).ok_or(Invalid::Field("atime.sec not present"))?;
    let rest = space(rest).ok_or(Invalid::Field("atime.sec not delimited"))?;
    match time(seconds, rest) {
        Some((accessed, b"")) => Ok(Times { modified, accessed }),
        _ => Err(Invalid::Field("atime.usec not delimited")),
    }
}

/// The time with the microseconds that `bytes` begin with, and what follows them.
fn time(seconds: u64, bytes: &[u8]) -> Option<(Duration, &[u8])> {
    let (microseconds, rest) = number(bytes)?;
    let microseconds = u32::try_from(microseconds).ok().filter(|count| *count < 1_000_000)?;
    Some((Duration::new(seconds, microseconds * 1000), rest))
}

/// `MODE SIZE NAME`: four octal digits, and what a file's size can be.
fn entry(fields: &[u8]) -> Result<(u32, u64, &[u8]), Invalid<'_>> {
    let (digits, rest) = fields.split_at_checked(4).ok_or(Invalid::Field("bad mode"))?;
    let mode = digits.iter().try_fold(0, |mode, digit| match digit {
        b'0'..=b'7' => Ok(mode << 3 | u32::from(digit - b'0')),
        _ => Err(Invalid::Field("bad mode")),
    })?;
    let rest = space(rest).ok_or(Invalid::Field("mode not delimited"))?;
    let (size, rest) = number(rest).ok_or(Invalid::Field("size not present"))?;
    let name = space(rest).ok_or(Invalid::Field("size not delimited"))?;
    if i64::try_from(size).is_err() {
        return Err(Invalid::Field("size out of range"));
    }
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(Invalid::Name(name));
    }
    Ok((mode, size, name))
}

fn space(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(b" ")
}

/// A decimal number, and what follows it. One that is too large becomes the largest.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = bytes.split_at(bytes.iter().take_while(|byte| byte.is_ascii_digit()).count());
    if digits.is_empty() {
        return None;
    }
    let add = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some((digits.iter().fold(0, add), rest))
}

#[cfg(test)]
mod tests {
    use super::{Invalid, Record, Times, parse};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn records_are_taken_apart() {
        assert_eq!(parse(b"C4755 17 a b"), Ok(Record::File(0o4755, 17, b"a b")));
        assert_eq!(parse(b"C0644 9223372036854775807  \xff"), Ok(Record::File(0o644, i64::MAX as u64, b" \xff")));
        assert_eq!(parse(b"D0700 0 ..."), Ok(Record::Directory(0o700, b"...")));
        let (modified, accessed) = (Duration::new(10, 20_000), Duration::new(30, 999_999_000));
        assert_eq!(parse(b"T10 20 30 999999"), Ok(Record::Times(Times { modified, accessed })));
        assert_eq!(parse(b"E"), Ok(Record::End));
        assert_eq!(parse(b"\x01scp: x"), Ok(Record::Warning));
        assert_eq!(parse(b"\x02"), Ok(Record::Fatal));
    }

    #[test]
    fn what_is_wrong_with_a_record_is_told() {
        for (line, problem) in [
            ("", "unexpected <newline>"),
            ("C", "bad mode"),
            ("C064 0 x", "bad mode"),
            ("C0684 0 x", "bad mode"),
            ("C06440 0 x", "mode not delimited"),
            ("C0644 -1 x", "size not present"),
            ("C0644 1x x", "size not delimited"),
            ("C0644 1", "size not delimited"),
            ("C0644 9223372036854775808 x", "size out of range"),
            ("D0644 99999999999999999999999 x", "size out of range"),
            ("T", "mtime.sec not present"),
            ("T1", "mtime.sec not delimited"),
            ("T1 0", "mtime.usec not delimited"),
            ("T1 0 ", "atime.sec not present"),
            ("T1 0 1", "atime.sec not delimited"),
            ("T1 1000000 1 0", "mtime.usec not delimited"),
            ("T1 0 1 1000000", "atime.usec not delimited"),
            ("T1 0 1 0 ", "atime.usec not delimited"),
            ("T1 0 1 -1", "atime.usec not delimited"),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Invalid::Field(problem)), "{line}");
        }
        assert_eq!(parse(b"sh: scp: not found"), Err(Invalid::Unknown));
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["", ".", "..", "/", "/etc/passwd", "../x", "x/..", "a\0b"] {
            let line = format!("C0644 0 {name}");
            assert_eq!(parse(line.as_bytes()), Err(Invalid::Name(name.as_bytes())), "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_line_that_is_nearly_a_record_makes_the_parser_panic(line in "[TCDE][0-9 ]{0,30}[./a]{0,4}") {
            if let Ok(Record::File(_, _, name) | Record::Directory(_, name)) = parse(line.as_bytes()) {
                prop_assert!(!name.is_empty() && !name.contains(&b'/') && name != b"..");
            }
        }

        #[test]
        fn what_a_sender_says_of_a_file_arrives(mode in 0..0o10000_u32, size in 0..i64::MAX as u64, name in "[^/\0\n]{3,9}") {
            let line = format!("C{mode:04o} {size} {name}");
            prop_assert_eq!(parse(line.as_bytes()), Ok(Record::File(mode, size, name.as_bytes())));
        }
    }
}
