//! The agent as PID 1 of a container whose own standard input and output are of no use, since they are logged: a pod's.
//! The stream is that of a program that is executed in the container, `berth agent join`. It hands its standard input and
//! output over to the agent, through a unix socket, and stays for as long as they are in use.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::stdio::{stdin, stdout};

use super::error::Error;

/// How long an agent waits for its stream: the server executes the other end as soon as the container runs.
const WAIT: Duration = Duration::from_secs(60);

/// How long the agent is waited for, which was started a moment before.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether it listens.
const INTERVAL: Duration = Duration::from_millis(5);

/// What was handed over.
pub struct Joined {
    /// The stream from the server.
    pub input: OwnedFd,
    /// The stream to the server.
    pub output: OwnedFd,
    /// Whoever has handed them over waits for its end.
    pub peer: UnixStream,
}

/// Listens at `path` for one who hands over a stream; `None` where `stop` could be read before.
pub fn accept(path: &Path, stop: BorrowedFd<'_>) -> Result<Option<Joined>, Error> {
    let failed = |error| Error::Listen(path.to_owned(), error);
    let listener = UnixListener::bind(path).map_err(failed)?;
    let end = Instant::now() + WAIT;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
        let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(None),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    let (peer, _) = listener.accept().map_err(failed)?;
    // No one else is listened to.
    fs::remove_file(path).map_err(failed)?;
    peer.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let (input, output) = receive(&peer).map_err(failed)?;
    Ok(Some(Joined { input, output, peer }))
}

fn receive(peer: &UnixStream) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(peer, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    match (descriptors.next(), descriptors.next()) {
        (Some(input), Some(output)) => Ok((input, output)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Hands standard input and output over to the agent that listens at `path`, or is about to, and waits for its end.
pub fn join(path: &Path) -> Result<(), Error> {
    let failed = |error| Error::Connect(path.to_owned(), error);
    let end = Instant::now() + PATIENCE;
    let mut agent = loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < end =>
            {
                thread::sleep(INTERVAL);
            }
            result => break result.map_err(failed)?,
        }
    };
    let descriptors = [stdin(), stdout()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(agent.as_fd(), &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|errno| failed(errno.into()))?;
    while !matches!(agent.read(&mut [0]), Ok(0)) {}
    Ok(())
}

/// Copies this program to `path`, for another container to run.
pub fn install(path: &OsString) -> io::Result<()> {
    fs::copy("/proc/self/exe", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
