//! Child processes with a deadline.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, kill_process_group};

use super::process::{DEADLINE, Transcript, pid, wait};

/// The directory of the client libraries that `scripts/clients` has made ready.
pub fn libraries() -> PathBuf {
    made("clients").expect("scripts/clients has made the libraries ready")
}

/// A program of the newest OpenSSH, which `scripts/openssh` has unpacked.
pub fn newest_openssh(program: &str) -> String {
    let directory = made("openssh/bin").expect("scripts/openssh has unpacked OpenSSH");
    directory.join(program).into_os_string().into_string().unwrap()
}

/// A directory of the target directory, in which Cargo's for tests' files is, too.
fn made(name: &str) -> Option<PathBuf> {
    let mut candidates = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().map(|parent| parent.join(name));
    candidates.find(|path| path.is_dir())
}

/// A program that is about to be run: with the caller's PATH and nothing else of its environment, and with nothing to
/// read.
pub struct Client {
    command: Command,
    input: Option<Vec<u8>>,
    within: Duration,
}

impl Client {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        let inherited = std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "DOCKER_HOST");
        command.env_clear().envs(inherited).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Client { command, input: None, within: DEADLINE }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Leaves the caller's variable out.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What the program can read, up to the end of file.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self.stdin(Stdio::piped())
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Sets another deadline than the usual one.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// The program and its arguments, for another program that is to run it. What else was set here is lost.
    pub fn words(&self) -> Vec<OsString> {
        let program = self.command.get_program();
        std::iter::once(program).chain(self.command.get_args()).map(OsStr::to_owned).collect()
    }

    /// Another program, which runs this one as its last arguments say, in the same environment.
    pub fn under(&self, program: &str, arguments: &[&str]) -> Client {
        let variables = self.command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut client = Client::new(program).args(arguments).args(self.words());
        client.command.envs(variables);
        client
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(self) -> Ran {
        self.spawn().wait()
    }

    #[track_caller]
    pub fn spawn(mut self) -> Running {
        // So that what it starts can be killed along with it.
        self.command.process_group(0);
        let name = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut stdin = child.stdin.take();
        if let Some(input) = self.input {
            let mut stdin = stdin.take().unwrap();
            // A program that does not want it all just ends.
            std::thread::spawn(move || stdin.write_all(&input));
        }
        let stdout = child.stdout.take().map(Transcript::of).unwrap_or_else(Transcript::closed);
        let stderr = child.stderr.take().map(Transcript::of).unwrap_or_else(Transcript::closed);
        Running { name, child, stdin, stdout, stderr, end: Instant::now() + self.within }
    }
}

/// A program that runs. Killed when dropped.
pub struct Running {
    name: String,
    child: Child,
    /// Where the program reads from, if that is [`Stdio::piped`].
    pub stdin: Option<ChildStdin>,
    pub stdout: Transcript,
    pub stderr: Transcript,
    end: Instant,
}

impl Running {
    /// Writes to the program.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("stdin is piped").write_all(bytes).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(pid(&self.child), signal);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the program and of its output; its input ends now.
    #[track_caller]
    pub fn wait(mut self) -> Ran {
        drop(self.stdin.take());
        self.end_by(self.end)
    }

    /// As [`Running::wait`], for a program that has run for long.
    #[track_caller]
    pub fn end(&mut self) -> Ran {
        self.end_by(Instant::now() + DEADLINE)
    }

    #[track_caller]
    fn end_by(&mut self, end: Instant) -> Ran {
        let status = wait(&mut self.child, end);
        if status.is_none() {
            let _ = kill_process_group(pid(&self.child), Signal::KILL);
        }
        let output_ended = self.stdout.ended(end) && self.stderr.ended(end);
        let ran = Ran {
            name: self.name.clone(),
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            stdout: self.stdout.bytes(),
            stderr: self.stderr.text(),
        };
        assert!(status.is_some(), "it has hung: {ran:?}");
        assert!(output_ended, "somebody keeps its output open: {ran:?}");
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(pid(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// A program that has ended.
pub struct Ran {
    name: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    /// What it wrote to standard output.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts exit status 0.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Asserts what it wrote to standard output.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert_eq!(self.text(), text, "{self:?}");
        self
    }

    /// Asserts that a line of standard error holds these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "no {words:?} from {self:?}");
        self
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        let text = self.text();
        let text = if text.len() > 4096 { format!("{} bytes", text.len()) } else { text };
        write!(f, "{}: {end}\n--- stdout:\n{text}\n--- stderr:\n{}", self.name, self.stderr)
    }
}
