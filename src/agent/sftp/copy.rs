//! `copy-data`: from one open file to another, in the kernel where it can.

use super::handles::File;
use super::reply::Status;
use rustix::fs::{copy_file_range, fstat};
use rustix::io::{pread, pwrite, write};
use std::os::fd::OwnedFd;

/// How much is copied at a time where the kernel cannot, in bytes.
const CHUNK: usize = 64 * 1024;

/// How much the kernel is asked to copy at a time, in bytes.
const RANGE: usize = 1024 * 1024 * 1024;

/// Copies `length` bytes, or where that is 0 up to the end of the file.
///
/// # Errors
/// [`Status::EndOfFile`] where `from` has fewer bytes: those are copied. (OpenSSH means to say so too, but reports
/// success where the last 64 KiB asked for meet the end, or cannot be written.) [`Status::Failure`] for a file onto itself.
pub(super) fn copy(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> Result<(), Status> {
    let (source, target) = (fstat(&from.fd)?, fstat(&to.fd)?);
    if (source.st_dev, source.st_ino) == (target.st_dev, target.st_ino) {
        return Err(Status::Failure);
    }
    let to_the_end = length == 0;
    let mut rest = Range { from_offset, to_offset, left: if to_the_end { u64::MAX - from_offset } else { length } };
    // The kernel never copies to a file that is open for appending.
    if !to.append {
        rest.copy_in_kernel(&from.fd, &to.fd);
    }
    rest.copy_through_buffer(&from.fd, to)?;
    if rest.left == 0 || to_the_end { Ok(()) } else { Err(Status::EndOfFile) }
}

/// What is still to copy.
struct Range {
    from_offset: u64,
    to_offset: u64,
    left: u64,
}

impl Range {
    fn advance(&mut self, count: usize) {
        let count = count as u64;
        self.from_offset = self.from_offset.saturating_add(count);
        self.to_offset = self.to_offset.saturating_add(count);
        self.left = self.left.saturating_sub(count);
    }

    /// Copies as far as the kernel can. Not an error where it stops: kernels refuse some pairs of file systems, and
    /// some take a file of /proc for an empty one, so reading and writing has the last word.
    fn copy_in_kernel(&mut self, from: &OwnedFd, to: &OwnedFd) {
        while self.left > 0 {
            let (mut from_offset, mut to_offset) = (self.from_offset, self.to_offset);
            let length = usize::try_from(self.left).unwrap_or(RANGE).min(RANGE);
            match copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length) {
                Ok(count) if count > 0 => self.advance(count),
                _ => return,
            }
        }
    }

    /// Copies up to the end of the file.
    fn copy_through_buffer(&mut self, from: &OwnedFd, to: &File) -> Result<(), Status> {
        let mut buffer = vec![0; usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK)];
        while self.left > 0 {
            let length = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
            let count = pread(from, buffer.get_mut(..length).unwrap_or_default(), self.from_offset)?;
            if count == 0 {
                return Ok(());
            }
            let mut data = buffer.get(..count).unwrap_or_default();
            while !data.is_empty() {
                let written = if to.append { write(&to.fd, data)? } else { pwrite(&to.fd, data, self.to_offset)? };
                if written == 0 {
                    return Err(Status::Failure);
                }
                self.advance(written);
                data = data.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }
}
