//! Between a server and the Docker daemon, where a test can keep calls from their answers.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::docker::daemon_socket;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The daemon gets it.
    Pass,
    /// Its connection ends without an answer.
    Cut,
    /// It waits for [`Interposer::release`].
    Hold,
}

/// A socket that leads to the daemon's. Gone when dropped.
pub struct Interposer {
    socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    judge: Box<dyn Fn(&str) -> Fate + Send + Sync>,
    /// How many calls are held, and whether they may go on.
    held: Mutex<(usize, bool)>,
    change: Condvar,
    has_ended: AtomicBool,
}

impl Interposer {
    /// Listens there. `judge` is given the first line of each call, as in `GET /v1.41/info HTTP/1.1`.
    pub fn listen(socket: &Path, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::new(Shared {
            judge: Box::new(judge),
            held: Mutex::default(),
            change: Condvar::new(),
            has_ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.has_ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(daemon) = UnixStream::connect(daemon_socket()) else { return };
                let shared = Arc::clone(&serving);
                let (mut from, mut to) = (daemon.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || {
                    // It ends with either side.
                    let _ = shared.carry(&client, &daemon);
                });
            }
        });
        Interposer { socket: socket.to_owned(), shared }
    }

    /// How many calls are held.
    pub fn held(&self) -> usize {
        self.shared.held.lock().unwrap().0
    }

    /// Lets all go on that are held, and holds none any more.
    pub fn release(&self) {
        self.shared.held.lock().unwrap().1 = true;
        self.shared.change.notify_all();
    }
}

impl Shared {
    /// Carries what the server sends. A call comes in one piece, at least its first line.
    fn carry(&self, mut client: &UnixStream, mut daemon: &UnixStream) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = client.read(&mut buffer)?;
            if count == 0 {
                return daemon.shutdown(Shutdown::Write);
            }
            let line = buffer[..count].split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            let fate = if line.trim_end().ends_with(" HTTP/1.1") { (self.judge)(&line) } else { Fate::Pass };
            match fate {
                Fate::Pass => {}
                Fate::Cut => {
                    client.shutdown(Shutdown::Both)?;
                    return daemon.shutdown(Shutdown::Both);
                }
                Fate::Hold => {
                    let mut held = self.held.lock().unwrap();
                    held.0 += 1;
                    let mut held = self.change.wait_while(held, |(_, released)| !*released).unwrap();
                    held.0 -= 1;
                }
            }
            daemon.write_all(&buffer[..count])?;
        }
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        self.release();
        self.shared.has_ended.store(true, Ordering::Relaxed);
        // So that it sees that.
        let _ = UnixStream::connect(&self.socket);
    }
}
