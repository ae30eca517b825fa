//! Commands where the image lacks what `sshd`'s users count on: a shell, `scp`, or `sftp-server`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::{scp, sftp, words};
use crate::connection::hello::SymlinkOrder;

/// A shell's exit status for a command that makes no sense.
const SYNTAX: u8 = 2;

/// A shell's exit status for a command that is not there.
pub const NOT_FOUND: u8 = 127;

/// The exit status of what cannot be done as it was asked for: as of a failed `ssh`.
pub const UNABLE: u8 = 255;

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

/// Puts the agent's own `scp` or SFTP server in the place of one that `command` calls and the image has not, for a shell to
/// run: it expands the other words, which is what clients and configurations expect it to do. `None` where there is
/// nothing to replace.
pub fn with_own(command: &OsStr, path: &OsStr, symlinks: SymlinkOrder) -> Option<OsString> {
    let words = words::split(command.as_bytes()).ok()?;
    let literals: Vec<OsString> = words.iter().map(words::Word::literal).collect();
    let own = match () {
        () if is_missing_scp(&literals, path) => "scp".to_owned(),
        () if is_missing_sftp(&literals) => sftp::arguments(symlinks).join(" "),
        () => return None,
    };
    let mut agent = std::env::current_exe().ok()?;
    if !agent.exists() {
        // Its file was removed once it ran.
        agent = format!("/proc/{}/exe", std::process::id()).into();
    }
    let quoted = agent.as_os_str().as_bytes().split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]);
    let rest = &command.as_bytes()[words.first()?.end..];
    Some(OsString::from_vec([b"'", &quoted[..], b"' agent ", own.as_bytes(), rest].concat()))
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

/// Whether `words` are a call of an `sftp-server`, by a path, that is not there.
pub fn is_missing_sftp(words: &[OsString]) -> bool {
    let Some(program) = words.first().map(Path::new) else { return false };
    program.is_absolute() && program.file_name() == Some(OsStr::new("sftp-server")) && !is_executable(program)
}

/// The words of a command that a shell would leave as they are. `None` where it has something to do.
pub fn plain_words(command: &OsStr) -> Option<Vec<&[u8]>> {
    let command = command.as_bytes();
    let is_plain = !command.iter().any(|byte| b"\\'\"`$&|;<>()*?[]{}~#!\n".contains(byte));
    is_plain.then(|| command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect())
}

/// Whether there is such a program.
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{plain_words, with_own};
    use crate::connection::hello::SymlinkOrder;
    use std::ffi::OsStr;

    fn replaced_for(symlinks: SymlinkOrder, command: &str, path: &str) -> Option<String> {
        let replaced = with_own(OsStr::new(command), OsStr::new(path), symlinks);
        replaced.map(|command| command.into_string().unwrap())
    }

    fn replaced(command: &str, path: &str) -> Option<String> {
        replaced_for(SymlinkOrder::OpenSsh, command, path)
    }

    #[test]
    fn a_missing_sftp_server_is_replaced_and_its_options_left_to_the_shell() {
        let agent = std::env::current_exe().unwrap();
        let expected = |rest: &str| Some(format!("'{}' agent sftp{rest}", agent.display()));
        assert_eq!(replaced("/no/such/sftp-server", ""), expected(""));
        assert_eq!(replaced("/no/such/sftp-server -R -d \"$HOME\"", ""), expected(" -R -d \"$HOME\""));
        let draft = replaced_for(SymlinkOrder::Draft, "/no/such/sftp-server -R", "");
        assert_eq!(draft, expected(" --draft-symlinks -R"));
        for command in ["/bin/sh -c sftp-server", "sftp-server -R", "", "echo /no/such/sftp-server"] {
            assert_eq!(replaced(command, "/nowhere"), None, "{command}");
        }
    }

    #[test]
    fn words_are_plain_where_a_shell_has_nothing_to_do_with_them() {
        let words: Option<Vec<&[u8]>> = Some(vec![b"/s/sftp-server", b"-d", b"/srv/%u"]);
        assert_eq!(plain_words(OsStr::new("/s/sftp-server  -d /srv/%u ")), words);
        for command in ["a $HOME", "a; b", "a 'b'", "a ~", "a >b", "a \\b"] {
            assert_eq!(plain_words(OsStr::new(command)), None, "{command}");
        }
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
