//! How an SFTP server is called: the options of sftp-server(8), which both ends have to know. The agent has a server of
//! its own, and the server refuses what that one could not honour.

/// The command that stands for the built-in server, as in sshd_config(5), Subsystem and ForceCommand.
pub const INTERNAL: &str = "internal-sftp";

/// The requests that `-P` and `-p` know, in the order of OpenSSH's `-Q requests`, and whether each changes anything. `open`
/// does so or not by its flags.
pub const REQUESTS: [(&str, bool); 29] = [
    ("open", false),
    ("close", false),
    ("read", false),
    ("write", true),
    ("lstat", false),
    ("fstat", false),
    ("setstat", true),
    ("fsetstat", true),
    ("opendir", false),
    ("readdir", false),
    ("remove", true),
    ("mkdir", true),
    ("rmdir", true),
    ("realpath", false),
    ("stat", false),
    ("rename", true),
    ("readlink", false),
    ("symlink", true),
    ("posix-rename", true),
    ("statvfs", false),
    ("fstatvfs", false),
    ("hardlink", true),
    ("fsync", true),
    ("lsetstat", true),
    ("limits", false),
    ("expand-path", false),
    ("copy-data", true),
    ("home-directory", false),
    ("users-groups-by-id", false),
];

/// Which messages are logged: those of this level and of all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Quiet,
    Fatal,
    #[default]
    Error,
    Info,
    Verbose,
    Debug1,
    Debug2,
    Debug3,
}

const LEVELS: [(&str, Level); 9] = [
    ("QUIET", Level::Quiet),
    ("FATAL", Level::Fatal),
    ("ERROR", Level::Error),
    ("INFO", Level::Info),
    ("VERBOSE", Level::Verbose),
    ("DEBUG", Level::Debug1),
    ("DEBUG1", Level::Debug1),
    ("DEBUG2", Level::Debug2),
    ("DEBUG3", Level::Debug3),
];

/// syslog(3)'s facilities, by their numbers.
const FACILITIES: [(&str, u8); 12] = [
    ("DAEMON", 3),
    ("USER", 1),
    ("AUTH", 4),
    ("AUTHPRIV", 10),
    ("LOCAL0", 16),
    ("LOCAL1", 17),
    ("LOCAL2", 18),
    ("LOCAL3", 19),
    ("LOCAL4", 20),
    ("LOCAL5", 21),
    ("LOCAL6", 22),
    ("LOCAL7", 23),
];

/// What a server was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// To serve a client so.
    Serve(Box<Options>),
    /// `-Q requests`: to print the names of requests.
    Query,
    /// `-h`: to print its usage.
    Help,
}

/// How a client is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `-R`: nothing is changed.
    pub read_only: bool,
    /// `-P`: these requests are denied.
    pub denied: Vec<&'static str>,
    /// `-p`: all but these are denied.
    pub allowed: Option<Vec<&'static str>>,
    /// `-u`: the umask.
    pub umask: Option<u32>,
    /// `-m`: the mode of new files, whatever the client asks for and whatever the umask is: Red Hat's addition.
    pub mode: Option<u32>,
    /// `-d`: where the session starts, with its tokens.
    pub directory: Option<Vec<u8>>,
    /// `-l`
    pub level: Level,
    /// `-f`, by syslog(3)'s number.
    pub facility: u8,
    /// `-e`: to log to standard error.
    pub to_stderr: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            read_only: false,
            denied: Vec::new(),
            allowed: None,
            umask: None,
            mode: None,
            directory: None,
            level: Level::default(),
            facility: 4,
            to_stderr: false,
        }
    }
}

/// Why a server cannot be called so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such option.
    Option(char),
    /// This option lacks its value.
    Missing(char),
    /// This option is there twice, and once would be dropped.
    Twice(char),
    /// This option's value cannot be.
    Value(char, String),
    /// What follows the options.
    Operand(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Option(letter) => write!(f, "there is no option -{letter}"),
            Error::Missing(letter) => write!(f, "-{letter} lacks its value"),
            Error::Twice(letter) => write!(f, "-{letter} is given twice"),
            Error::Value(letter, value) => match letter {
                'P' | 'p' => write!(f, "-{letter}: there is no request {value:?}"),
                'u' | 'm' => write!(f, "-{letter} {value:?}: must be an octal number up to 777"),
                'd' => write!(f, "-d {value:?}: the tokens are %d, %u and %%"),
                'l' => write!(f, "-l {value:?}: must be QUIET, FATAL, ERROR, INFO, VERBOSE or DEBUG[1-3]"),
                'f' => write!(f, "-f {value:?}: must be DAEMON, USER, AUTH or LOCAL0 to LOCAL7"),
                _ => write!(f, "-{letter} {value:?}: there is no such feature"),
            },
            Error::Operand(word) => write!(f, "{word:?} is no option"),
        }
    }
}

impl std::error::Error for Error {}

