//! Asking a person at a terminal for a new password.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::output::complain;

/// The longest line that a terminal gives, in bytes: N_TTY's buffer.
const LONGEST_LINE: usize = 4096;

/// Asks at `terminal` for a password, twice, until it is the same both times. Nothing of it is shown. The prompts go to
/// standard error. An empty line is a password without a character.
///
/// # Errors
/// Where the terminal cannot be read, or its person wants to leave: by the key for that, or a signal.
pub fn new_password(terminal: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let silent = Silent::new(terminal)?;
    loop {
        let password = silent.ask("Password: ")?;
        if password.is_empty() || silent.ask("The same again: ")? == password {
            return Ok(password);
        }
        complain(format_args!("These differ; try again.\n"));
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
    /// Readable once a signal has come that would have ended the program with the terminal as it is.
    signalled: UnixStream,
}

impl<'a> Silent<'a> {
    fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let (signalled, signals) = UnixStream::pair()?;
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, signals.try_clone()?)?;
        }
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK);
        // The end of a line moves on, at least.
        modes.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        modes.input_modes.insert(InputModes::ICRNL);
        // Whoever stopped the program would have a terminal that shows nothing.
        modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
        // What was typed before the prompt was shown, and is no password.
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Silent { terminal, before, signalled })
    }

    fn ask(&self, prompt: &str) -> io::Result<Vec<u8>> {
        complain(format_args!("{prompt}"));
        loop {
            let mut fds = [PollFd::new(&self.terminal, PollFlags::IN), PollFd::new(&self.signalled, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => {
                    complain(format_args!("\n"));
                    return Err(io::Error::other("interrupted"));
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A line, since the terminal gives those.
        let mut line = vec![0; LONGEST_LINE];
        let count = rustix::io::read(self.terminal.as_fd(), &mut line)?;
        line.truncate(count);
        if line.pop_if(|last| *last == b'\n').is_none() {
            // The key for the end of file.
            complain(format_args!("\n"));
        }
        Ok(line)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // It fails where the terminal is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
