//! The arguments that a client gives the other end.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Which end a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `-f`: sends files.
    Source,
    /// `-t`: takes them.
    Sink,
}

/// How the other end was called.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Which end this is.
    pub role: Role,
    /// `-r`: directories, too.
    pub recursive: bool,
    /// `-p`: with their times and all bits of their modes.
    pub preserve: bool,
    /// `-d`: the target must be a directory.
    pub into_directory: bool,
    /// `-v`: tells what it does.
    pub verbose: bool,
    /// What is to be sent, or where it goes.
    pub paths: Vec<OsString>,
}

impl Call {
    /// Reads the arguments after the word `scp`. `None` where they ask for no far end; then `scp` was called by a user.
    ///
    /// Options that matter to the near end only are passed over, as long as they take no argument.
    pub fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut role = None;
        let (mut recursive, mut preserve, mut into_directory, mut verbose) = (false, false, false, false);
        let mut rest = arguments;
        while let Some((option, after)) = rest.split_first()
            && let Some(letters @ [_, ..]) = option.as_bytes().strip_prefix(b"-")
        {
            rest = after;
            if letters == b"-" {
                break;
            }
            for letter in letters {
                match letter {
                    // Of both, OpenSSH takes this one.
                    b'f' => role = Some(Role::Source),
                    b't' => role = role.or(Some(Role::Sink)),
                    b'r' => recursive = true,
                    b'p' => preserve = true,
                    b'd' => into_directory = true,
                    b'v' => verbose = true,
                    b'1' | b'2' | b'3' | b'4' | b'6' | b'A' | b'B' | b'C' | b'O' | b'R' | b'T' | b'q' | b's' => {}
                    _ => return None,
                }
            }
        }
        Some(Call { role: role?, recursive, preserve, into_directory, verbose, paths: rest.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Role};

    fn parse(line: &str) -> Option<Call> {
        Call::parse(&line.split(' ').map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn options_come_one_by_one_or_together() {
        let call = Call {
            role: Role::Sink,
            recursive: true,
            preserve: true,
            into_directory: true,
            verbose: true,
            paths: vec!["-x".into(), "-r".into()],
        };
        assert_eq!(parse("-v -r -p -d -t -- -x -r"), Some(call));
        assert_eq!(parse("-qprdvt -- -x -r"), parse("-v -r -p -d -t -- -x -r"));
        assert_eq!(parse("-tf - a").unwrap().role, Role::Source);
        assert_eq!(parse("-f - -t").unwrap().paths, ["-", "-t"]);
    }

    #[test]
    fn a_users_own_call_is_none() {
        for line in ["a host:b", "-r a host:b", "", "-t -o x", "-P 22 -t x", "x -t"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
