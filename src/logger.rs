//! The log: lines of text or JSON, to a stream, a file or the system's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::config::{Log, LogDestination, LogFormat};

/// The program's log, once it is [`install`]ed.
struct Logger(RwLock<Option<Output>>);

static LOGGER: Logger = Logger(RwLock::new(None));

struct Output {
    settings: Log,
    sink: Sink,
}

/// Where lines go.
enum Sink {
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
        if self.enabled(record.metadata()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // Without control characters: names and errors in it may come from a client.
            let text: String =
                record.args().to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let time = timestamp(now.as_secs(), now.subsec_millis());
            if let Some(output) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
                output.write(output.line(record.level(), &time, &text).as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

impl Output {
    fn line(&self, level: log::Level, time: &str, text: &str) -> String {
        match (&self.sink, self.settings.format) {
            (Sink::Syslog(_), format) => self.syslog(level, format, text),
            (_, LogFormat::Text) => format!("{time} {level:5} {text}\n"),
            (_, LogFormat::Json) => {
                format!("{}\n", json!({"timestamp": time, "level": name(level).0, "message": text}))
            }
        }
    }

    /// A line in one piece. Where nobody takes it there is nobody to tell.
    fn write(&self, line: &[u8]) {
        let _ = match &self.sink {
            Sink::Stderr => io::stderr().lock().write_all(line),
            Sink::Stdout => io::stdout().lock().write_all(line),
            Sink::File(file) => (&*file).write_all(line),
            Sink::Syslog(socket) => socket.send_to(line, &self.settings.syslog.socket).map(drop),
        };
    }

    /// RFC 3164, but for the time, which the system's log puts in by its own clock.
    fn syslog(&self, level: log::Level, format: LogFormat, text: &str) -> String {
        let settings = &self.settings.syslog;
        let priority = u32::from(settings.facility) * 8 + name(level).1;
        let process = if settings.pid { format!("[{}]", std::process::id()) } else { String::new() };
        let text = match format {
            LogFormat::Text => text.to_owned(),
            LogFormat::Json => json!({"message": text}).to_string(),
        };
        format!("<{priority}>{}{process}: {text}", settings.tag)
    }
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

/// Makes this the program's log, in place of an earlier one. Fails where the file cannot be opened; then that one stays.
pub fn install(settings: &Log) -> io::Result<()> {
    let sink = match settings.destination {
        LogDestination::Stderr => Sink::Stderr,
        LogDestination::Stdout => Sink::Stdout,
        LogDestination::File => {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("log.file: {}: {error}", settings.file.display()))
            };
            Sink::File(OpenOptions::new().append(true).create(true).open(&settings.file).map_err(named)?)
        }
        LogDestination::Syslog => {
            let socket = UnixDatagram::unbound()?;
            // A log that takes nothing must not hold up those who write.
            socket.set_nonblocking(true)?;
            Sink::Syslog(socket)
        }
    };
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Output { settings: settings.clone(), sink });
    // Fails where it is the log already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(settings.level);
    Ok(())
}

/// RFC 3339 in UTC.
fn timestamp(seconds: u64, milliseconds: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{milliseconds:03}Z", second % 60)
}

/// Year, month and day of a number of days since 1970-01-01. Counts in years from March, so that a leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / ERA, days % ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_795_521_845, "2026-11-24T12:04:05.007Z"),
        ] {
            assert_eq!(timestamp(seconds, 7), text);
        }
    }
}
