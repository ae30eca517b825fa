//! The other side's identification string (RFC 4253 section 4.2).

/// The longest line, as RFC 4253 has it, without its end.
const MAX_LINE: usize = 253;

/// How many lines a server may say before its identification, as with OpenSSH's client.
const MAX_LINES: usize = 1024;

/// What OpenSSH's server says to who speaks no SSH, in the clear.
pub(crate) const INVALID: &str = "Invalid SSH identification string.";

/// And to who speaks SSH 1.
pub(crate) const VERSION: &str = "Protocol major versions differ.";

/// Looks for an identification in what a peer says first.
pub(crate) struct Reader {
    /// How many lines may still come before it: only a server may have any.
    lines: usize,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// More has to come; so many bytes are not needed any more.
    Nothing(usize),
    /// The identification, and how many bytes it ends behind.
    Identification(&'a str, usize),
    /// It is none: what to say.
    Bad(&'static str),
}

impl Reader {
    pub fn client() -> Reader {
        Reader { lines: 0 }
    }

    pub fn server() -> Reader {
        Reader { lines: MAX_LINES }
    }

    /// Reads the lines in `data`, which begins where the last answer ended.
    pub fn read<'a>(&mut self, data: &'a [u8]) -> Found<'a> {
        let mut used = 0;
        loop {
            let rest = &data[used..];
            let Some(end) = rest.iter().take(MAX_LINE + 2).position(|byte| *byte == b'\n') else {
                return if rest.len() >= MAX_LINE + 2 { Found::Bad(INVALID) } else { Found::Nothing(used) };
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            used += end + 1;
            if line.starts_with(b"SSH-") {
                return match parse(line) {
                    Ok(identification) => Found::Identification(identification, used),
                    Err(reason) => Found::Bad(reason),
                };
            }
            if self.lines == 0 {
                return Found::Bad(INVALID);
            }
            self.lines -= 1;
        }
    }
}

/// `SSH-protoversion-softwareversion`, where protoversion is 2.0, or 1.99 for who speaks both.
fn parse(line: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| INVALID)?;
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(INVALID);
    }
    let (version, software) = text["SSH-".len()..].split_once('-').ok_or(INVALID)?;
    let (major, minor) = version.split_once('.').ok_or(INVALID)?;
    let number = |digits: &str| digits.parse::<u32>().map_err(|_| INVALID);
    match (number(major)?, number(minor)?) {
        _ if software.is_empty() => Err(INVALID),
        (2, _) | (1, 99) => Ok(text),
        _ => Err(VERSION),
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, INVALID, Reader, VERSION};

    #[test]
    fn a_clients_identification_is_its_first_line() {
        for (line, name) in [
            (&b"SSH-2.0-OpenSSH_9.9\r\nrest"[..], "SSH-2.0-OpenSSH_9.9"),
            (b"SSH-2.0-a-b c\n", "SSH-2.0-a-b c"),
            (b"SSH-1.99-both\r\n", "SSH-1.99-both"),
        ] {
            let end = line.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            assert_eq!(Reader::client().read(line), Found::Identification(name, end));
        }
        assert_eq!(Reader::client().read(b"SSH-2.0-Open"), Found::Nothing(0));
    }

    #[test]
    fn what_is_no_identification_is_answered_as_by_sshd() {
        let long = [b"SSH-2.0-".as_slice(), &[b'x'; 300]].concat();
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\n",
            b"SSH-2.0\n",
            b"SSH-2.0-\n",
            b"SSH-two-x\n",
            b"SSH-2.0-a\0b\n",
            b"SSH-2.0-a\rb\n",
            &long,
        ] {
            assert_eq!(Reader::client().read(line), Found::Bad(INVALID), "{}", line.escape_ascii());
        }
        for line in [&b"SSH-1.5-old\n"[..], b"SSH-3.0-new\n"] {
            assert_eq!(Reader::client().read(line), Found::Bad(VERSION));
        }
    }

    #[test]
    fn a_server_may_say_something_first() {
        let mut reader = Reader::server();
        assert_eq!(reader.read(b"hello\r\nyou\nSSH-2"), Found::Nothing(11));
        assert_eq!(reader.read(b"SSH-2.0-x\r\n"), Found::Identification("SSH-2.0-x", 11));
        let chatter = b"\n".repeat(1025);
        assert_eq!(Reader::server().read(&chatter), Found::Bad(INVALID));
    }
}
