//! Writes the log so that whoever logs never waits for whoever reads it: what cannot be written at once is left to a thread.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that may wait, in bytes: what comes on top is lost.
const WAITING: usize = 1024 * 1024;

/// So much is written whole or not at all, where it is written at once, in bytes: pipe(7), `PIPE_BUF`.
pub(super) const WHOLE: usize = 4096;

/// The thread's stack, in bytes.
const STACK: usize = 128 * 1024;

/// Where lines go.
pub(super) trait Sink: Send + 'static {
    /// Writes as much of a line as is taken now: [`WHOLE`] bytes whole, or none. [`io::ErrorKind::WouldBlock`] where that
    /// is nothing, after a moment's waiting if `may_wait`.
    fn write(&mut self, line: &[u8], may_wait: bool) -> io::Result<usize>;

    /// The line that says that so many were lost.
    fn loss(&self, lines: u64) -> Vec<u8>;
}

/// The writer of a log. Its thread ends some time after this is dropped: it waits for nobody then.
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Locked by the thread where anything waits, else by whoever has locked that.
    output: Mutex<Output>,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Their length together, with that of the line that the thread is about to write.
    bytes: usize,
    /// Lines that there was no room for.
    lost: u64,
    ended: bool,
}

struct Output {
    sink: Box<dyn Sink>,
    /// Lines that are to be told of as lost.
    lost: u64,
    /// Whether the last line's end is missing.
    is_cut: bool,
}

/// Nothing is taken now, nor is that to be waited for.
struct Stuck;

