//! `scp -t`: takes files.

use super::call::Call;
use super::peer::{End, Peer, errno_of, failed, on};
use super::record::{self, Invalid, Record, Times};
use super::tell;
use crate::agent::error::words;
use crate::agent::system;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bits of a mode that a copy without `-p` never gets.
const SPECIAL: u32 = 0o7000;

/// Takes what the client sends, and puts it where the call says.
pub(super) fn receive<R: Read, W: Write>(peer: &mut Peer<R, W>, call: &Call, umask: Mode) -> Result<(), End> {
    let [target] = &call.paths[..] else { return Err(End::Fatal(b"ambiguous target".into())) };
    let target = PathBuf::from(target);
    let is_directory = match fs::stat(&target) {
        Ok(stat) if is_directory(&stat) => true,
        Ok(_) if call.into_directory => return Err(End::Fatal(failed(&target, Errno::NOTDIR))),
        Err(errno) if call.into_directory => return Err(End::Fatal(failed(&target, errno))),
        Ok(_) | Err(_) => false,
    };
    let mask = if call.preserve { Mode::empty() } else { umask | Mode::from_raw_mode(SPECIAL) };
    Sink { peer, call, mask, target, is_directory, inside: Vec::new() }.receive()
}

struct Sink<'a, R, W> {
    peer: &'a mut Peer<R, W>,
    call: &'a Call,
    /// What is taken from all modes.
    mask: Mode,
    target: PathBuf,
    /// Whether the target is a directory, so that what comes goes into it.
    is_directory: bool,
    /// The directories that are being filled, from the outermost to the innermost. The kernel bounds how many there
    /// are, by how long a path may be.
    inside: Vec<Directory>,
}

/// A directory that is being filled, and what it gets once it is complete.
struct Directory {
    path: PathBuf,
    times: Option<Times>,
    mode: Option<Mode>,
}

impl<R: Read, W: Write> Sink<'_, R, W> {
    fn receive(mut self) -> Result<(), End> {
        self.peer.acknowledge()?;
        let mut times = None;
        let mut first = true;
        while let Some(line) = self.peer.line()? {
            if self.call.verbose {
                tell(&format!("Sink: {}", String::from_utf8_lossy(&line)));
            }
            match record::parse(&line) {
                Ok(Record::Times(told)) => {
                    times = Some(told);
                    self.peer.acknowledge()?;
                }
                Ok(Record::File(mode, size, name)) => self.file(mode, size, name, times.take())?,
                Ok(Record::Directory(mode, name)) => self.directory(mode, name, times.take())?,
                Ok(Record::End) => {
                    self.peer.acknowledge()?;
                    if !self.leave() {
                        return Ok(());
                    }
                }
                // The user has been told at the other end.
                Ok(Record::Warning) => self.peer.note_complaint(),
                Ok(Record::Fatal) => return Err(End::Lost),
                Err(Invalid::Name(name)) => {
                    return Err(End::Fatal([b"error: unexpected filename: ", name].concat()));
                }
                // Something else than a sender, which may have had its reasons.
                Err(Invalid::Unknown) if first => return Err(End::Fatal(line)),
                Err(Invalid::Unknown) => return Err(End::protocol("expected control record")),
                Err(Invalid::Field(problem)) => return Err(End::protocol(problem)),
            }
            first = false;
        }
        while self.leave() {}
        Ok(())
    }

    /// Where something of this name goes.
    fn place(&self, name: &[u8]) -> PathBuf {
        match self.inside.last() {
            Some(directory) => directory.path.join(OsStr::from_bytes(name)),
            None if self.is_directory => self.target.join(OsStr::from_bytes(name)),
            None => self.target.clone(),
        }
    }

    fn directory(&mut self, mode: u32, name: &[u8], times: Option<Times>) -> Result<(), End> {
        if !self.call.recursive {
            return Err(End::protocol("received directory without -r"));
        }
        let path = self.place(name);
        let mode = Mode::from_raw_mode(mode) - self.mask;
        let preserved = self.call.preserve.then_some(mode);
        let made = match fs::stat(&path) {
            Ok(stat) if is_directory(&stat) => Ok(preserved),
            Ok(_) => Err(Errno::NOTDIR),
            // One that its owner may not write to must be filled first.
            Err(_) => fs::mkdir(&path, mode | Mode::RWXU).map(|()| Some(mode)),
        };
        match made {
            Ok(mode) => {
                self.inside.push(Directory { path, times, mode });
                self.peer.acknowledge()
            }
            Err(errno) => self.peer.complain(&failed(&path, errno)),
        }
    }

    /// Finishes the innermost directory; false where there is none. As with OpenSSH, nobody is told what fails here.
    fn leave(&mut self) -> bool {
        let Some(directory) = self.inside.pop() else { return false };
        if let Some(times) = directory.times {
            let _ = set_times(&directory.path, times);
        }
        if let Some(mode) = directory.mode {
            let _ = fs::chmod(&directory.path, mode);
        }
        true
    }

    fn file(&mut self, mode: u32, size: u64, name: &[u8], times: Option<Times>) -> Result<(), End> {
        let path = self.place(name);
        let before = fs::stat(&path);
        let mode = Mode::from_raw_mode(mode) - self.mask;
        // One that its owner may not write to must be filled first. What is there stays until its place is needed.
        let writable = mode | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = match fs::open(&path, flags, writable) {
            Ok(file) => File::from(file),
            Err(errno) => return self.peer.complain(&failed(&path, errno)),
        };
        self.peer.acknowledge()?;
        let written = self.content(&mut file, size)?;
        let file = OwnedFd::from(file);
        // The first one is told.
        let mut problem = None;
        let mut note = |what: &str, result: Result<(), Errno>| {
            if let (None, Err(errno)) = (&problem, result) {
                problem = Some(on(&path, &format!("{what}{}", words(errno))));
            }
        };
        note("", written);
        if written.is_ok() && before.as_ref().map_or(true, is_file) {
            note("truncate: ", fs::ftruncate(&file, size));
        }
        if self.call.preserve || before.is_err() && mode != writable {
            note("set mode: ", fs::fchmod(&file, mode));
        }
        note("close: ", system::close(file));
        self.peer.response()?;
        if let (Some(times), Ok(())) = (times, written) {
            note("set times: ", set_times(&path, times));
        }
        match problem {
            None => self.peer.acknowledge(),
            Some(problem) => self.peer.complain(&problem),
        }
    }

    /// Writes a file's content. Where that fails, the rest is read all the same: the client sends it.
    fn content(&mut self, file: &mut File, size: u64) -> Result<Result<(), Errno>, End> {
        let mut written = Ok(());
        let mut left = size;
        while left > 0 {
            let chunk = self.peer.content(left)?;
            let count = chunk.len();
            if written.is_ok() {
                written = file.write_all(chunk).map_err(|error| errno_of(&error));
            }
            self.peer.consume(count);
            left -= count as u64;
        }
        Ok(written)
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Sets the times of a file or directory; not those that the system has no number for.
fn set_times(path: &Path, times: Times) -> Result<(), Errno> {
    let (Some(modified), Some(accessed)) = (timespec(times.modified), timespec(times.accessed)) else { return Ok(()) };
    let times = Timestamps { last_access: accessed, last_modification: modified };
    fs::utimensat(CWD, path, &times, AtFlags::empty())
}

fn timespec(time: Duration) -> Option<Timespec> {
    Some(Timespec { tv_sec: i64::try_from(time.as_secs()).ok()?, tv_nsec: time.subsec_nanos().into() })
}
