//! `scp -f`: sends files.

use super::call::Call;
use super::peer::{End, Peer, errno_of, failed, on};
use super::tell;
use crate::agent::error::words;
use rustix::fs::{FileType, Mode, OFlags, Stat, fcntl_setfl, fstat, open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How much of a file is read at once, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// The bits of a mode that are sent: OpenSSH's `scp` leaves the sticky one out.
const MODE: u32 = 0o6777;

/// The kernel's `PATH_MAX`, in bytes, the final NUL included: what ends the descent where links go round in circles.
const PATH_MAX: usize = 4096;

/// Sends what the call names.
pub(super) fn send<R: Read, W: Write>(peer: &mut Peer<R, W>, call: &Call) -> Result<(), End> {
    // The client's word that it is there.
    peer.response()?;
    let mut source = Source { peer, call, buffer: vec![0; CHUNK] };
    call.paths.iter().try_for_each(|path| source.send(without_slashes(path)))
}

/// A path without the slashes at its end.
fn without_slashes(path: &OsStr) -> &Path {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    Path::new(OsStr::from_bytes(&bytes[..end.min(bytes.len())]))
}

struct Source<'a, R, W> {
    peer: &'a mut Peer<R, W>,
    call: &'a Call,
    buffer: Vec<u8>,
}

impl<R: Read, W: Write> Source<'_, R, W> {
    /// Sends a file, or a directory with all that is in it. What cannot be read is complained of, and left out.
    fn send(&mut self, path: &Path) -> Result<(), End> {
        // Not waiting for anybody: it may be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = open(path, flags, Mode::empty()).and_then(|file| Ok((fstat(&file)?, file)));
        let (stat, file) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.peer.complain(&failed(path, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                // For file systems in user space, which may take it seriously.
                let _ = fcntl_setfl(&file, OFlags::empty());
                self.file(path, &stat, File::from(file))
            }
            FileType::Directory if self.call.recursive => self.directory(path, &stat),
            _ => self.peer.complain(&on(path, "not a regular file")),
        }
    }

    fn file(&mut self, path: &Path, stat: &Stat, mut file: File) -> Result<(), End> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if !self.times(stat)? || !self.record("Sending file modes", 'C', stat, size, path)? {
            return Ok(());
        }
        let mut left = size;
        let mut problem = None;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let chunk = &mut self.buffer[..room];
            // Once it is wrong, something else must take the place of the content: its length has been told.
            let count = match problem {
                None => match file.read(chunk) {
                    Ok(count @ 1..) => count,
                    Ok(_) => {
                        problem = Some("file became shorter".to_owned());
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        problem = Some(words(errno_of(&error)));
                        continue;
                    }
                },
                Some(_) => {
                    chunk.fill(0);
                    room
                }
            };
            self.peer.send(&self.buffer[..count])?;
            left -= count as u64;
        }
        match problem {
            None => self.peer.acknowledge()?,
            Some(problem) => self.peer.complain(&on(path, &problem))?,
        }
        self.peer.response()?;
        Ok(())
    }

    fn directory(&mut self, path: &Path, stat: &Stat) -> Result<(), End> {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.peer.complain(&failed(path, errno_of(&error))),
        };
        if !self.times(stat)? || !self.record("Entering directory", 'D', stat, 0, path)? {
            return Ok(());
        }
        for entry in entries {
            match entry.map(|entry| path.join(entry.file_name())) {
                Ok(inner) if inner.as_os_str().len() < PATH_MAX => self.send(&inner)?,
                Ok(inner) => self.peer.complain(&on(&inner, "name too long"))?,
                Err(error) => {
                    self.peer.complain(&failed(path, errno_of(&error)))?;
                    break;
                }
            }
        }
        self.peer.send(b"E\n")?;
        self.peer.response()?;
        Ok(())
    }

    /// Sends the times, where they are wanted. Whether the client takes them.
    fn times(&mut self, stat: &Stat) -> Result<bool, End> {
        if !self.call.preserve {
            return Ok(true);
        }
        // The protocol has no time before 1970.
        let record = format!("T{} 0 {} 0\n", stat.st_mtime.max(0), stat.st_atime.max(0));
        if self.call.verbose {
            tell(&format!("Sending file timestamps: {}", record.trim_end()));
        }
        self.peer.send(record.as_bytes())?;
        self.peer.response()
    }

    /// Sends a record of this kind, and says whether the client takes it.
    fn record(&mut self, what: &str, kind: char, stat: &Stat, size: u64, path: &Path) -> Result<bool, End> {
        let mut record = format!("{kind}{:04o} {size} ", stat.st_mode & MODE).into_bytes();
        record.extend(escaped(last(path.as_os_str().as_bytes())));
        if self.call.verbose {
            tell(&format!("{what}: {}", String::from_utf8_lossy(&record)));
        }
        record.push(b'\n');
        self.peer.send(&record)?;
        self.peer.response()
    }
}

/// What stands behind the last slash.
fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The protocol has no way to say a line break in a name: OpenSSH's `scp` writes `\^J` for it, and then each backslash
/// twice.
fn escaped(name: &[u8]) -> Vec<u8> {
    if !name.contains(&b'\n') {
        return name.to_vec();
    }
    name.iter()
        .flat_map(|byte| match byte {
            b'\n' => &b"\\^J"[..],
            b'\\' => b"\\\\",
            other => std::slice::from_ref(other),
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{escaped, last, without_slashes};
    use std::ffi::OsStr;

    #[test]
    fn a_file_is_sent_under_the_last_part_of_its_path() {
        for (path, name) in [("a", "a"), ("/a/b", "b"), ("a/", "a"), ("a//", "a"), ("/", ""), ("//", ""), ("", "")] {
            let path = without_slashes(OsStr::new(path));
            assert_eq!(last(path.as_os_str().as_encoded_bytes()), name.as_bytes());
        }
    }

    #[test]
    fn a_line_break_in_a_name_is_escaped() {
        assert_eq!(escaped(b"a\\b"), b"a\\b");
        assert_eq!(escaped(b"a\\\nb"), b"a\\\\\\^Jb");
    }
}