/// The words after `internal-sftp`, where that is what a command calls. As `sshd` does, it looks for no quotes.
pub fn internal(command: &[u8]) -> Option<Vec<&[u8]>> {
    let rest = command.strip_prefix(INTERNAL.as_bytes())?;
    let is_blank = |byte: &u8| b" \t\r\n".contains(byte);
    let words = || rest.split(is_blank).filter(|word| !word.is_empty()).collect();
    rest.first().is_none_or(is_blank).then(words)
}

/// Why `internal-sftp` cannot be called as this command does. `None` where it can, or the command is another one.
pub fn unable(command: &str) -> Option<Error> {
    Call::parse(&internal(command.as_bytes())?).err()
}

impl Call {
    /// Reads the words after the program's name as getopt(3) does.
    ///
    /// # Errors
    /// Whatever OpenSSH's server would not take; and what it would pass over, but for which it was given an option.
    pub fn parse(words: &[&[u8]]) -> Result<Call, Error> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(mut letters) = word.strip_prefix(b"-").filter(|letters| !letters.is_empty()) else {
                return Err(Error::Operand(text(word)));
            };
            if letters == b"-" {
                return match words.next() {
                    Some(word) => Err(Error::Operand(text(word))),
                    None => break,
                };
            }
            while let Some((&letter, rest)) = letters.split_first() {
                letters = rest;
                let letter = char::from(letter);
                match letter {
                    'e' => options.to_stderr = true,
                    'R' => options.read_only = true,
                    'h' => return Ok(Call::Help),
                    // As of a login shell: what follows is not for the server.
                    'c' => return Ok(Call::Serve(Box::new(options))),
                    'd' | 'f' | 'l' | 'm' | 'P' | 'p' | 'Q' | 'u' => {
                        let value = if rest.is_empty() { words.next().copied() } else { Some(rest) };
                        let value = value.ok_or(Error::Missing(letter))?;
                        letters = b"";
                        if letter == 'Q' {
                            return match value.eq_ignore_ascii_case(b"requests") {
                                true => Ok(Call::Query),
                                false => Err(Error::Value(letter, text(value))),
                            };
                        }
                        options.set(letter, value)?;
                    }
                    _ => return Err(Error::Option(letter)),
                }
            }
        }
        Ok(Call::Serve(Box::new(options)))
    }
}

impl Options {
    fn set(&mut self, letter: char, value: &[u8]) -> Result<(), Error> {
        let wrong = || Error::Value(letter, text(value));
        let octal = || {
            let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits
                .and_then(|digits| u32::from_str_radix(digits, 8).ok())
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(wrong)
        };
        match letter {
            'P' if !self.denied.is_empty() => return Err(Error::Twice(letter)),
            'p' if self.allowed.is_some() => return Err(Error::Twice(letter)),
            'P' => self.denied = requests(letter, value)?,
            'p' => self.allowed = Some(requests(letter, value)?),
            'u' => self.umask = Some(octal()?),
            'm' => self.mode = Some(octal()?),
            'l' => self.level = by_name(&LEVELS, value).ok_or_else(wrong)?,
            'f' => self.facility = by_name(&FACILITIES, value).ok_or_else(wrong)?,
            _ => {
                expand(value, b"", b"").ok_or_else(wrong)?;
                self.directory = Some(value.to_owned());
            }
        }
        Ok(())
    }

    /// Whether nothing is denied.
    pub fn are_free(&self) -> bool {
        !self.read_only && self.denied.is_empty() && self.allowed.is_none()
    }

    /// Whether a request of this name may be made. One that opens a file is looked at again.
    pub fn permit(&self, name: &str) -> bool {
        let writes = || REQUESTS.iter().any(|(request, writes)| *request == name && *writes);
        let is_denied = self.denied.contains(&name) || self.read_only && writes();
        !is_denied && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&name))
    }
}

/// Puts a user's home directory and name in the places of `%d` and `%u`. `None` where another token is there.
pub fn expand(path: &[u8], home: &[u8], user: &[u8]) -> Option<Vec<u8>> {
    let mut expanded = Vec::new();
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match bytes.next()? {
                b'%' => expanded.push(b'%'),
                b'd' => expanded.extend_from_slice(home),
                b'u' => expanded.extend_from_slice(user),
                _ => return None,
            },
            byte => expanded.push(*byte),
        }
    }
    Some(expanded)
}

/// The requests of a list. One that does not exist is mistyped: to pass it over would let through what was to be denied.
fn requests(letter: char, list: &[u8]) -> Result<Vec<&'static str>, Error> {
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    let known = |name: &[u8]| REQUESTS.iter().map(|(known, _)| *known).find(|known| known.as_bytes() == name);
    names.map(|name| known(name).ok_or_else(|| Error::Value(letter, text(name)))).collect()
}

