//! What runs in the container.
//!
//! `berth agent` is the container's PID 1. It has a stream to the server, and behaves towards the client as the connection
//! layer of `sshd` does; transport and authentication ended at the server. One process, one thread, one poll loop:
//!
//! - `init`: the loop itself, signals, and reaping, as PID 1 must;
//! - `connection`: takes messages apart and hands them on: one line per message number and per channel type;
//! - `channel`: what all channels share: windows, buffers, EOF and CLOSE;
//! - `session`: the channel type `session`, with `pty`, `process`, and what goes into a process's surroundings;
//! - `forward`: all other channel types, which end at sockets.
//!
//! What an image may lack is here as well, and runs as a process of its session: `sftp`, `scp`, and for commands `exec`.
//!
//! All but `init`, `process` and `forward` also serves clients whose containers have no agent: see [`Host`].
//!
//! `docs/PROTOCOL.md` describes the stream.

mod accounts;
mod buffer;
mod channel;
mod connection;
#[cfg(test)]
mod connection_tests;
mod endpoint;
mod environment;
mod error;
mod exec;
mod forward;
mod fuzz;
mod glob;
mod handover;
mod host;
mod init;
mod modes;
mod outbound;
mod passwd;
mod process;
mod pty;
pub mod scp;
mod session;
pub mod sftp;
mod signal;
mod system;
mod words;

pub use channel::Ends;
pub use connection::Connection;
pub use endpoint::{Endpoint, Round};
pub use environment::Variables;
pub use error::Error;
pub use forward::Forwarded;
pub(crate) use fuzz::FUZZ_TARGETS;
pub use host::{Exit, Host, Requested, Started};
pub use process::Start;
pub use signal::name as signal_name;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use init::Server;

/// Runs `berth agent` with the arguments that follow the word `agent`:
///
/// - `--socket PATH`, `--stdio` or `--listen PATH`, then perhaps `-- COMMAND...`: serves the connection at PATH, on
///   standard input and output, or on those of whoever joins, until it ends. COMMAND, the image's own, is what a `shell`
///   request runs where the container's user has no passwd entry. With `--unlink` the program's file is removed first;
/// - `join PATH`: gives its standard input and output to the agent that listens at PATH;
/// - `install PATH`: copies this program there;
/// - `wait`: keeps a container running that agents come and go in;
/// - `unlink`: removes the program's file, no more.
///
/// and, started by the agent itself in sessions:
///
/// - `sftp [--draft-symlinks] OPTIONS`: the SFTP subsystem on standard input and output, with sftp-server(8)'s options;
/// - `scp ARGUMENTS`: the far end of a client's `scp`, likewise;
/// - `exec COMMAND`: a command in an image without a shell.
///
/// Exits with 0 where the stream or SIGTERM ended it, 1 after an error (told on standard error, so in the container's
/// log), 2 for wrong arguments; `exec` with what a shell would.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match args.split_first() {
        Some((word, arguments)) if word == "sftp" => return sftp::run(arguments),
        Some((word, arguments)) if word == "scp" => return scp::run(arguments),
        Some((word, [command])) if word == "exec" => return exec::run(command),
        Some((word, [])) if word == "wait" => return report(init::wait_for_end()),
        Some((word, [])) if word == "unlink" => return report(unlink()),
        Some((word, [path])) if word == "join" => return report(handover::join(path.as_ref())),
        Some((word, [path])) if word == "install" => return report(handover::install(path)),
        _ => {}
    }
    match parse(args) {
        Ok(Call { server, unlinks, command }) => {
            if unlinks && let Err(error) = unlink() {
                complain(&format!("cannot remove its own file: {error}"));
            }
            report(init::run(&server, command))
        }
        Err(problem) => {
            complain(&format!("{problem}; usage: berth agent --socket PATH|--stdio|--listen PATH [-- COMMAND...]"));
            ExitCode::from(2)
        }
    }
}

/// The arguments of an agent that serves.
struct Call {
    server: Server,
    unlinks: bool,
    command: Vec<OsString>,
}

/// Removes this program's file, and the directory that was made for it.
fn unlink() -> io::Result<()> {
    let file = std::env::current_exe()?;
    std::fs::remove_file(&file)?;
    let directory = file.parent().filter(|directory| directory.file_name().is_some_and(is_own));
    directory.map_or(Ok(()), std::fs::remove_dir)
}

/// Whether a directory of this name is made for the agent's file alone: see the Kubernetes backend's upload.
fn is_own(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".berth-")
}

fn parse(args: Vec<OsString>) -> Result<Call, String> {
    let mut args = args.into_iter();
    let (mut server, mut unlinks) = (None, false);
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        } else if arg == "--socket" {
            server = Some(Server::Socket(args.next().ok_or("--socket needs a path")?.into()));
        } else if arg == "--listen" {
            server = Some(Server::Listen(args.next().ok_or("--listen needs a path")?.into()));
        } else if arg == "--stdio" {
            server = Some(Server::Stdio);
        } else if arg == "--unlink" {
            unlinks = true;
        } else {
            return Err(format!("unknown argument {:?}", arg.as_os_str() as &OsStr));
        }
    }
    Ok(Call { server: server.ok_or("--socket, --stdio or --listen is missing")?, unlinks, command: args.collect() })
}

fn report<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The process's standard input and output, without the small buffers of std's own handles, which would cut large
/// packets to pieces.
fn streams() -> io::Result<(File, File)> {
    let (input, output) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    Ok((input.into(), output.into()))
}

/// Tells the container's log. That may be closed: `eprintln!` would panic.
fn complain(problem: &str) {
    let _ = writeln!(io::stderr(), "berth agent: {problem}");
}

#[cfg(test)]
mod tests {
    use super::{Server, parse};

    fn args(line: &str) -> Vec<std::ffi::OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn everything_after_two_dashes_is_the_image_command() {
        let call = parse(args("--socket /run/s -- sh --socket x")).unwrap();
        assert_eq!(call.server, Server::Socket("/run/s".into()));
        assert_eq!(call.command, args("sh --socket x"));
        let call = parse(args("--stdio --unlink")).unwrap();
        assert_eq!((call.server, call.unlinks, call.command), (Server::Stdio, true, Vec::new()));
        let call = parse(args("--listen /s -- sh")).unwrap();
        assert_eq!((call.server, call.command), (Server::Listen("/s".into()), args("sh")));
    }

    #[test]
    fn a_missing_socket_or_an_unknown_argument_is_an_error() {
        assert!(parse(args("-- sh")).is_err());
        assert!(parse(args("--socket")).is_err());
        assert!(parse(args("--socket /run/s sh")).is_err());
    }
}
