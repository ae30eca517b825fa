//! What a session runs, and how it starts.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::Winsize;

use super::channel::Ends;
use super::environment::{self, Sources};
use super::exec::{self, NOT_FOUND, UNABLE, is_executable};
use super::host::{Host, Requested, Started};
use super::passwd;
use super::pty::Pty;
use super::{sftp, system, words};
use crate::connection::hello::{Hello, SymlinkOrder};
use crate::connection::sftp_server::{self, Call};
use crate::connection::wire::Malformed;

const SHELL: &str = "/bin/sh";

/// The agent's own container, as a [`Host`].
#[derive(Debug, Default)]
pub struct Local {
    /// The image's command.
    pub command: Vec<OsString>,
    /// The client's, for the SFTP server.
    pub symlinks: SymlinkOrder,
}

/// What a client asked a session to run.
#[derive(Debug)]
pub enum Start {
    /// A login shell.
    Shell,
    /// A command, for the shell to understand.
    Exec(OsString),
    /// The command of a subsystem, `internal-sftp` and its options for this program's own.
    Subsystem(OsString),
}

impl Host for Local {
    type Terminal = Pty;
    /// The leader of a session and process group of its own.
    type Process = Pid;

    const FORWARDS: bool = true;

    fn greeted(&mut self, hello: &Hello) {
        self.symlinks = hello.symlinks;
    }

    fn open_terminal(&mut self, size: Winsize, modes: &[u8]) -> Result<Option<Pty>, Malformed> {
        let pty = match Pty::open() {
            Ok(pty) => pty,
            Err(error) => {
                log::warn!("no pseudo-terminal: {error}; is /dev/pts mounted in the container?");
                return Ok(None);
            }
        };
        pty.set_modes(modes)?;
        pty.set_size(size);
        Ok(Some(pty))
    }

    fn resize(&mut self, pty: &mut Pty, _leader: Option<&Pid>, size: Winsize) {
        pty.set_size(size);
    }

    fn send_break(&mut self, pty: &Pty) -> bool {
        pty.send_break()
    }

    fn start(&mut self, start: &Start, requested: Requested<'_, Pty>) -> io::Result<(Started<Pid>, Ends)> {
        let pty = requested.terminal;
        let entry = passwd::by_uid(rustix::process::getuid().as_raw());
        let bin_sh = is_executable(Path::new(SHELL)).then_some(OsStr::new(SHELL));
        let shell = entry.as_ref().map(|entry| entry.shell.as_os_str()).filter(|shell| is_executable(Path::new(shell)));
        let environment = environment::build(Sources {
            container: std::env::vars_os().collect(),
            requested: requested.variables,
            entry: entry.as_ref(),
            shell: shell.or(bin_sh),
            server: requested.server,
            terminal: pty.map(|(term, pty)| (term, pty.path.as_os_str())),
            forwarded: requested.forwarded.variables(),
        });
        requested.forwarded.prepare(&environment);
        let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str).unwrap_or_default();
        let program = choose(start, shell, bin_sh, self, path);
        let directory = directory(&environment);
        let (ends, theirs) = match pty {
            Some((_, pty)) => terminal_ends(pty)?,
            // Standard error of a subsystem is nothing that its client would understand: it goes to the container's
            // log.
            None => pipe_ends(!matches!(start, Start::Subsystem(_)) || program.is_err())?,
        };
        let complaint = theirs.error.as_ref().unwrap_or(&theirs.output).try_clone()?;
        let result = program.and_then(|program| program.spawn(theirs, environment, pty.is_some(), directory));
        match result {
            Ok(pid) => Ok((Started::Running(pid), ends)),
            Err(Failure::NotRunnable(status, reason)) => {
                // A few words fit into an empty pipe or terminal.
                let _ = rustix::io::write(&complaint, format!("berth: {reason}\n").as_bytes());
                Ok((Started::NotRunning(status.into()), ends))
            }
            Err(Failure::Resources(error)) => Err(error),
        }
    }

    fn signal(&mut self, leader: &Pid, signal: Signal) -> bool {
        kill_process_group(*leader, signal).is_ok()
    }
}

/// The program's own ends.
struct Theirs {
    input: OwnedFd,
    output: OwnedFd,
    error: Option<OwnedFd>,
}

fn terminal_ends(pty: &Pty) -> io::Result<(Ends, Theirs)> {
    let slave = pty.open_slave()?;
    let master = Rc::new(pty.master.try_clone()?);
    let ends = Ends { input: Rc::clone(&master), output: master, error: None };
    let error = Some(slave.try_clone()?);
    Ok((ends, Theirs { input: slave.try_clone()?, output: slave, error }))
}

