//! What the server answers: draft section 7, gathered in one buffer until it is worth a write.

use super::packet::{ALL_ATTRIBUTES, EXTENSIONS};
use crate::connection::sftp_server::Options;
use crate::connection::wire::Write;
use rustix::fs::{Stat, StatVfs, StatVfsMountFlags};
use rustix::io::Errno;
use std::ops::{Deref, DerefMut};

/// The protocol version that this server speaks, whichever the client asks for.
const VERSION: u32 = 3;

/// The packet types of answers.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Version = 2,
    Status = 101,
    Handle = 102,
    Data = 103,
    Name = 104,
    Attributes = 105,
    Extended = 201,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    EndOfFile,
    NoSuchFile,
    /// `NoSuchFile` with a message of its own, for `~user`.
    NoSuchUser,
    PermissionDenied,
    Failure,
    BadMessage,
    Unsupported,
}

impl Status {
    fn code(self) -> u32 {
        match self {
            Status::Ok => 0,
            Status::EndOfFile => 1,
            Status::NoSuchFile | Status::NoSuchUser => 2,
            Status::PermissionDenied => 3,
            Status::Failure => 4,
            Status::BadMessage => 5,
            Status::Unsupported => 8,
        }
    }

    /// The messages are OpenSSH's: clients show them, and some scripts look for them.
    fn message(self) -> &'static str {
        match self {
            Status::Ok => "Success",
            Status::EndOfFile => "End of file",
            Status::NoSuchFile => "No such file",
            Status::NoSuchUser => "no such user",
            Status::PermissionDenied => "Permission denied",
            Status::Failure => "Failure",
            Status::BadMessage => "Bad message",
            Status::Unsupported => "Operation unsupported",
        }
    }
}

/// OpenSSH's mapping. Protocol 3 has no closer codes, and clients rely on these.
impl From<Errno> for Status {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Status::NoSuchFile,
            Errno::PERM | Errno::ACCESS | Errno::FAULT => Status::PermissionDenied,
            Errno::NAMETOOLONG | Errno::INVAL => Status::BadMessage,
            Errno::NOSYS => Status::Unsupported,
            _ => Status::Failure,
        }
    }
}

/// The answers that wait to be written. A `Vec` to which fields and whole answers are appended.
#[derive(Debug, Default)]
pub(super) struct Replies(Vec<u8>);

impl Deref for Replies {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Replies {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Replies {
    /// Starts an answer; the result goes to [`finish`](Self::finish).
    pub(super) fn start(&mut self, kind: Kind, id: u32) -> usize {
        let start = self.start_string();
        self.0.put_u8(kind as u8);
        self.0.put_u32(id);
        start
    }

    /// Starts a string whose length is not known yet; a packet is framed just like one.
    pub(super) fn start_string(&mut self) -> usize {
        let start = self.0.len();
        self.0.put_u32(0);
        start
    }

    /// Writes the length of what was started at `start`.
    pub(super) fn finish(&mut self, start: usize) {
        let length = u32::try_from(self.0.len().saturating_sub(start + 4)).unwrap_or(u32::MAX);
        self.patch(start, length);
    }

    /// Replaces the `uint32` at `at`.
    pub(super) fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// VERSION, with the extensions that are permitted.
    pub(super) fn version(&mut self, options: &Options) {
        let start = self.start(Kind::Version, VERSION);
        let request = |name: &'static str| name.split('@').next().unwrap_or(name);
        for (name, version) in EXTENSIONS.into_iter().filter(|(name, _)| options.permit(request(name))) {
            self.0.put_string(name);
            self.0.put_string(version);
        }
        self.finish(start);
    }

    /// STATUS. A client older than version 3 gets the code alone.
    pub(super) fn status(&mut self, id: u32, status: Status, client_version: u32) {
        let start = self.start(Kind::Status, id);
        self.0.put_u32(status.code());
        if client_version >= VERSION {
            self.0.put_string(status.message());
            self.0.put_string("");
        }
        self.finish(start);
    }

    /// HANDLE.
    pub(super) fn handle(&mut self, id: u32, handle: u32) {
        let start = self.start(Kind::Handle, id);
        self.0.put_string(handle.to_be_bytes());
        self.finish(start);
    }

    /// NAME with one path and no attributes, as REALPATH and READLINK have it.
    pub(super) fn path(&mut self, id: u32, path: &[u8]) {
        let start = self.start(Kind::Name, id);
        self.0.put_u32(1);
        self.0.put_string(path);
        self.0.put_string(path);
        self.0.put_u32(0);
        self.finish(start);
    }

    /// ATTRS.
    pub(super) fn attributes(&mut self, id: u32, stat: &Stat) {
        let start = self.start(Kind::Attributes, id);
        self.put_attributes(stat);
        self.finish(start);
    }

    /// The fields of draft section 5. Times past 2106 wrap: version 3 has no room for them.
    pub(super) fn put_attributes(&mut self, stat: &Stat) {
        self.0.put_u32(ALL_ATTRIBUTES);
        self.0.put_u64(stat.st_size as u64);
        self.0.put_u32(stat.st_uid);
        self.0.put_u32(stat.st_gid);
        self.0.put_u32(stat.st_mode);
        self.0.put_u32(stat.st_atime as u32);
        self.0.put_u32(stat.st_mtime as u32);
    }

    /// The answer to `statvfs@openssh.com`: OpenSSH's PROTOCOL section 4.4.
    pub(super) fn statvfs(&mut self, id: u32, file_system: &StatVfs) {
        let flags = file_system.f_flag & (StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID);
        let start = self.start(Kind::Extended, id);
        for value in [
            file_system.f_bsize,
            file_system.f_frsize,
            file_system.f_blocks,
            file_system.f_bfree,
            file_system.f_bavail,
            file_system.f_files,
            file_system.f_ffree,
            file_system.f_favail,
            file_system.f_fsid,
            // The wire's 1 and 2 are the kernel's.
            flags.bits(),
            file_system.f_namemax,
        ] {
            self.0.put_u64(value);
        }
        self.finish(start);
    }
}
