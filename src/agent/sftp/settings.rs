//! What an SFTP server is called with, put into effect.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::{getuid, umask};

use super::DRAFT_SYMLINKS;
use crate::agent::{complain, passwd};
use crate::connection::hello::SymlinkOrder;
use crate::connection::sftp_server::{Call, Options, REQUESTS, expand};

/// The usage, as sftp-server(8) has it.
const USAGE: &str = "usage: sftp-server [-ehR] [-d start_directory] [-f log_facility]\n\t[-l log_level] [-m mode] \
                     [-P denied_requests]\n\t[-p allowed_requests] [-u umask]\n       sftp-server -Q requests";

/// Runs `berth agent sftp` with these words: sftp-server(8)'s options, behind [`DRAFT_SYMLINKS`] where that is so.
pub fn run(words: &[OsString]) -> ExitCode {
    let (symlinks, words) = match words.split_first() {
        Some((first, rest)) if first == DRAFT_SYMLINKS => (SymlinkOrder::Draft, rest),
        _ => (SymlinkOrder::OpenSsh, words),
    };
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    match Call::parse(&words) {
        Ok(Call::Serve(options)) => {
            prepare(&options);
            crate::agent::report(super::serve_stdio(*options, symlinks))
        }
        Ok(Call::Query) => {
            let names: String = REQUESTS.iter().map(|(name, _)| format!("{name}\n")).collect();
            let _ = std::io::stdout().write_all(names.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Call::Help) => {
            let _ = writeln!(std::io::stderr(), "{USAGE}");
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("sftp: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Sets the umask, and goes to where the session starts. As with OpenSSH's server, it starts where the process does where
/// that cannot be.
fn prepare(options: &Options) {
    if let Some(mask) = options.umask {
        umask(Mode::from_bits_retain(mask));
    }
    let Some(directory) = &options.directory else { return };
    let entry = passwd::by_uid(getuid().as_raw());
    let variable = |name| std::env::var_os(name).unwrap_or_default().into_vec();
    let (home, user) = match entry {
        Some(entry) => (entry.home.into_vec(), entry.name.into_vec()),
        // A container may run a user that its image does not know.
        None => (variable("HOME"), variable("USER")),
    };
    let directory = OsString::from_vec(expand(directory, &home, &user).unwrap_or_default());
    if let Err(error) = std::env::set_current_dir(&directory) {
        complain(&format!("sftp: chdir to {directory:?} failed: {error}"));
    }
}
