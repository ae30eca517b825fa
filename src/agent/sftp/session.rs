//! What each request does. Where a client can tell, it does what OpenSSH's `sftp-server` does.

use super::accounts::Accounts;
use super::handles::{File, Handles};
use super::packet::{Attributes, CopyData, MAX_DATA, MAX_PACKET, Packet, Request};
use super::reply::{Kind, Replies, Status};
use super::{Error, attributes, copy, listing, path, sys};
use crate::agent::{passwd, system};
use crate::connection::hello::SymlinkOrder;
use crate::connection::sftp_server::Options;
use crate::connection::wire::{Reader, Write};
use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, pwrite, write};
use rustix::process::{Resource, getrlimit, umask};
use std::os::unix::ffi::OsStringExt;

const PERMISSIONS: u32 = 0o7777;

/// Descriptors that are not handles: standard input, output and error, and what a request opens for itself.
const RESERVED_DESCRIPTORS: u64 = 5;

/// What is left to do once a request has succeeded.
enum Success {
    /// Say so.
    Done,
    /// Nothing, the answer is written.
    Answered,
}

/// The state of a session.
#[derive(Debug)]
pub(super) struct Session {
    /// What the client named in INIT; nothing before.
    client_version: Option<u32>,
    options: Options,
    symlinks: SymlinkOrder,
    handles: Handles,
    accounts: Accounts,
    pub(super) replies: Replies,
}

impl Session {
    pub(super) fn new(options: Options, symlinks: SymlinkOrder) -> Self {
        Session {
            client_version: None,
            options,
            symlinks,
            handles: Handles::default(),
            accounts: Accounts::new(),
            replies: Replies::default(),
        }
    }

    /// Does what a packet asks and appends the answer to `replies`.
    ///
    /// # Errors
    /// A request before INIT.
    pub(super) fn answer(&mut self, packet: Packet<'_>) -> Result<(), Error> {
        match packet {
            Packet::Init { version } => {
                self.client_version = Some(version);
                self.replies.version(&self.options);
            }
            Packet::Request { id, request } => {
                let client_version = self.client_version.ok_or(Error::NotInitialised)?;
                let start = self.replies.len();
                let result = request.map_err(|_| Status::BadMessage).and_then(|request| self.perform(id, request));
                let status = match result {
                    Ok(Success::Answered) => return Ok(()),
                    Ok(Success::Done) => Status::Ok,
                    Err(status) => status,
                };
                // A failure can leave the first half of an answer behind.
                self.replies.truncate(start);
                self.replies.status(id, status, client_version);
            }
        }
        Ok(())
    }