fn pipe_ends(with_error: bool) -> io::Result<(Ends, Theirs)> {
    let (their_input, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, their_error) = if with_error { Some(pipe_with(PipeFlags::CLOEXEC)?).unzip() } else { (None, None) };
    // Ours only: the program's ends have flags of their own, and programs do not expect EAGAIN.
    for end in [Some(&input), Some(&output), error.as_ref()].into_iter().flatten() {
        fcntl_setfl(end, OFlags::NONBLOCK)?;
    }
    let ends = Ends { input: Rc::new(input), output: Rc::new(output), error: error.map(Rc::new) };
    Ok((ends, Theirs { input: their_input, output: their_output, error: their_error }))
}

/// Why there is no process.
#[derive(Debug)]
enum Failure {
    /// With the exit status and words of a shell.
    NotRunnable(u8, String),
    Resources(io::Error),
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: OsString,
    /// The program's name to itself, where that is not its path.
    name: Option<OsString>,
    arguments: Vec<OsString>,
}

/// Decides what runs. `shell` is that of the passwd entry, if there is one that can run, and `bin_sh` /bin/sh, if that
/// can. An image may have neither (FROM scratch): then the agent takes a shell's place. `path` is the session's PATH.
fn choose(
    start: &Start,
    shell: Option<&OsStr>,
    bin_sh: Option<&OsStr>,
    local: &Local,
    path: &OsStr,
) -> Result<Program, Failure> {
    if let Start::Subsystem(command) = start
        && let Some(words) = sftp_server::internal(command.as_bytes())
    {
        return sftp(sftp_server::INTERNAL, &words, local);
    }
    Ok(match (start, shell, shell.or(bin_sh)) {
        (Start::Exec(command) | Start::Subsystem(command), _, Some(shell)) => {
            let own = exec::with_own(command, path, local.symlinks);
            if let (Some(_), Some([program, words @ ..])) = (&own, exec::plain_words(command).as_deref())
                && program.ends_with(b"sftp-server")
            {
                // What the shell starts could tell nobody but the log.
                sftp("sftp-server", words, local)?;
            }
            let arguments = vec!["-c".into(), own.unwrap_or_else(|| command.clone())];
            Program { path: shell.into(), name: Some(base_name(shell).into()), arguments }
        }
        (Start::Exec(command) | Start::Subsystem(command), _, None) => {
            let words = words::split(command.as_bytes()).unwrap_or_default();
            let words: Vec<OsString> = words.iter().map(words::Word::literal).collect();
            if exec::is_missing_sftp(&words) {
                let words: Vec<&[u8]> = words.iter().skip(1).map(|word| word.as_bytes()).collect();
                return sftp("sftp-server", &words, local);
            }
            agent(["exec".into(), command.clone()])
        }
        (Start::Shell, Some(shell), _) => login(shell),
        (Start::Shell, None, Some(shell)) if local.command.is_empty() => login(shell),
        (Start::Shell, ..) => match local.command.split_first() {
            Some((path, arguments)) => Program { path: path.clone(), name: None, arguments: arguments.to_vec() },
            None => return Err(Failure::NotRunnable(NOT_FOUND, "no shell and no command in this image".into())),
        },
    })
}

/// The agent's own SFTP server, called by this name and with these words.
fn sftp(name: &str, words: &[&[u8]], local: &Local) -> Result<Program, Failure> {
    Call::parse(words).map_err(|error| Failure::NotRunnable(UNABLE, format!("{name}: {error}")))?;
    let words = words.iter().map(|word| OsStr::from_bytes(word).to_owned());
    Ok(agent(sftp::arguments(local.symlinks).iter().map(OsString::from).chain(words)))
}

/// This program, as `berth agent ARGUMENTS`.
fn agent(arguments: impl IntoIterator<Item = OsString>) -> Program {
    let arguments = std::iter::once("agent".into()).chain(arguments).collect();
    Program { path: "/proc/self/exe".into(), name: Some("berth".into()), arguments }
}

/// A login shell knows by the dash that it is one.
fn login(shell: &OsStr) -> Program {
    let mut name = OsString::from("-");
    name.push(base_name(shell));
    Program { path: shell.into(), name: Some(name), arguments: Vec::new() }
}

fn base_name(path: &OsStr) -> &OsStr {
    Path::new(path).file_name().unwrap_or(path)
}

/// Where a process starts: where the image says (WORKDIR, and so PID 1's own directory), or else at home.
fn directory(environment: &BTreeMap<OsString, OsString>) -> Option<CString> {
    if std::env::current_dir().is_ok_and(|directory| directory != Path::new("/")) {
        return None;
    }
    CString::new(environment.get(OsStr::new("HOME"))?.as_bytes()).ok()
}

