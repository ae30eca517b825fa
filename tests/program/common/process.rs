//! Waiting, always with a deadline: for a child's end, for words in what it writes, for a condition.

use std::io::{self, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Nothing takes that long where it is not said: a container starts in less than a second, but many tests run at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// For what moves a gibibyte, on a machine that is busy with other things.
pub const LONG: Duration = Duration::from_secs(300);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
pub fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until the child has ended, and gives its status; none where it runs on at `end`.
pub fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    let pidfd = pidfd_open(pid(child), PidfdFlags::empty()).expect("the child has not been waited for");
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    }
}

pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).unwrap()
}

/// What a child writes, gathered by a thread as it comes.
#[derive(Clone, Default)]
pub struct Transcript(Arc<(Mutex<Text>, Condvar)>);

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Reads `source` until its end.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let transcript = Transcript::default();
        let writer = transcript.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = source.read(&mut buffer);
                let mut text = writer.lock();
                match read {
                    Ok(count) if count > 0 => text.bytes.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                    // A terminal whose other side is closed says EIO.
                    Ok(_) | Err(_) => text.ended = true,
                }
                writer.0.1.notify_all();
                if text.ended {
                    return;
                }
            }
        });
        transcript
    }

    /// Of nothing.
    pub fn closed() -> Self {
        Transcript::of(io::empty())
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.0.lock().unwrap()
    }

    /// Waits for `found` to give something, looking at all that has been read; none where it is in vain.
    fn wait<T>(&self, end: Instant, found: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut text = self.lock();
        loop {
            let result = found(&text.bytes);
            let left = end.saturating_duration_since(Instant::now());
            if result.is_some() || text.ended || left.is_zero() {
                return result;
            }
            text = self.0.1.wait_timeout(text, left).unwrap().0;
        }
    }

    /// Waits until `words` stand behind `start`, and gives the place behind them.
    pub fn find(&self, start: usize, words: &str) -> Option<usize> {
        let words = words.as_bytes();
        self.wait(Instant::now() + DEADLINE, |bytes| {
            let at = bytes.get(start..)?.windows(words.len()).position(|window| window == words)?;
            Some(start + at + words.len())
        })
    }

    /// Waits for a line that holds `words`.
    #[track_caller]
    pub fn line(&self, words: &str) -> String {
        let line = self.wait(Instant::now() + DEADLINE, |bytes| {
            let whole = &bytes[..=bytes.iter().rposition(|&byte| byte == b'\n')?];
            String::from_utf8_lossy(whole).lines().find(|line| line.contains(words)).map(str::to_owned)
        });
        line.unwrap_or_else(|| panic!("no line with {words:?} in:\n{}", self.text()))
    }

    /// Waits for the end; whether it has come.
    pub fn ended(&self, end: Instant) -> bool {
        self.wait(end, |_| None::<()>);
        self.lock().ended
    }

    /// All that has been read so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// All that has been read so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }
}