impl Writer {
    pub(super) fn start(sink: impl Sink) -> io::Result<Self> {
        let output = Output { sink: Box::new(sink), lost: 0, is_cut: false };
        let shared = Shared { waiting: Mutex::default(), changed: Condvar::new(), output: Mutex::new(output) };
        let shared = Arc::new(shared);
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).stack_size(STACK).spawn(move || writing.run())?;
        Ok(Writer(shared))
    }

    /// Writes a line, at once where that can be, else when it can be, where there is room for it until then.
    pub(super) fn add(&self, line: Vec<u8>) {
        let mut waiting = self.0.waiting();
        if waiting.bytes == 0 && line.len() <= WHOLE && self.0.output().put(&line, None).is_ok() {
            return;
        }
        if waiting.bytes + line.len() > WAITING {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, for so long at most.
    pub(super) fn flush(&self, patience: Duration) {
        let waiting = self.0.waiting();
        drop(self.0.changed.wait_timeout_while(waiting, patience, |waiting| waiting.bytes > 0));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, until it is to end.
    fn run(&self) {
        loop {
            let waiting = self.waiting();
            let waited = self.changed.wait_while(waiting, |waiting| waiting.lines.is_empty() && !waiting.ended);
            let mut waiting = waited.unwrap_or_else(PoisonError::into_inner);
            let lost = std::mem::take(&mut waiting.lost);
            let Some(line) = waiting.lines.pop_front() else { return };
            drop(waiting);
            let mut output = self.output();
            output.lost += lost;
            if output.put(&line, Some(&|| !self.waiting().ended)).is_err() {
                return;
            }
            drop(output);
            self.waiting().bytes -= line.len();
            self.changed.notify_all();
        }
    }
}

impl Output {
    /// Writes a line, and before it how many were lost, for as long as `waits` says; without it, at once or not at all.
    fn put(&mut self, line: &[u8], waits: Option<&dyn Fn() -> bool>) -> Result<(), Stuck> {
        if self.lost > 0 {
            let loss = self.sink.loss(self.lost);
            if self.write(&loss, waits)? {
                self.lost = 0;
            }
        }
        if !self.write(line, waits)? {
            self.lost += 1;
        }
        Ok(())
    }

    /// Whether a line could be written.
    fn write(&mut self, line: &[u8], waits: Option<&dyn Fn() -> bool>) -> Result<bool, Stuck> {
        // One that was cut ends where the next one begins.
        let line = [if self.is_cut { b"\n" } else { &b""[..] }, line].concat();
        let mut written = 0;
        while let Some(rest @ [_, ..]) = line.get(written..) {
            match self.sink.write(rest, waits.is_some()) {
                Ok(count) if count > 0 => {
                    written += count;
                    self.is_cut = written < line.len() && line[written - 1] != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Where some of it is written, there is nothing to wait for: the disk is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && (waits.is_some() || written == 0) => {
                    if !waits.is_some_and(|waits| waits()) {
                        return Err(Stuck);
                    }
                }
                // A disk is full, or a reader has gone.
                Ok(_) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Duration;

    use super::{Sink, WAITING, Writer};

    const LONG: Duration = Duration::from_secs(60);

    /// Takes as many bytes as it is let, at a time.
    struct Taking {
        room: mpsc::Receiver<io::Result<usize>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Sink for Taking {
        fn write(&mut self, line: &[u8], may_wait: bool) -> io::Result<usize> {
            let patience = Duration::from_millis(if may_wait { 10 } else { 0 });
            let room = match self.room.recv_timeout(patience) {
                Ok(room) => room?,
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(ErrorKind::WouldBlock.into()),
                Err(mpsc::RecvTimeoutError::Disconnected) => usize::MAX,
            };
            let count = room.min(line.len());
            self.written.lock().unwrap().extend_from_slice(&line[..count]);
            Ok(count)
        }

        fn loss(&self, lines: u64) -> Vec<u8> {
            format!("{lines} lost\n").into_bytes()
        }
    }

    /// How much is to be taken next.
    type Room = mpsc::Sender<io::Result<usize>>;

    fn start() -> (Writer, Room, Arc<Mutex<Vec<u8>>>) {
        let (room, receiver) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Writer::start(Taking { room: receiver, written: Arc::clone(&written) }).unwrap();
        (writer, room, written)
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_that_was_cut_ends_before_the_next_and_lost_ones_are_counted() {
        let (writer, room, written) = start();
        // The disk is full in the middle of the first line; then two find nothing, not even to tell of it.
        let full = || Err(ErrorKind::StorageFull.into());
        for result in [Ok(2), Ok(1), full(), full(), full(), full(), full()] {
            room.send(result).unwrap();
        }
        for line in ["first\n", "second\n", "third\n"] {
            writer.add(line.into());
        }
        writer.flush(LONG);
        drop(room);
        writer.add("fourth\n".into());
        writer.add("fifth\n".into());
        writer.flush(LONG);
        assert_eq!(text(&written), "fir\n3 lost\nfourth\nfifth\n");
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_there_is_no_room_for_is_counted() {
        let (writer, room, written) = start();
        let line = |letter: u8| [&vec![letter; WAITING / 4 - 1][..], b"\n"].concat();
        for letter in b"abcdefg" {
            writer.add(line(*letter));
        }
        writer.flush(Duration::ZERO);
        drop(room);
        writer.flush(LONG);
        writer.add(b"h\n".to_vec());
        writer.flush(LONG);
        let written = text(&written);
        let (counts, lines): (Vec<_>, Vec<_>) = written.lines().partition(|line| line.ends_with(" lost"));
        let first: String = lines.iter().map(|line| &line[..1]).collect();
        assert_eq!(first, "abcdh");
        // They are told of where they are missing, perhaps one by one.
        let count = |line: &&str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
        assert_eq!(counts.iter().map(count).sum::<u64>(), 3);
    }

    #[test]
    fn what_can_be_written_at_once_is() {
        let (writer, room, written) = start();
        room.send(Ok(100)).unwrap();
        writer.add(b"a\n".to_vec());
        assert_eq!(text(&written), "a\n");
        writer.add(b"b\n".to_vec());
        writer.add(b"c\n".to_vec());
        drop(room);
        writer.flush(LONG);
        assert_eq!(text(&written), "a\nb\nc\n");
    }

    #[test]
    fn it_ends_although_nobody_reads() {
        let (writer, room, written) = start();
        writer.add(b"a\n".to_vec());
        drop(writer);
        // The thread has let go of its end.
        while room.send(Err(ErrorKind::WouldBlock.into())).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(text(&written), "");
    }
}
