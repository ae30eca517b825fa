//! The `log` section.

use std::path::PathBuf;

use super::kind::{choice, path, switch, text};
use super::section::Section;

/// Settings of the log, resolved.
#[derive(Clone, Debug)]
pub struct Log {
    /// `level`
    pub level: log::LevelFilter,
    /// `format`
    pub format: LogFormat,
    /// `destination`
    pub destination: LogDestination,
    /// `file`: where the lines go with [`LogDestination::File`].
    pub file: PathBuf,
    /// `syslog`
    pub syslog: Syslog,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level and text.
    Text,
    /// A JSON object with these.
    Json,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDestination {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, which lines are appended to.
    File,
    /// The system's log, by its socket.
    Syslog,
}

/// Settings of the system's log, RFC 3164.
#[derive(Clone, Debug)]
pub struct Syslog {
    /// `destination`: the socket.
    pub socket: PathBuf,
    /// `facility`, by its number.
    pub facility: u8,
    /// `tag`: the program's name.
    pub tag: String,
    /// `pid`: whether the process id stands behind it.
    pub pid: bool,
}

impl Default for Log {
    fn default() -> Self {
        let syslog = Syslog { socket: "/dev/log".into(), facility: 4, tag: "berth".to_owned(), pid: false };
        Log {
            level: log::LevelFilter::Info,
            format: LogFormat::Text,
            destination: LogDestination::Stderr,
            file: "/var/log/berth.log".into(),
            syslog,
        }
    }
}

/// ContainerSSH's levels: syslog's names, and their numbers.
const LEVELS: &[(&str, log::LevelFilter)] = &[
    ("debug", log::LevelFilter::Debug),
    ("info", log::LevelFilter::Info),
    ("notice", log::LevelFilter::Info),
    ("warning", log::LevelFilter::Warn),
    ("error", log::LevelFilter::Error),
    ("crit", log::LevelFilter::Error),
    ("critical", log::LevelFilter::Error),
    ("alert", log::LevelFilter::Error),
    ("emerg", log::LevelFilter::Error),
    ("7", log::LevelFilter::Debug),
    ("6", log::LevelFilter::Info),
    ("5", log::LevelFilter::Info),
    ("4", log::LevelFilter::Warn),
    ("3", log::LevelFilter::Error),
    ("2", log::LevelFilter::Error),
    ("1", log::LevelFilter::Error),
    ("0", log::LevelFilter::Error),
];

/// RFC 3164 section 4.1.1.
const FACILITIES: &[(&str, u8)] = &[
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("logaudit", 13),
    ("logalert", 14),
    ("clock", 15),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

pub(super) fn section() -> Section<Log> {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("ljson", LogFormat::Json)];
    const DESTINATIONS: &[(&str, LogDestination)] = &[
        ("stderr", LogDestination::Stderr),
        ("stdout", LogDestination::Stdout),
        ("file", LogDestination::File),
        ("syslog", LogDestination::Syslog),
    ];
    let tag = text("a word of 32 letters, digits, dots and hyphens at most", |tag| {
        tag.len() <= 32 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    });
    let syslog = Section::new()
        .key("destination", |syslog: &mut Syslog| &mut syslog.socket, path())
        .key("facility", |syslog| &mut syslog.facility, choice(FACILITIES, &[]))
        .key("tag", |syslog| &mut syslog.tag, tag)
        .key("pid", |syslog| &mut syslog.pid, switch());
    Section::new()
        .key("level", |log: &mut Log| &mut log.level, choice(LEVELS, &[]))
        .key("format", |log| &mut log.format, choice(FORMATS, &[]))
        .key("destination", |log| &mut log.destination, choice(DESTINATIONS, &[]))
        .key("file", |log| &mut log.file, path())
        .key("syslog", |log| &mut log.syslog, syslog)
}
