//! SETSTAT and its relatives. Each attribute is set in OpenSSH's order (size, permissions, times, owner), a failure
//! does not keep the rest from being set, and the last failure is the one reported.

use super::packet::Attributes;
use super::reply::Status;
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// SETSTAT: of what `path` stands for, links followed.
pub(super) fn set(path: &[u8], attributes: Attributes) -> Result<(), Status> {
    last_failure([
        attributes.size.map(|size| truncate(path, size)),
        attributes.permissions.map(|mode| fs::chmod(path, permissions(mode))),
        attributes.times.map(|times| fs::utimensat(CWD, path, &timestamps(times), AtFlags::empty())),
        attributes.owner.map(|(user, group)| fs::chownat(CWD, path, uid(user), gid(group), AtFlags::empty())),
    ])
}

/// FSETSTAT: of an open file.
pub(super) fn set_on_file(file: &OwnedFd, attributes: Attributes) -> Result<(), Status> {
    last_failure([
        attributes.size.map(|size| fs::ftruncate(file, size)),
        attributes.permissions.map(|mode| fs::fchmod(file, permissions(mode))),
        attributes.times.map(|times| fs::futimens(file, &timestamps(times))),
        attributes.owner.map(|(user, group)| fs::fchown(file, uid(user), gid(group))),
    ])
}

/// `lsetstat@openssh.com`: of `path` itself, even where it is a link. A link has no size to set.
pub(super) fn set_on_link(path: &[u8], attributes: Attributes) -> Result<(), Status> {
    if attributes.size.is_some() {
        return Err(Status::BadMessage);
    }
    let itself = AtFlags::SYMLINK_NOFOLLOW;
    last_failure([
        attributes.permissions.map(|mode| chmod_no_follow(path, permissions(mode))),
        attributes.times.map(|times| fs::utimensat(CWD, path, &timestamps(times), itself)),
        attributes.owner.map(|(user, group)| fs::chownat(CWD, path, uid(user), gid(group), itself)),
    ])
}

fn last_failure<const N: usize>(results: [Option<Result<(), Errno>>; N]) -> Result<(), Status> {
    results.into_iter().flatten().filter_map(Result::err).next_back().map_or(Ok(()), |errno| Err(errno.into()))
}

/// `truncate`, which neither std nor rustix has. Without blocking, so that a FIFO is refused and not waited for.
fn truncate(path: &[u8], size: u64) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    fs::ftruncate(fs::open(path, flags, Mode::empty())?, size)
}

/// `chmod` of anything but a link. Kernels before 6.6 cannot be told not to follow one, hence the detour that C
/// libraries take too.
fn chmod_no_follow(path: &[u8], mode: Mode) -> Result<(), Errno> {
    let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_retain(mode & 0o7777)
}

fn timestamps((access, modification): (u32, u32)) -> Timestamps {
    let time = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    Timestamps { last_access: time(access), last_modification: time(modification) }
}

/// All ones leaves the user as it is.
fn uid(id: u32) -> Option<Uid> {
    (id != u32::MAX).then(|| Uid::from_raw(id))
}

/// All ones leaves the group as it is.
fn gid(id: u32) -> Option<Gid> {
    (id != u32::MAX).then(|| Gid::from_raw(id))
}
