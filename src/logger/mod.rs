//! The log: lines of text or JSON, to a stream, a file or the system's log.

mod writer;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::clock::rfc3339;
use crate::config::{Log, LogDestination, LogFormat};
use writer::Writer;

/// How long the end of the program, or of a log that another one replaces, waits for those who read it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long is waited for who does not read, before it is looked whether the log is to end.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long is waited for the system's log.
const SYSLOG_MOMENT: Duration = Duration::from_millis(10);

/// The program's log, once it is [`install`]ed.
struct Logger(RwLock<Option<Output>>);

static LOGGER: Logger = Logger(RwLock::new(None));

struct Output {
    format: Format,
    writer: Writer,
}

/// What lines look like.
#[derive(Clone)]
struct Format(Log);

/// Where lines go, and what they look like there.
struct Sink {
    format: Format,
    target: Target,
}

enum Target {
    Stderr,
    Stdout,
    File(File),
    Syslog(UnixDatagram),
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(output) = &*self.0.read().unwrap_or_else(PoisonError::into_inner)
        {
            output.writer.add(output.format.line(record.level(), &record.args().to_string()));
        }
    }

    /// Waits until all is written, for a moment at most.
    fn flush(&self) {
        if let Some(output) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            output.writer.flush(PATIENCE);
        }
    }
}

impl Format {
    fn line(&self, level: log::Level, text: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (text, time) = (escaped(text), rfc3339(now.as_secs(), now.subsec_millis(), 3));
        let line = match (self.0.destination, self.0.format) {
            (LogDestination::Syslog, format) => self.syslog(level, format, &text),
            (_, LogFormat::Text) => format!("{time} {level:5} {text}\n"),
            (_, LogFormat::Json) => {
                format!("{}\n", json!({"timestamp": time, "level": name(level).0, "message": text}))
            }
        };
        line.into_bytes()
    }

    /// RFC 3164, but for the time, which the system's log puts in by its own clock.
    fn syslog(&self, level: log::Level, format: LogFormat, text: &str) -> String {
        let settings = &self.0.syslog;
        let priority = u32::from(settings.facility) * 8 + name(level).1;
        let process = if settings.pid { format!("[{}]", std::process::id()) } else { String::new() };
        let text = match format {
            LogFormat::Text => text.to_owned(),
            LogFormat::Json => json!({"message": text}).to_string(),
        };
        format!("<{priority}>{}{process}: {text}", settings.tag)
    }
}

impl writer::Sink for Sink {
    fn write(&mut self, line: &[u8], may_wait: bool) -> io::Result<usize> {
        match &self.target {
            Target::Stderr => write_where_ready(io::stderr().as_fd(), line, may_wait),
            Target::Stdout => write_where_ready(io::stdout().as_fd(), line, may_wait),
            // A FIFO is a file, too.
            Target::File(file) => write_where_ready(file.as_fd(), line, may_wait),
            Target::Syslog(socket) => {
                let sent = socket.send_to(line, &self.format.0.syslog.socket);
                if may_wait && sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    thread::sleep(SYSLOG_MOMENT);
                }
                sent
            }
        }
    }

    fn loss(&self, lines: u64) -> Vec<u8> {
        self.format.line(log::Level::Warn, &format!("{lines} lines of this log were lost: it could not be written"))
    }
}

/// Writes what is taken now, after a moment's waiting if that may be.
fn write_where_ready(descriptor: BorrowedFd<'_>, line: &[u8], may_wait: bool) -> io::Result<usize> {
    let patience = if may_wait { MOMENT } else { Timespec::default() };
    if poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)], Some(&patience))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // So much a pipe takes without blocking.
    Ok(rustix::io::write(descriptor, line.get(..writer::WHOLE).unwrap_or(line))?)
}