    fn perform(&mut self, id: u32, request: Request<'_>) -> Result<Success, Status> {
        if !self.options.are_free() && request.name().is_some_and(|name| !self.options.permit(name)) {
            return Err(Status::PermissionDenied);
        }
        let replies = &mut self.replies;
        match request {
            Request::Open { path, flags, attributes } => {
                let file = open(path, flags, attributes, &self.options)?;
                replies.handle(id, self.handles.insert_file(file)?);
            }
            Request::Opendir { path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let directory = fs::open(path, flags, Mode::empty())?;
                replies.handle(id, self.handles.insert_directory(directory)?);
            }
            Request::Close { handle } => {
                system::close(self.handles.remove(handle).ok_or(Status::NoSuchFile)?)?;
                return Ok(Success::Done);
            }
            Request::Read { handle, offset, length } => self.read(id, handle, offset, length)?,
            Request::Write { handle, offset, data } => {
                let file = self.handles.file(handle).ok_or(Status::Failure)?;
                let count = if file.append { write(&file.fd, data)? } else { pwrite(&file.fd, data, offset)? };
                return if count == data.len() { Ok(Success::Done) } else { Err(Status::Failure) };
            }
            Request::Readdir { handle } => {
                let directory = self.handles.directory(handle).ok_or(Status::Failure)?;
                listing::read(directory, &self.accounts, replies, id)?;
            }
            Request::Lstat { path } => replies.attributes(id, &fs::lstat(path)?),
            Request::Stat { path } => replies.attributes(id, &fs::stat(path)?),
            Request::Fstat { handle } => {
                let file = self.handles.file(handle).ok_or(Status::Failure)?;
                replies.attributes(id, &fs::fstat(&file.fd)?);
            }
            Request::Fsetstat { handle, attributes } => {
                let file = self.handles.file(handle).ok_or(Status::Failure)?;
                attributes::set_on_file(&file.fd, attributes)?;
                return Ok(Success::Done);
            }
            Request::Realpath { path } => replies.path(id, &path::real(path)?),
            Request::ExpandPath { path } => replies.path(id, &path::expand(path)?),
            Request::Readlink { path } => replies.path(id, fs::readlink(path, Vec::new())?.as_bytes()),
            Request::Statvfs { path } => replies.statvfs(id, &fs::statvfs(path)?),
            Request::Fstatvfs { handle } => {
                let file = self.handles.file(handle).ok_or(Status::Failure)?;
                replies.statvfs(id, &fs::fstatvfs(&file.fd)?);
            }
            Request::Fsync { handle } => {
                let file = self.handles.file(handle).ok_or(Status::NoSuchFile)?;
                fs::fsync(&file.fd)?;
                return Ok(Success::Done);
            }
            Request::CopyData(request) => {
                self.copy_data(request)?;
                return Ok(Success::Done);
            }
            Request::Limits => self.limits(id),
            Request::HomeDirectory { user } => replies.path(id, &home_directory(user)?),
            Request::UsersGroupsById { users, groups } => self.users_groups_by_id(id, users, groups)?,
            // The other way round.
            Request::Symlink { target: link, link: target } if self.symlinks == SymlinkOrder::Draft => {
                fs::symlink(target, link)?;
                return Ok(Success::Done);
            }
            request => {
                change(request)?;
                return Ok(Success::Done);
            }
        }
        Ok(Success::Answered)
    }

    fn read(&mut self, id: u32, handle: u32, offset: u64, length: u32) -> Result<(), Status> {
        let file = self.handles.file(handle).ok_or(Status::Failure)?;
        let length = usize::try_from(length).unwrap_or(MAX_DATA).min(MAX_DATA);
        let start = self.replies.start(Kind::Data, id);
        let data = self.replies.start_string();
        let mut count = sys::pread_append(&file.fd, &mut self.replies, length, offset)?;
        // A file of /proc, and of some file systems, is read in pieces whatever is asked for. OpenSSH's scp and libssh2 lose
        // what an answer leaves over.
        if count > 0 && count < length && FileType::from_raw_mode(fs::fstat(&file.fd)?.st_mode).is_file() {
            while count < length {
                let next = offset.saturating_add(count as u64);
                match sys::pread_append(&file.fd, &mut self.replies, length - count, next) {
                    Ok(0) | Err(_) => break,
                    Ok(more) => count += more,
                }
            }
        }
        if count == 0 && length > 0 {
            return Err(Status::EndOfFile);
        }
        self.replies.finish(data);
        self.replies.finish(start);
        Ok(())
    }

    fn copy_data(&mut self, request: CopyData) -> Result<(), Status> {
        let from = self.handles.file(request.from).ok_or(Status::NoSuchFile)?;
        let to = self.handles.file(request.to).ok_or(Status::NoSuchFile)?;
        copy::copy(from, request.from_offset, request.length, to, request.to_offset)
    }

    fn limits(&mut self, id: u32) {
        // No limit at all is told as such.
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let start = self.replies.start(Kind::Extended, id);
        self.replies.put_u64(MAX_PACKET as u64);
        self.replies.put_u64(MAX_DATA as u64);
        self.replies.put_u64(MAX_DATA as u64);
        self.replies.put_u64(descriptors.saturating_sub(RESERVED_DESCRIPTORS));
        self.replies.finish(start);
    }

    fn users_groups_by_id(&mut self, id: u32, users: &[u8], groups: &[u8]) -> Result<(), Status> {
        let accounts = &self.accounts;
        let replies = &mut self.replies;
        let start = replies.start(Kind::Extended, id);
        put_names(replies, start, users, |id| accounts.user(id))?;
        put_names(replies, start, groups, |id| accounts.group(id))?;
        replies.finish(start);
        Ok(())
    }
}

