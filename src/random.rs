//! Bytes that nobody can foretell.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// New ones, from the kernel: 256 at most, for so many come whole (getrandom(2)).
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
