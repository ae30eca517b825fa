//! Native mode, `disableAgent`: no agent in the container, whose programs run through the backend's API.
//!
//! The agent's own channel code serves the client, in a thread of the server's; the bridge sees a stream like any
//! other. Behind the channels are the programs of an [`Executor`]. What takes an agent is refused: forwarding, and what
//! the API has no way for.

mod host;
mod pump;

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::agent::{self, Connection, Endpoint, Exit, Round};
use crate::backend::{Container, Lease};
use crate::waker::Waker;
use host::{Native, Process};

/// Stack of an endpoint's thread and of those that carry its programs' streams, in bytes. Only what is touched costs
/// memory.
const STACK: usize = 512 * 1024;

/// How long what programs have said may take to be carried once their container is lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// SIGHUP and SIGKILL, as an exit's number.
const HUP: i32 = 1;
const KILL: i32 = 9;

/// The exit status of what was killed: its own doing, or that of its container's end.
pub(super) const KILLED: u32 = 128 + KILL.cast_unsigned();

/// What executes programs in a container that it owns.
pub(super) trait Executor: Debug + Send {
    /// What a shell is; no words are the container's own command.
    fn shell(&self) -> Vec<String>;

    /// The command of SFTP's server.
    fn sftp(&self) -> String;

    /// Starts a program. What fails is told to the log by it, and to the user by the caller.
    fn run(&mut self, command: &Command) -> Result<Running, Failure>;
}

/// A program that was started, and the connection to its streams.
pub(super) struct Running {
    pub program: Arc<dyn Program>,
    pub connection: Box<dyn Attached>,
}

/// What a program is started with.
pub(super) struct Command {
    /// None are the container's own command.
    pub words: Vec<String>,
    /// Whether it is SFTP's server: its client has heard all before it says that no more comes.
    pub is_sftp: bool,
    /// Variables, as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// The rows and columns of its terminal, where it has one.
    pub size: Option<[u16; 2]>,
}

/// What runs commands, and prepares for them.
pub(super) const SHELL: &str = "/bin/sh";

/// Runs the words that follow two numbers on a terminal of so many rows and columns, as far as there is an `stty`.
const SET_SIZE: &str = "stty rows \"$1\" cols \"$2\" 2>/dev/null; shift 2; exec \"$@\"";

impl Command {
    /// Whether a shell may run first: what has its own may be in an image without [`SHELL`].
    pub fn has_shell(&self) -> bool {
        self.words.first().is_some_and(|word| word == SHELL)
    }

    /// What goes before a program's words so that its terminal has its size from the beginning, where the API sets it only
    /// once the program runs, which may have looked before. Nothing where no shell may run.
    pub fn sizing(&self) -> Vec<String> {
        match self.size {
            Some([rows, columns]) if self.has_shell() => {
                [SHELL, "-c", SET_SIZE, "sh", &rows.to_string(), &columns.to_string()].map(str::to_owned).into()
            }
            _ => Vec::new(),
        }
    }
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is not there.
    NotFound,
    /// It cannot be executed.
    NotExecutable,
    /// Something else is wrong.
    Other,
}

/// A program.
pub(super) trait Program: Debug + Send + Sync {
    /// Sets its terminal's rows and columns.
    fn resize(&self, size: [u16; 2]);

    /// Sends a signal. Whether the API has a way to do so, and it was good.
    fn signal(&self, signal: Signal) -> bool;

    /// How it has ended, now that its output has. May wait for that.
    fn end(&self) -> End;
}

/// How a program's end looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit status.
    Status(u32),
    /// The client has let go of it.
    Abandoned,
    /// Its container is gone.
    Lost,
}

impl End {
    fn exit(self) -> Exit {
        match self {
            End::Status(status) => Exit::Status(status),
            End::Abandoned => Exit::Signal { number: HUP, core_dumped: false },
            End::Lost => Exit::Signal { number: KILL, core_dumped: false },
        }
    }
}

/// What a program writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Standard output, or its terminal.
    Standard,
    /// Standard error.
    Error,
}

/// The connection to a program's streams, non-blocking.
pub(super) trait Attached: AsFd + Send {
    /// Gives `take` what has come. Without an error nothing stays behind of which poll does not tell, and false is the
    /// end of all output. [`io::ErrorKind::WouldBlock`]: nothing has come.
    fn read(&mut self, take: &mut dyn FnMut(Output, &[u8])) -> io::Result<bool>;

    /// Sends input; gives how much was taken. A program that has ended takes all, and loses it. After
    /// [`io::ErrorKind::WouldBlock`], the same bytes are to be sent first.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Says that no more input comes.
    fn end_input(&mut self);
}

/// Serves a client by what is executed. `name` is for the log.
pub(super) fn start(name: &str, executor: Box<dyn Executor>) -> io::Result<Container> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let stop = ours.try_clone()?;
    let waker = Waker::new()?;
    let (ends, ended) = channel();
    let host = Native::new(executor, ends, waker.clone());
    let name = name.to_owned();
    let thread = std::thread::Builder::new().name("native".into()).stack_size(STACK);
    let thread = thread.spawn(move || match serve(theirs, host, &waker, &ended) {
        Ok(()) => (),
        Err(error) => log::error!("{name}: {error}"),
    })?;
    Ok(Container { stream: Box::new(ours), lease: Box::new(Served { stop, thread: Some(thread) }) })
}

/// Serves the client until the stream ends, or the container does. Then the executor is dropped, and with it the
/// container.
fn serve(
    stream: UnixStream,
    host: Native,
    waker: &Waker,
    ended: &Receiver<(Process, End)>,
) -> Result<(), agent::Error> {
    let mut endpoint = Endpoint::new(OwnedFd::from(stream).into(), Connection::new(host)?);
    // When to stop, once the container is lost.
    let mut stop = None;
    while endpoint.flush()? {
        if stop.is_some_and(|stop| Instant::now() >= stop || endpoint.connection.is_idle()) {
            break;
        }
        match endpoint.round(waker.as_fd(), stop)? {
            Round::Served(false) => {}
            Round::Served(true) => {
                waker.clear();
                for (program, end) in ended.try_iter() {
                    if end == End::Lost {
                        stop.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                    }
                    endpoint.connection.ended(&program, end.exit());
                }
            }
            Round::Ended => break,
        }
    }
    Ok(())
}

/// Ends an endpoint, and waits until its container is removed.
struct Served {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Lease for Served {}

impl Drop for Served {
    fn drop(&mut self) {
        // It fails where the thread has ended already.
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
