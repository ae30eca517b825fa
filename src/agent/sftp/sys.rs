//! The system calls that neither std nor rustix has a safe form of.
#![allow(unsafe_code, reason = "each function says why")]

use rustix::io::{Errno, pread};
use std::os::fd::AsFd;

/// Appends up to `length` bytes of the file at `offset` to `buffer`, and returns how many. rustix can read into a
/// vector's spare room without clearing it first, but only into the whole of it.
pub(super) fn pread_append(fd: impl AsFd, buffer: &mut Vec<u8>, length: usize, offset: u64) -> Result<usize, Errno> {
    buffer.reserve(length);
    let spare = buffer.spare_capacity_mut();
    let room = spare.len().min(length);
    let count = pread(fd, &mut spare[..room], offset)?.0.len();
    // SAFETY: the kernel has filled `count` bytes past the end, and the capacity holds at least `length`.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// A time as the clock on the wall shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalTime {
    pub(super) year: i64,
    /// From 0.
    pub(super) month: usize,
    pub(super) day: i32,
    pub(super) hour: i32,
    pub(super) minute: i32,
}

/// Converts seconds since 1970 in the time zone of `TZ` or `/etc/localtime`; nothing where the year has no number.
/// The C library knows the zone rules already, and a static musl binary finds them in any image.
pub(super) fn local_time(seconds: i64) -> Option<LocalTime> {
    #[allow(clippy::useless_conversion, reason = "the libc crate's time_t has 32 bits on some targets")]
    let seconds = seconds.try_into().ok()?;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types, and `localtime_r` keeps neither. It reads the
    // environment, which this process never changes. It has filled `parts` unless it returns null.
    let parts = unsafe {
        if libc::localtime_r(&seconds, parts.as_mut_ptr()).is_null() {
            return None;
        }
        parts.assume_init()
    };
    Some(LocalTime {
        year: i64::from(parts.tm_year) + 1900,
        month: usize::try_from(parts.tm_mon).ok()?,
        day: parts.tm_mday,
        hour: parts.tm_hour,
        minute: parts.tm_min,
    })
}
