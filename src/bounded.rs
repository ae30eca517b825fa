//! Reading files that may be of any length.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads what is in a file, or `None` where that is more than `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    read_from(File::open(path)?, most)
}

/// The same of a file that is open.
pub(crate) fn read_from(file: File, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