/// A text in which nothing is invisible, moves what stands beside it, or ends a line: names and errors in it may come from
/// anybody. What has no shape of its own, such as control and format characters (Unicode's Cc, Cf, Zl, Zp), is shown as
/// in Rust: `\n`, `\u{202e}`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => escaped.push(c),
            // Not alone, where what combines with the one before would be taken for shapeless, too.
            _ => escaped.extend(format!("a{c}").escape_debug().skip(1)),
        }
    }
    escaped
}

/// Syslog's name and number of a level (RFC 3164 section 4.1.1).
fn name(level: log::Level) -> (&'static str, u32) {
    match level {
        log::Level::Error => ("error", 3),
        log::Level::Warn => ("warning", 4),
        log::Level::Info => ("info", 6),
        log::Level::Debug | log::Level::Trace => ("debug", 7),
    }
}

/// Whether there can be such a log; makes nothing.
pub fn check(settings: &Log) -> io::Result<()> {
    if settings.destination != LogDestination::File {
        return Ok(());
    }
    let path = &settings.file;
    let result = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::metadata(path.parent().unwrap_or(Path::new("/"))).map(drop)
        }
        result => result.map(drop),
    };
    result.map_err(|error| named(settings, &error))
}

fn named(settings: &Log, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("log.file: {}: {error}", settings.file.display()))
}

/// Makes this the program's log, in place of an earlier one. Fails where the file cannot be opened; then that one stays.
pub fn install(settings: &Log) -> io::Result<()> {
    let target = match settings.destination {
        LogDestination::Stderr => Target::Stderr,
        LogDestination::Stdout => Target::Stdout,
        LogDestination::File => {
            let file = OpenOptions::new().append(true).create(true).open(&settings.file);
            Target::File(file.map_err(|error| named(settings, &error))?)
        }
        LogDestination::Syslog => {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Target::Syslog(socket)
        }
    };
    let format = Format(settings.clone());
    let writer = Writer::start(Sink { format: format.clone(), target })?;
    log::logger().flush();
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Output { format, writer });
    // Fails where it is the log already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(settings.level);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::escaped;

    /// Unicode 16's general categories Cf, Zl and Zp.
    const FORMAT: &[(u32, u32)] = &[
        (0xad, 0xad),
        (0x600, 0x605),
        (0x61c, 0x61c),
        (0x6dd, 0x6dd),
        (0x70f, 0x70f),
        (0x890, 0x891),
        (0x8e2, 0x8e2),
        (0x180e, 0x180e),
        (0x200b, 0x200f),
        (0x2028, 0x202e),
        (0x2060, 0x2064),
        (0x2066, 0x206f),
        (0xfeff, 0xfeff),
        (0xfff9, 0xfffb),
        (0x110bd, 0x110bd),
        (0x110cd, 0x110cd),
        (0x13430, 0x1343f),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0001, 0xe0001),
        (0xe0020, 0xe007f),
    ];

    fn is_shapeless(c: char) -> bool {
        c.is_control() || FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
    }

    #[test]
    fn what_has_no_shape_is_escaped_and_nothing_else() {
        let shapeless = FORMAT.iter().flat_map(|(first, last)| *first..=*last).chain(0..0x20).chain(0x7f..0xa0);
        for c in shapeless.filter_map(char::from_u32) {
            assert!(escaped(&c.to_string()).starts_with('\\'), "{c:?}");
        }
        assert_eq!(escaped("a\nb\u{202e}c\u{2028}d\x1b[2J"), "a\\nb\\u{202e}c\\u{2028}d\\u{1b}[2J");
        let text = "failed password for \"a\\\"b\" from ::1: é, e\u{301}, 你好, 'x'";
        assert_eq!(escaped(text), text);
    }

    proptest! {
        #[test]
        fn no_line_has_what_has_no_shape(text in any::<String>(), rest in "[\u{2000}-\u{2070}\u{0}-\u{20}]*") {
            let escaped = escaped(&(text.clone() + &rest));
            prop_assert!(!escaped.contains(is_shapeless), "{escaped:?}");
            let plain = |c: char| (' '..='~').contains(&c);
            prop_assert!(!text.chars().all(plain) || escaped.starts_with(&text));
        }
    }
}
