//! What the command line prints. Whoever reads it may have seen enough, as `head` does, and standard error may be closed:
//! `print!` and `eprint!` would panic.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Writes to standard output.
///
/// # Errors
/// Where it cannot be written, as on a full disk; [`Failure::Unread`] where nobody reads it any more.
pub fn print(text: Arguments<'_>) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_fmt(text).and_then(|()| output.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Failed(format!("standard output: {error}")),
    })
}

/// Writes to standard error, as far as that goes.
pub fn complain(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}