impl Program {
    fn spawn(
        self,
        ends: Theirs,
        environment: BTreeMap<OsString, OsString>,
        terminal: bool,
        directory: Option<CString>,
    ) -> Result<Pid, Failure> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear().envs(environment);
        command.stdin(Stdio::from(ends.input)).stdout(Stdio::from(ends.output));
        command.stderr(ends.error.map_or_else(Stdio::inherit, Stdio::from));
        command.arg0(self.name.as_ref().unwrap_or(&self.path));
        system::session_leader(&mut command, terminal, directory);
        // The child is not waited for here: the loop reaps whatever ends.
        match command.spawn() {
            Ok(child) => i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| Failure::Resources(io::Error::other("a process id out of range"))),
            Err(error) => Err(self.failure(error)),
        }
    }

    fn failure(&self, error: io::Error) -> Failure {
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Failure::Resources(error),
            errno => {
                let (status, reason) = exec::not_runnable(&self.path, &error);
                // The command is too long: as with sshd.
                Failure::NotRunnable(if errno == Some(Errno::TOOBIG) { 1 } else { status }, reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use super::{Failure, Local, Start, choose};

    fn chosen(start: Start, shell: Option<&str>, command: &[&str], bin_sh: bool) -> String {
        let command: Vec<OsString> = command.iter().map(Into::into).collect();
        let bin_sh = bin_sh.then_some(OsStr::new("/bin/sh"));
        let local = Local { command, ..Local::default() };
        match choose(&start, shell.map(OsStr::new), bin_sh, &local, OsStr::new("")) {
            Ok(program) => {
                let name = program.name.map_or(String::new(), |name| format!(" as {}", name.display()));
                format!("{}{name} {:?}", program.path.display(), program.arguments)
            }
            Err(Failure::NotRunnable(status, words)) => format!("{status}: {words}"),
            Err(Failure::Resources(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn a_shell_request_runs_the_passwd_shell_else_the_images_command_else_bin_sh() {
        assert_eq!(chosen(Start::Shell, Some("/bin/bash"), &["top"], true), "/bin/bash as -bash []");
        assert_eq!(chosen(Start::Shell, None, &["top", "-b"], true), "top [\"-b\"]");
        assert_eq!(chosen(Start::Shell, None, &[], true), "/bin/sh as -sh []");
        assert_eq!(chosen(Start::Shell, None, &[], false), "127: no shell and no command in this image");
    }

    #[test]
    fn a_command_is_the_shells_to_understand_or_the_agents_where_there_is_no_shell() {
        let exec = || Start::Exec(" echo  'a b' ".into());
        assert_eq!(chosen(exec(), Some("/bin/bash"), &[], true), "/bin/bash as bash [\"-c\", \" echo  'a b' \"]");
        assert_eq!(chosen(exec(), None, &["top"], true), "/bin/sh as sh [\"-c\", \" echo  'a b' \"]");
        let agent = r#"/proc/self/exe as berth ["agent", "exec", " echo  'a b' "]"#;
        assert_eq!(chosen(exec(), None, &["top"], false), agent);
    }

    #[test]
    fn the_built_in_sftp_server_takes_options_and_refuses_what_it_cannot_honour() {
        let subsystem = |command: &str, bin_sh| chosen(Start::Subsystem(command.into()), None, &[], bin_sh);
        let own = |options: &str| format!("/proc/self/exe as berth [\"agent\", \"sftp\"{options}]");
        assert_eq!(subsystem("internal-sftp", true), own(""));
        assert_eq!(subsystem("internal-sftp -R  -u 077", true), own(r#", "-R", "-u", "077""#));
        assert_eq!(subsystem("internal-sftp -x", true), "255: internal-sftp: there is no option -x");
        assert_eq!(subsystem("/no/sftp-server -x", true), "255: sftp-server: there is no option -x");
        assert_eq!(subsystem("/no/sftp-server '-R'", false), own(r#", "-R""#));
        assert_eq!(
            subsystem("/no/sftp-server -P unlink", false),
            r#"255: sftp-server: -P: there is no request "unlink""#
        );
        let agent = std::env::current_exe().unwrap();
        let by_shell = format!(r#"/bin/sh as sh ["-c", "'{}' agent sftp -R"]"#, agent.display());
        assert_eq!(subsystem("/no/sftp-server -R", true), by_shell);
        // As a forced command is run.
        assert_eq!(chosen(Start::Exec("/no/sftp-server -R".into()), None, &[], true), by_shell);
    }
}