/// Appends the list of the names of `ids`, an empty one for each that has none.
fn put_names<'a>(
    replies: &mut Replies,
    start: usize,
    ids: &[u8],
    name: impl Fn(u32) -> Option<&'a [u8]>,
) -> Result<(), Status> {
    let list = replies.start_string();
    let mut ids = Reader::new(ids);
    while let Ok(id) = ids.u32() {
        replies.put_string(name(id).unwrap_or_default());
        // Many long names for short ids could make an answer that no client takes.
        if replies.len() - start > MAX_PACKET {
            return Err(Status::Failure);
        }
    }
    replies.finish(list);
    Ok(())
}

/// The requests that change what a path stands for, and are answered with a status alone.
fn change(request: Request<'_>) -> Result<(), Status> {
    match request {
        Request::Setstat { path, attributes } => attributes::set(path, attributes)?,
        Request::Lsetstat { path, attributes } => attributes::set_on_link(path, attributes)?,
        Request::Remove { path } => fs::unlink(path)?,
        Request::Rmdir { path } => fs::rmdir(path)?,
        Request::Mkdir { path, attributes } => {
            let mode = attributes.permissions.map_or(0o777, |mode| mode & PERMISSIONS);
            fs::mkdir(path, Mode::from_bits_retain(mode))?;
        }
        Request::Rename { from, to } => rename(from, to)?,
        Request::PosixRename { from, to } => fs::rename(from, to)?,
        Request::Hardlink { from, to } => fs::link(from, to)?,
        Request::Symlink { target, link } => fs::symlink(target, link)?,
        _ => return Err(Status::Unsupported),
    }
    Ok(())
}

fn open(path: &[u8], flags: u32, attributes: Attributes, options: &Options) -> Result<File, Status> {
    const READ: u32 = 0x1;
    const WRITE: u32 = 0x2;
    const APPEND: u32 = 0x4;
    const CREATE: u32 = 0x8;
    const TRUNCATE: u32 = 0x10;
    if options.read_only && flags & (WRITE | CREATE | TRUNCATE) != 0 {
        return Err(Status::PermissionDenied);
    }
    let mut how = match (flags & READ != 0, flags & WRITE != 0) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    for (flag, option) in
        [(APPEND, OFlags::APPEND), (CREATE, OFlags::CREATE), (TRUNCATE, OFlags::TRUNC), (0x20, OFlags::EXCL)]
    {
        if flags & flag != 0 {
            how |= option;
        }
    }
    let mode = options.mode.or(attributes.permissions).map_or(0o666, |mode| mode & PERMISSIONS);
    // That which `-m` gives is to be the file's own.
    let mask = options.mode.map(|_| umask(Mode::empty()));
    let fd = fs::open(path, how | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::from_bits_retain(mode));
    mask.map(umask);
    Ok(File { fd: fd?, append: flags & APPEND != 0 })
}

/// Renames, but never over something that exists. A hard link does that for files without a race; what cannot be
/// linked is looked up first.
fn rename(from: &[u8], to: &[u8]) -> Result<(), Status> {
    if FileType::from_raw_mode(fs::lstat(from)?.st_mode) == FileType::RegularFile {
        match fs::link(from, to) {
            Ok(()) => {
                return fs::unlink(from).map_err(|errno| {
                    // Take back the name that was made, and report why.
                    let _ = fs::unlink(to);
                    errno.into()
                });
            }
            // How file systems without hard links refuse them; the last is also a kernel that protects others' files.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::stat(to) {
        Ok(_) => Err(Status::Failure),
        Err(_) => Ok(fs::renameat(CWD, from, CWD, to)?),
    }
}

fn home_directory(user: &[u8]) -> Result<Vec<u8>, Status> {
    let home = if user.is_empty() {
        // A container may run a user that its image does not know.
        passwd::by_uid(rustix::process::getuid().as_raw()).map(|entry| entry.home).or_else(|| std::env::var_os("HOME"))
    } else {
        passwd::by_name(user).map(|entry| entry.home)
    };
    home.map(OsStringExt::into_vec).ok_or(Status::Failure)
}
