//! Carries a program's standard streams between pipes and the connection to it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Attached, Output};

/// How much input is carried at a time, and waits at most, in bytes.
const SIZE: usize = 32 * 1024;

/// The program's ends of a channel's pipes, non-blocking.
#[derive(Debug)]
pub(super) struct Streams {
    /// What the client sends is read from here,
    pub(super) input: OwnedFd,
    /// and what the program says written here,
    pub(super) output: OwnedFd,
    /// or here where that is separate.
    pub(super) error: Option<OwnedFd>,
}

impl Streams {
    /// Where a word about the program itself goes.
    pub(super) fn complaint(&self) -> &OwnedFd {
        self.error.as_ref().unwrap_or(&self.output)
    }
}

/// Bytes on their way to a pipe.
struct Outlet {
    /// Gone once nobody reads.
    pipe: Option<OwnedFd>,
    waiting: Vec<u8>,
}

impl Outlet {
    fn new(pipe: Option<OwnedFd>) -> Self {
        Outlet { pipe, waiting: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.pipe.is_some() {
            self.waiting.extend_from_slice(bytes);
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let (Some(pipe), false) = (&self.pipe, self.waiting.is_empty()) {
            match rustix::io::write(pipe, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.close(),
            }
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.waiting = Vec::new();
    }
}

/// Carries until the program's output has ended and was taken: true. False once nobody is left to take it.
pub(super) fn run(mut connection: Box<dyn Attached>, streams: Streams) -> io::Result<bool> {
    let Streams { input, output, error } = streams;
    let mut input = Some(input);
    let (mut output, mut error) = (Outlet::new(Some(output)), Outlet::new(error));
    let mut to_program: Vec<u8> = Vec::new();
    let mut has_ended = false;
    let mut buffer = vec![0; SIZE];
    // What came along with the API's answer does not show in poll.
    let mut is_first = true;
    loop {
        let waiting = output.waiting.len() + error.waiting.len();
        if has_ended && waiting == 0 {
            return Ok(true);
        }
        if output.pipe.is_none() && error.pipe.is_none() {
            return Ok(false);
        }
        let mut carrying = PollFlags::empty();
        carrying.set(PollFlags::IN, !has_ended && waiting == 0);
        carrying.set(PollFlags::OUT, !to_program.is_empty());
        let mut fds = Vec::with_capacity(4);
        let mut roles = Vec::with_capacity(4);
        if !has_ended {
            roles.push(Role::Connection);
            fds.push(PollFd::new(&connection, carrying));
        }
        if let Some(input) = &input {
            let flags = if to_program.is_empty() { PollFlags::IN } else { PollFlags::empty() };
            // A hangup alone would keep the loop busy while nothing can be read.
            if !flags.is_empty() {
                roles.push(Role::Input);
                fds.push(PollFd::new(input, flags));
            }
        }
        for (role, outlet) in [(Role::Output, &output), (Role::Error, &error)] {
            if let Some(pipe) = &outlet.pipe {
                let flags = if outlet.waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                roles.push(role);
                fds.push(PollFd::new(pipe, flags));
            }
        }
        let timeout = std::mem::take(&mut is_first).then(Timespec::default);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let found: Vec<_> = roles.into_iter().zip(fds.iter().map(PollFd::revents)).collect();
        for (role, found) in found {
            if found.is_empty() && !(role == Role::Connection && timeout.is_some()) {
                continue;
            }
            match role {
                Role::Connection => {
                    if found.contains(PollFlags::OUT) {
                        write(&mut *connection, &mut to_program)?;
                    }
                    if waiting > 0 {
                        // It is read on once there is room.
                        continue;
                    }
                    let mut take = |kind, bytes: &[u8]| match kind {
                        Output::Standard => output.push(bytes),
                        Output::Error => error.push(bytes),
                    };
                    match connection.read(&mut take) {
                        Ok(goes_on) => has_ended = !goes_on,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Role::Input => {
                    let Some(pipe) = &input else { continue };
                    match rustix::io::read(pipe, &mut buffer[..]) {
                        Ok(0) => {
                            input = None;
                            connection.end_input();
                        }
                        Ok(count) => {
                            to_program.extend_from_slice(&buffer[..count]);
                            write(&mut *connection, &mut to_program)?;
                        }
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(_) => input = None,
                    }
                }
                Role::Output | Role::Error => {
                    let outlet = if role == Role::Output { &mut output } else { &mut error };
                    outlet.flush();
                    // Polled for nothing but this, where nothing waits.
                    if found.intersects(PollFlags::ERR | PollFlags::HUP) {
                        outlet.close();
                    }
                }
            }
        }
    }
}

/// What a descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Connection,
    Input,
    Output,
    Error,
}

/// Writes what is taken.
fn write(connection: &mut dyn Attached, bytes: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        match connection.write(bytes) {
            Ok(count) => drop(bytes.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
