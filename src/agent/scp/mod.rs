//! The far end of `scp -O`, of `pscp -scp` and of the other clients of rcp's old protocol: `berth agent scp`, called as
//! a client calls the `scp` of an image that has none.
//!
//! The protocol was never written down: OpenSSH's `scp.c` is what counts. One side sends, here with `-f` ("from"), and
//! the other takes, here with `-t` ("to"). The sender's records are lines, for each of which, and for each file's
//! content, it waits for an answer: a NUL, or a complaint, which is 1 (a warning) or 2 (the end) and a line of text.
//!
//! - `C0644 5 name`: a file of 5 bytes, which follow once the line is answered, and after them the sender's own NUL or
//!   complaint;
//! - `D0755 0 name`: a directory; what comes up to its `E` is in it;
//! - `T1000000000 0 1000000000 0`: the times of modification and access of what comes next, with `-p`.
//!
//! The taker answers first of all, before the first record. What OpenSSH's `scp` does and a client can see, this one
//! does too: messages, modes, the order of things. A client that neither reads nor writes stops it in the middle;
//! whoever started the process ends it with the session.

mod call;
mod fuzz;
mod peer;
mod record;
mod sink;
mod source;

pub use call::{Call, Role};
pub(crate) use fuzz::fuzz;

use peer::{End, Peer};
use rustix::fs::Mode;
use rustix::process::umask;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

/// Runs `scp ARGUMENTS` on the process's standard input and output. Exits with 1 where something went wrong, as
/// OpenSSH's does, and the client has been told.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some(call) = Call::parse(arguments) else {
        tell("berth: scp: only the far end of a copy can be called here: scp -f or scp -t");
        return ExitCode::FAILURE;
    };
    // There is no other way to learn it. With -p, modes are taken as they are told.
    let mask = umask(Mode::empty());
    if !call.preserve {
        umask(mask);
    }
    let went_well = super::streams().is_ok_and(|(input, output)| serve(&call, mask, input, output));
    if went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Serves one call to its end. Files are opened as the process's own user, and relative paths start in its working
/// directory. The process's umask should be `umask`, or with -p none. Neither stream should have a buffer of its own.
/// Returns whether all went well.
pub fn serve(call: &Call, umask: Mode, input: impl Read, output: impl Write) -> bool {
    let mut peer = Peer::new(input, output);
    let result = match call.role {
        Role::Source => source::send(&mut peer, call),
        Role::Sink => sink::receive(&mut peer, call, umask),
    };
    match result {
        Ok(()) => !peer.complained(),
        Err(End::Fatal(problem)) => {
            let _ = peer.complain(&problem);
            false
        }
        Err(End::Lost) => false,
    }
}

/// Tells the user, as `scp -v` does. Standard error may be closed: `eprintln!` would panic.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
