//! Commands where the image lacks what `sshd`'s users count on: a shell, or `scp`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::{scp, words};
use crate::connection::message::INTERNAL_SFTP;

/// A shell's exit status for a command that makes no sense.
const SYNTAX: u8 = 2;

/// A shell's exit status for a command that is not there.
pub const NOT_FOUND: u8 = 127;

/// A shell's exit status for a command that cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;

/// `berth agent exec COMMAND`: does what `sh -c COMMAND` would, as far as [`words`] goes. Returns only where there is
/// nothing to run, with a shell's exit status; a line on standard error says why.
pub fn run(command: &OsStr) -> ExitCode {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let words = match words::expand(command.as_bytes(), &home) {
        Ok(words) => words,
        Err(words::Error::Unterminated) => return fail(SYNTAX, "unterminated quoted string"),
        Err(words::Error::TooLong) => return fail(NOT_EXECUTABLE, "argument list too long"),
    };
    let Some((program, arguments)) = words.split_first() else { return ExitCode::SUCCESS };
    if is_missing_scp(&words, &std::env::var_os("PATH").unwrap_or_default()) {
        return scp::run(arguments);
    }
    let error = Command::new(program).args(arguments).exec();
    let (status, reason) = not_runnable(program, &error);
    fail(status, &reason)
}

/// Standard error may be closed: `eprintln!` would panic.
fn fail(status: u8, reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "berth: {reason}");
    ExitCode::from(status)
}

/// Why a program does not run, as a shell says it: an exit status, and words.
pub fn not_runnable(program: &OsStr, error: &io::Error) -> (u8, String) {
    let program = program.display();
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => (NOT_FOUND, format!("{program}: not found")),
        Some(errno) => (NOT_EXECUTABLE, format!("{program}: {}", super::error::words(errno))),
        None => (NOT_EXECUTABLE, format!("{program}: {error}")),
    }
}

/// Puts the agent's own `scp` in the place of one that `command` calls and the `PATH` has not, for a shell to run: it
/// expands the other words, which is what clients expect it to do. `None` where there is nothing to replace.
pub fn with_own_scp(command: &OsStr, path: &OsStr) -> Option<OsString> {
    let words = words::split(command.as_bytes()).ok()?;
    let literals: Vec<OsString> = words.iter().map(words::Word::literal).collect();
    if !is_missing_scp(&literals, path) {
        return None;
    }
    let mut agent = std::env::current_exe().ok()?;
    if !agent.exists() {
        // Its file was removed once it ran.
        agent = format!("/proc/{}/exe", std::process::id()).into();
    }
    let quoted = agent.as_os_str().as_bytes().split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]);
    let rest = &command.as_bytes()[words.first()?.end..];
    Some(OsString::from_vec([b"'", &quoted[..], b"' agent scp", rest].concat()))
}

/// Whether `words` are a client's call of an `scp` that is not there.
fn is_missing_scp(words: &[OsString], path: &OsStr) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    let program = Path::new(program);
    program.file_name() == Some(OsStr::new("scp"))
        && scp::Call::parse(arguments).is_some()
        && !match program.parent() {
            // A name alone.
            Some(parent) if parent.as_os_str().is_empty() => {
                std::env::split_paths(path).any(|directory| is_executable(&directory.join(program)))
            }
            _ => is_executable(program),
        }
}

/// Whether a subsystem's command is the agent's own SFTP server: by name, or since the image lacks OpenSSH's.
pub fn is_own_sftp(command: &OsStr) -> bool {
    let Ok(words) = words::split(command.as_bytes()) else { return false };
    let program = words.first().map(words::Word::literal).unwrap_or_default();
    let program = Path::new(&program);
    command == INTERNAL_SFTP
        || program.is_absolute() && program.file_name() == Some(OsStr::new("sftp-server")) && !is_executable(program)
}

/// Whether there is such a program.
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{is_own_sftp, with_own_scp};
    use std::ffi::OsStr;

    #[test]
    fn openssh_sftp_server_is_the_agents_own_where_the_image_has_none() {
        for (command, own) in [
            ("internal-sftp", true),
            ("/no/such/sftp-server -l INFO", true),
            ("/bin/sh -c sftp-server", false),
            ("sftp-server", false),
            ("", false),
        ] {
            assert_eq!(is_own_sftp(OsStr::new(command)), own, "{command}");
        }
    }

    fn replaced(command: &str, path: &str) -> Option<String> {
        with_own_scp(OsStr::new(command), OsStr::new(path)).map(|command| command.into_string().unwrap())
    }

    #[test]
    fn a_missing_scp_is_replaced_and_the_rest_left_to_the_shell() {
        let agent = std::env::current_exe().unwrap();
        let expected = |rest: &str| Some(format!("'{}' agent scp{rest}", agent.display()));
        let none = "/nowhere:/proc";
        assert_eq!(replaced("scp -t ~/a\\ b; echo $?", none), expected(" -t ~/a\\ b; echo $?"));
        assert_eq!(replaced(" 'scp' '-f' *.txt", none), expected(" '-f' *.txt"));
        assert_eq!(replaced("/usr/no/scp -vrt \"$HOME\"", none), expected(" -vrt \"$HOME\""));
    }

    #[test]
    fn an_scp_that_is_there_and_anything_else_is_left_alone() {
        let directory = std::env::temp_dir().join(format!("berth-exec-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let scp = directory.join("scp");
        std::os::unix::fs::symlink("/bin/sh", &scp).unwrap();
        let path = format!("/nowhere:{}", directory.display());
        assert_eq!(replaced("scp -t x", &path), None);
        assert_eq!(replaced(&format!("{} -t x", scp.display()), "/nowhere"), None);
        std::fs::remove_dir_all(directory).unwrap();
        for command in ["scp a host:b", "scp", "scpx -t x", "echo scp -t", "exec scp -t x", "scp -t 'x", ""] {
            assert_eq!(replaced(command, "/nowhere"), None, "{command}");
        }
    }
}
