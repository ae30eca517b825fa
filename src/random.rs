//! Bytes that nobody can foretell.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::hex;

/// New ones, from the kernel: 256 at most, for so many come whole (getrandom(2)).
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// A name that nobody else has: 32 hexadecimal digits.
pub(crate) fn name() -> io::Result<String> {
    Ok(hex::encode(&bytes::<16>()?))
}
