//! Programs of the host's that berth runs, and whose output it reads.
#![allow(unsafe_code, reason = "what runs between fork and exec is unsafe by nature")]

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::http::Deadline;

/// The most that is read of what a program complains of, in bytes.
const COMPLAINT_LIMIT: usize = 2000;

/// How often it is looked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// Why a program's output is of no use.
#[derive(Debug)]
pub(crate) enum Error {
    /// It could not be started.
    Start(io::Error),
    /// It did not end with status 0, or was ended; with its complaint.
    Run(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Start(error) => error.fmt(f),
            Error::Run(detail) => f.write_str(detail),
        }
    }
}

/// Runs a program for `patience` at most, with no descriptors but the standard three and nothing to read. Gives what it
/// printed, up to `limit` bytes, and what it complained of. Ends it, with all that it has started, where it takes too
/// long, prints too much, or is not wanted any more, and with this thread.
pub(crate) fn run(
    mut command: Command,
    limit: usize,
    patience: Duration,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(Vec<u8>, String), Error> {
    let alone = || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // SAFETY: only marks descriptors close-on-exec; none is closed or created. Kernels before Linux 5.11 have no such
        // call; all that berth itself opens is close-on-exec anyway.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe system calls only, allocates nothing, and touches no lock.
    unsafe { command.pre_exec(alone) };
    // A group of its own, so that all that it starts can be ended with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    Running(command.spawn().map_err(Error::Start)?).finish(limit, patience, is_wanted).map_err(Error::Run)
}

/// A program that runs. Ended, with all that it has started, when dropped.
struct Running(Child);

impl Running {
    /// Waits for the end: what it printed, and what it complained of.
    fn finish(
        mut self,
        limit: usize,
        patience: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(Vec<u8>, String), String> {
        let (Some(mut stdout), Some(mut stderr)) = (self.0.stdout.take(), self.0.stderr.take()) else {
            return Err("it has no output".into());
        };
        let deadline = Deadline::after(patience);
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let (mut printing, mut complaining) = (true, true);
        while printing || complaining {
            let (out, err) = ((stdout.as_fd(), PollFlags::IN), (stderr.as_fd(), PollFlags::IN));
            // One that has ended would be ready for ever.
            let next = deadline.min(Deadline::after(LOOK));
            let [out_ready, err_ready] = match (printing, complaining) {
                (true, true) => next.poll([out, err]),
                (true, false) => next.poll([out]).map(|[ready]| [ready, false]),
                (false, _) => next.poll([err]).map(|[ready]| [false, ready]),
            }
            .map_err(|error| error.to_string())?;
            if out_ready {
                printing = take(&mut stdout, &mut output, limit).map_err(|error| error.to_string())?;
            }
            if err_ready {
                complaining = take(&mut stderr, &mut complaint, COMPLAINT_LIMIT).map_err(|error| error.to_string())?;
            }
            if output.len() > limit {
                return Err(format!("it printed more than {limit} bytes"));
            }
            if !is_wanted() {
                return Err("nobody waits for it any more".into());
            }
            if deadline.has_passed() {
                return Err(format!("it did not end within {} s", patience.as_secs()));
            }
        }
        complaint.truncate(COMPLAINT_LIMIT);
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        loop {
            match self.0.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok((output, complaint)),
                Some(status) => return Err(format!("{status}: {complaint}")),
                None if deadline.has_passed() => return Err("it does not end".into()),
                // Its output has ended, so it is about to.
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Reads what there is; false at the end.
fn take(from: &mut impl Read, to: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => {
            if to.len() <= limit {
                to.extend_from_slice(buffer.get(..n).unwrap_or_default());
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::run;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, patience: Duration) -> Result<Vec<u8>, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, 10, patience, &|| true).map(|(output, _)| output).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_program_prints_is_read_up_to_a_limit() {
        assert_eq!(shell("echo complaint >&2; printf 0123456789", LONG).as_deref(), Ok(&b"0123456789"[..]));
        assert!(shell("printf 01234567890", LONG).unwrap_err().contains("more than 10 bytes"));
        assert!(shell("echo ok; echo why >&2; exit 3", LONG).unwrap_err().contains("exit status: 3: why"));
        assert!(run(Command::new("/nonexistent"), 10, LONG, &|| true).is_err());
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_all_that_it_started() {
        let begun = Instant::now();
        for script in ["sleep 1000", "sleep 1000 & sleep 1000", "yes >&2", "exec >&- 2>&-; sleep 1000"] {
            let error = shell(script, Duration::from_millis(200)).unwrap_err();
            assert!(error.contains("end"), "{script}: {error}");
        }
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn it_has_the_standard_descriptors_alone() {
        let held = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
        // The fourth is for the directory that is listed.
        assert_eq!(shell("ls /proc/self/fd | wc -l", LONG).as_deref(), Ok(&b"4\n"[..]));
    }
}
