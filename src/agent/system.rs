//! The system calls that neither std nor rustix make safely.
#![allow(
    unsafe_code,
    reason = "signalfd and signal masks are not in rustix; closing a descriptor by hand and what runs between fork and exec \
              are unsafe by nature; rustix signals no more than one process or group"
)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{Errno, try_close};

/// Blocks `signals` and returns a descriptor, non-blocking, to read them from instead. A blocked signal reaches PID 1
/// too, for which the kernel discards what has neither handler nor block.
pub fn signal_fd(signals: &[rustix::process::Signal]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything else reads it; all pointers are to that local variable.
    // signalfd returns a new descriptor, owned by nothing else, or -1, which is checked before it is wrapped.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The numbers of the signals that arrived at a [`signal_fd`], each at most once per call.
pub fn read_signals(fd: impl AsFd) -> Vec<i32> {
    const RECORD: usize = size_of::<libc::signalfd_siginfo>();
    let mut records = [0; 8 * RECORD];
    let mut signals = Vec::new();
    loop {
        match rustix::io::read(&fd, &mut records) {
            Ok(count) if count > 0 => {
                // A record begins with the signal's number.
                let numbers = records[..count].chunks_exact(RECORD).filter_map(|record| record.first_chunk());
                signals.extend(numbers.map(|number| i32::from_ne_bytes(*number)));
            }
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
    signals.sort_unstable();
    signals.dedup();
    signals
}

/// Sends all processes that this one may signal, but itself, a signal, or with 0 none; whether there is any. To PID 1 that
/// is all of its namespace.
pub fn signal_all(signal: i32) -> bool {
    // SAFETY: no memory is touched.
    unsafe { libc::kill(-1, signal) == 0 }
}

/// Keeps the descriptors that this process inherited, beyond the standard three, from the programs that it will start.
/// Before Linux 5.11 there is no such call; container runtimes leave nothing open anyway.
pub fn keep_descriptors() {
    // SAFETY: only marks descriptors close-on-exec; none is closed or created.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes `fd` and says how that went: file systems over a network and with quotas report a failed write only then.
/// Dropping an `OwnedFd` cannot tell.
pub fn close(fd: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor was owned, and nobody owns it after `into_raw_fd`.
    unsafe { try_close(fd.into_raw_fd()) }
}

/// What strerror(3) has for an error of chdir's: that may not be called between fork and exec.
fn words(errno: Errno) -> &'static [u8] {
    match errno {
        Errno::NOENT => b"No such file or directory",
        Errno::NOTDIR => b"Not a directory",
        Errno::ACCESS => b"Permission denied",
        Errno::LOOP => b"Too many levels of symbolic links",
        Errno::NAMETOOLONG => b"File name too long",
        Errno::IO => b"Input/output error",
        Errno::STALE => b"Stale file handle",
        Errno::NOTCONN => b"Transport endpoint is not connected",
        _ => b"it cannot be entered",
    }
}

/// Makes `command` run as `sshd` runs programs: leader of a new session, with the terminal at its standard input as
/// the controlling one if `terminal`, all signals at their defaults, and in `directory` where it may go there.
pub fn session_leader(command: &mut Command, terminal: bool, directory: Option<CString>) {
    let prepare = move || {
        // SAFETY: both only change this process's signal state and are async-signal-safe; the set is initialised
        // before it is read. Numbers that the C library keeps to itself are refused, which does no harm.
        unsafe {
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        }
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some(directory) = &directory {
            // A home that is missing or closed is no reason not to run, for sshd either, which says so in these words.
            if let Err(errno) = rustix::process::chdir(directory.as_c_str()) {
                for part in [b"Could not chdir to home directory ", directory.to_bytes(), b": ", words(errno), b"\n"] {
                    let _ = rustix::io::write(rustix::stdio::stderr(), part);
                }
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe system calls only, allocates nothing, and touches no lock.
    unsafe { command.pre_exec(prepare) };
}