fn by_name<T: Copy>(table: &[(&str, T)], name: &[u8]) -> Option<T> {
    table.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command. What `-R` was given to is never called without it.
pub(crate) fn fuzz(command: &[u8]) {
    let Some(words) = internal(command) else { return };
    if let Ok(Call::Serve(options)) = Call::parse(&words) {
        assert!(!options.read_only || !options.permit("write"));
        for name in &options.denied {
            assert!(!options.permit(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Call, Error, Level, Options, expand, internal, unable};

    fn options(line: &str) -> Result<Options, Error> {
        let command = format!("internal-sftp {line}");
        match Call::parse(&internal(command.as_bytes()).unwrap())? {
            Call::Serve(options) => Ok(*options),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_built_in_server_is_called_by_its_name_alone_or_with_blanks_after_it() {
        assert_eq!(internal(b"internal-sftp"), Some(vec![]));
        assert_eq!(internal(b"internal-sftp\t -R  -u 0077 "), Some(vec![&b"-R"[..], b"-u", b"0077"]));
        for other in ["internal-sftp2 -R", "internal-sftp;", " internal-sftp", "sftp-server", ""] {
            assert_eq!(internal(other.as_bytes()), None, "{other}");
        }
        assert_eq!(unable("internal-sftp -R"), None);
        assert_eq!(unable("echo -x"), None);
        assert_eq!(unable("internal-sftp -x"), Some(Error::Option('x')));
    }

    #[test]
    fn options_come_one_by_one_or_together_with_their_values() {
        let expected = Options { read_only: true, to_stderr: true, umask: Some(0o27), ..Options::default() };
        for line in ["-R -e -u 027", "-Reu 0027", "-eRu027", "-u27 -eR --"] {
            assert_eq!(options(line), Ok(expected.clone()), "{line}");
        }
        let all = options("-d /srv/%u -f local3 -l verbose -m 0640 -P remove,rmdir -p open,,close").unwrap();
        assert_eq!((all.directory.as_deref(), all.facility, all.level), (Some(&b"/srv/%u"[..]), 19, Level::Verbose));
        assert_eq!((all.mode, all.umask), (Some(0o640), None));
        assert_eq!((all.denied, all.allowed), (vec!["remove", "rmdir"], Some(vec!["open", "close"])));
        assert_eq!(options("-R -c anything -x"), options("-R"));
        let call = |words: &[&[u8]]| Call::parse(words);
        assert_eq!((call(&[b"-eh"]), call(&[b"-Q", b"Requests"])), (Ok(Call::Help), Ok(Call::Query)));
        assert_eq!(call(&[b"-Qciphers"]), Err(Error::Value('Q', "ciphers".into())));
    }

    #[test]
    fn what_cannot_be_honoured_is_an_error() {
        let value = |letter, value: &str| Error::Value(letter, value.to_owned());
        for (line, error) in [
            ("-r", Error::Option('r')),
            ("-R2", Error::Option('2')),
            ("--read-only", Error::Option('-')),
            ("-u", Error::Missing('u')),
            ("-u 0888", value('u', "0888")),
            ("-u 1000", value('u', "1000")),
            ("-u -7", value('u', "-7")),
            ("-u +7", value('u', "+7")),
            ("-m 4755", value('m', "4755")),
            ("-P remove,unlink", value('P', "unlink")),
            ("-p OPEN", value('p', "OPEN")),
            ("-P remove -P rmdir", Error::Twice('P')),
            ("-p open -p close", Error::Twice('p')),
            ("-d %h", value('d', "%h")),
            ("-d %", value('d', "%")),
            ("-l LOUD", value('l', "LOUD")),
            ("-f MAIL", value('f', "MAIL")),
            ("/srv", Error::Operand("/srv".into())),
            ("-R -", Error::Operand("-".into())),
            ("-- -R", Error::Operand("-R".into())),
        ] {
            assert_eq!(options(line), Err(error), "{line}");
        }
    }

    #[test]
    fn requests_are_permitted_by_both_lists_and_where_they_change_nothing() {
        let permitted = |line: &str| ["read", "write", "mkdir"].map(|name| options(line).unwrap().permit(name));
        assert_eq!(permitted(""), [true, true, true]);
        assert_eq!(permitted("-R"), [true, false, false]);
        assert_eq!(permitted("-P write"), [true, false, true]);
        assert_eq!(permitted("-p read,write"), [true, true, false]);
        assert_eq!(permitted("-p read,write -P read"), [false, true, false]);
        assert_eq!(permitted("-p read,write -R"), [true, false, false]);
    }

    #[test]
    fn a_directory_has_tokens() {
        assert_eq!(expand(b"/a%%/%u%d/%u", b"/home/x", b"x"), Some(b"/a%/x/home/x/x".to_vec()));
        assert_eq!(expand(b"%h", b"", b""), None);
    }

    proptest! {
        #[test]
        fn no_command_panics(line in "internal-sftp( |-|[RehcduPplfmQ]|open|write|,|[0-9]|%|\\PC)*") {
            super::fuzz(line.as_bytes());
        }
    }
}
