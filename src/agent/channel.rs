//! One channel: windows, buffers, EOF and CLOSE.
//!
//! Behind it is a program, or a socket whose peer is one. Bytes run two ways, and only one of them is buffered here:
//!
//! - **Input**, from the client to the program. The window promised room for it, so what the program does not take at
//!   once waits in `pending`, never more than [`WINDOW`]. As the program takes it, the client gets the window back.
//! - **Output**, from the program to the client. It stays in the pipe or socket until the client's window and the
//!   stream to the server have room, and is then read straight into the stream's frames. So a stalled client stalls
//!   the program, as a stopped terminal would, and costs nothing.
//!
//! Each way ends by itself (RFC 4254 section 5.3): EOF says that one side sends no more, CLOSE that it is done with
//! the channel; both must have sent CLOSE before the number is free. [`Channel::settle`] is the only function that
//! sends either.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::Signal;

use super::buffer::Buffer;
use super::error::Error;
use super::host::{Exit, Host};
use super::outbound::Outbound;
use super::session::{Answer, Session, Surroundings, exit_message};
use crate::connection::message::{
    ChannelRequest, MAXIMUM_PACKET, WINDOW, bare, exit_status, notice, number, window_adjust,
};
use crate::connection::wire::Malformed;

/// How many messages one descriptor may add before the next gets its turn.
const READS: usize = 4;

/// A terminal is read in smaller bites: the kernel holds no more than this. In bytes.
const TERMINAL_READ: usize = 4096;

/// The descriptors of a channel that the loop polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To the program's standard input.
    Input,
    /// From its standard output, or its terminal.
    Output,
    /// From its standard error.
    Error,
}

/// What stands behind a channel.
#[derive(Debug)]
pub enum Kind<H: Host> {
    /// A program: the channel type `session`.
    Session(Session<H>),
    /// A connected socket: all other types.
    Socket,
}

/// The client's side of a channel, as its open or its confirmation tells.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its number for the channel.
    pub number: u32,
    /// How much it will take, in bytes.
    pub window: u32,
    /// How much it takes in one message, in bytes.
    pub maximum_packet: u32,
}

/// The descriptors behind a channel, all non-blocking. A socket or a terminal is both input and output.
#[derive(Debug)]
pub struct Ends {
    /// To the program's standard input.
    pub input: Rc<OwnedFd>,
    /// From its standard output.
    pub output: Rc<OwnedFd>,
    /// From its standard error, where that is separate.
    pub error: Option<Rc<OwnedFd>>,
}

/// A channel that is open.
#[derive(Debug)]
pub struct Channel<H: Host> {
    kind: Kind<H>,
    /// The client's number for it.
    peer: u32,

    /// Where input goes. Before a program starts and after input ended there is nothing.
    writer: Option<Rc<OwnedFd>>,
    /// Input that the program has not taken. Invariant: `pending + consumed + receive_window == WINDOW` once started.
    pending: Buffer,
    /// How much the client may still send, in bytes.
    receive_window: u32,
    /// What was taken and not yet given back to the client as window, in bytes.
    consumed: u32,

    /// Where output comes from; each is gone once it is at its end.
    output: Option<Reader>,
    error: Option<Reader>,
    /// How much the client will still take, in bytes.
    send_window: u32,
    /// How much it takes in one message, in bytes.
    send_maximum: u32,

    /// Whether there was ever a program: before, both ways are idle rather than at their end.
    started: bool,
    eof_sent: bool,
    eof_received: bool,
    close_sent: bool,
    close_received: bool,
}

#[derive(Debug)]
struct Reader {
    fd: Rc<OwnedFd>,
    /// The other end hung up while the window was shut: polling would say so for ever. Reset when the window opens.
    waits_for_window: bool,
}

impl Reader {
    fn new(fd: Rc<OwnedFd>) -> Self {
        Reader { fd, waits_for_window: false }
    }
}

impl<H: Host> Channel<H> {
    /// A session without a program. Its window is 0 until one starts, as with `sshd`: what nobody reads needs no room.
    pub fn session(peer: Peer) -> Self {
        Self::new(Kind::Session(Session::new()), peer)
    }

    /// A channel for `socket`, which is connected and non-blocking. Its window is [`WINDOW`].
    pub fn socket(socket: OwnedFd, peer: Peer) -> Self {
        let socket = Rc::new(socket);
        let mut channel = Self::new(Kind::Socket, peer);
        channel.attach(Ends { input: Rc::clone(&socket), output: socket, error: None });
        channel
    }

    fn new(kind: Kind<H>, peer: Peer) -> Self {
        Channel {
            kind,
            peer: peer.number,
            writer: None,
            pending: Buffer::default(),
            receive_window: 0,
            consumed: 0,
            output: None,
            error: None,
            send_window: peer.window,
            send_maximum: peer.maximum_packet,
            started: false,
            eof_sent: false,
            eof_received: false,
            close_sent: false,
            close_received: false,
        }
    }

    fn attach(&mut self, ends: Ends) {
        self.writer = Some(ends.input);
        self.output = Some(Reader::new(ends.output));
        self.error = ends.error.map(Reader::new);
        self.started = true;
        self.receive_window = WINDOW;
    }

    /// How much the client may send now, in bytes.
    pub fn receive_window(&self) -> u32 {
        self.receive_window
    }

    /// CHANNEL_REQUEST. After CLOSE there are no replies.
    pub fn request(
        &mut self,
        request: &ChannelRequest,
        surroundings: &mut Surroundings<'_, H>,
        out: &mut Outbound,
    ) -> Result<(), Malformed> {
        let answer = match (request.name, &mut self.kind) {
            // The client takes no more standard output, so the program shall know: SIGPIPE.
            (b"eow@openssh.com", _) => {
                self.output = None;
                Answer::Success
            }
            (_, Kind::Session(session)) => session.request(request, surroundings)?,
            (_, Kind::Socket) => Answer::Failure,
        };
        if request.want_reply && !self.close_sent {
            let success = !matches!(answer, Answer::Failure);
            out.send(&bare(if success { number::CHANNEL_SUCCESS } else { number::CHANNEL_FAILURE }, self.peer));
        }
        if let Answer::Started(ends, status) = answer {
            self.attach(ends);
            out.send(&window_adjust(self.peer, WINDOW));
            if let Some(status) = status {
                out.send(&exit_status(self.peer, status));
            }
        }
        Ok(())
    }

    /// CHANNEL_DATA: input for the program.
    pub fn data(&mut self, bytes: &[u8], out: &mut Outbound) -> Result<(), Error> {
        let count = self.admit(bytes.len())?;
        if self.eof_received || self.writer.is_none() {
            // Nobody reads it. It counts as taken, or a client that has not heard yet would wait for window for ever.
            self.consumed += count;
        } else {
            let taken = if self.pending.is_empty() { self.write(bytes, out) } else { 0 };
            if let (Some(rest), true) = (bytes.get(taken..), self.writer.is_some()) {
                self.pending.push(rest);
            }
        }
        self.replenish(out);
        Ok(())
    }

    /// CHANNEL_EXTENDED_DATA: a client has no business sending any to a session. It is dropped, as `sshd` does.
    pub fn extended_data(&mut self, bytes: &[u8], out: &mut Outbound) -> Result<(), Error> {
        self.consumed += self.admit(bytes.len())?;
        self.replenish(out);
        Ok(())
    }

    fn admit(&mut self, length: usize) -> Result<u32, Error> {
        let count = u32::try_from(length).ok().filter(|count| *count <= MAXIMUM_PACKET);
        let count = count.ok_or(Error::Protocol("a data message over the maximum packet size"))?;
        self.receive_window =
            self.receive_window.checked_sub(count).ok_or(Error::Protocol("data beyond the channel's window"))?;
        Ok(count)
    }

    /// Writes what the program takes now of `bytes`, and returns how many it did. All of them where it reads no more.
    fn write(&mut self, bytes: &[u8], out: &mut Outbound) -> usize {
        let mut taken = 0;
        while let (Some(writer), Some(rest @ [_, ..])) = (&self.writer, bytes.get(taken..)) {
            match rustix::io::write(writer, rest) {
                Ok(count) => taken += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.end_input(out);
                    taken = bytes.len();
                }
            }
        }
        self.consumed += taken as u32;
        taken
    }

    /// The program takes no more input: what waits is dropped, and the client told with OpenSSH's end-of-write, which
    /// only sessions know.
    fn end_input(&mut self, out: &mut Outbound) {
        self.close_writer();
        self.consumed += self.pending.len() as u32;
        self.pending = Buffer::default();
        if matches!(self.kind, Kind::Session(_)) && !self.eof_received && !self.close_received && !self.close_sent {
            let eow =
                ChannelRequest { recipient: self.peer, name: b"eow@openssh.com", want_reply: false, specific: b"" };
            out.send(&eow.encode());
        }
    }

    /// Lets go of where input goes. A socket is open for output still, so its half is closed by name.
    fn close_writer(&mut self) {
        if let (Some(writer), Kind::Socket) = (self.writer.take(), &self.kind) {
            // It fails where the other end has gone altogether.
            let _ = rustix::net::shutdown(writer, Shutdown::Write);
        }
    }

    /// Gives window back, in OpenSSH's portions: once three packets were taken, or half of it is used up.
    fn replenish(&mut self, out: &mut Outbound) {
        let used = WINDOW - self.receive_window;
        let due = used > 3 * MAXIMUM_PACKET || self.receive_window < WINDOW / 2;
        if due && self.consumed > 0 && !self.eof_received && !self.close_received && !self.close_sent {
            out.send(&window_adjust(self.peer, self.consumed));
            self.receive_window += self.consumed;
            self.consumed = 0;
        }
    }

    /// CHANNEL_WINDOW_ADJUST.
    pub fn adjust(&mut self, bytes: u32) -> Result<(), Error> {
        self.send_window =
            self.send_window.checked_add(bytes).ok_or(Error::Protocol("a channel's window over 4 GiB"))?;
        for reader in [&mut self.output, &mut self.error].into_iter().flatten() {
            reader.waits_for_window = false;
        }
        Ok(())
    }

    /// CHANNEL_EOF.
    pub fn eof(&mut self) {
        self.eof_received = true;
    }

    /// CHANNEL_CLOSE.
    pub fn close(&mut self) {
        self.close_received = true;
    }

    /// What the loop has to wait for: the registrations follow from the state, so none can be forgotten.
    pub fn interests(&self, stream_takes_data: bool) -> impl Iterator<Item = (Role, BorrowedFd<'_>, PollFlags)> {
        let input = self.writer.as_ref().filter(|_| !self.pending.is_empty());
        let room = self.room() > 0;
        let readers =
            [(Role::Output, &self.output), (Role::Error, &self.error)].into_iter().filter_map(move |(role, reader)| {
                let reader = reader.as_ref().filter(|reader| stream_takes_data && !reader.waits_for_window)?;
                // With the window shut only a hangup is of interest: it may be the end, which needs no window.
                Some((role, reader.fd.as_fd(), if room { PollFlags::IN } else { PollFlags::empty() }))
            });
        input.map(|writer| (Role::Input, writer.as_fd(), PollFlags::OUT)).into_iter().chain(readers)
    }

    /// Serves a descriptor that is ready.
    pub fn ready(&mut self, role: Role, out: &mut Outbound) {
        match role {
            Role::Input => {
                let mut pending = std::mem::take(&mut self.pending);
                let taken = self.write(pending.bytes(), out);
                pending.consume(taken);
                self.pending = pending;
                self.replenish(out);
            }
            Role::Output => self.output = self.output.take().and_then(|reader| self.read(reader, false, out)),
            Role::Error => self.error = self.error.take().and_then(|reader| self.read(reader, true, out)),
        }
    }

    /// Reads what is there of a terminal whose program has ended. It has no end of its own while a background job
    /// keeps it open, but the session is over all the same: what the terminal holds now is the last of it, and an empty
    /// one is at its end. (With pipes `sshd` waits for whoever holds them, and so do we.)
    pub fn drain(&mut self, out: &mut Outbound) {
        if self.is_ended_terminal() {
            self.ready(Role::Output, out);
        }
    }

    fn has_terminal(&self) -> bool {
        matches!(&self.kind, Kind::Session(session) if session.has_terminal())
    }

    /// Whether this is a terminal whose program has ended.
    fn is_ended_terminal(&self) -> bool {
        matches!(&self.kind, Kind::Session(session) if session.has_terminal() && session.has_ended())
    }

    /// How much the client takes in one message now.
    fn room(&self) -> usize {
        self.send_window.min(self.send_maximum).min(MAXIMUM_PACKET) as usize
    }

    /// Moves output on while there is any and room for it. Returns the reader unless it is at its end.
    fn read(&mut self, mut reader: Reader, stderr: bool, out: &mut Outbound) -> Option<Reader> {
        let terminal = self.has_terminal();
        let limit = if terminal { TERMINAL_READ } else { usize::MAX };
        for _ in 0..READS {
            if !out.takes_data() {
                break;
            }
            let room = self.room().min(limit);
            if room == 0 {
                // The window is shut. A pipe whose writers are gone is at its end all the same, if it holds nothing.
                reader.waits_for_window = !terminal && is_hung_up(&reader.fd);
                let at_end = reader.waits_for_window && rustix::io::ioctl_fionread(&reader.fd) == Ok(0);
                return (!at_end).then_some(reader);
            }
            match out.send_from(&reader.fd, self.peer, stderr, room) {
                Ok(0) => return None,
                Ok(count) => {
                    self.send_window -= count as u32;
                    // A short read emptied it. The next would only say so.
                    if count < room && !terminal {
                        break;
                    }
                }
                Err(Errno::AGAIN) if self.is_ended_terminal() => return None,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // EIO is how a terminal ends, ECONNRESET how a socket may.
                Err(_) => return None,
            }
        }
        Some(reader)
    }

    /// Takes note that `process` has ended. If it was this channel's, the client learns at once how it ended; output that
    /// is still in a pipe follows.
    pub fn ended(&mut self, process: &H::Process, exit: Exit, out: &mut Outbound) -> bool {
        let ours = match &mut self.kind {
            Kind::Session(session) => session.ended(process),
            Kind::Socket => false,
        };
        if ours && !self.close_sent {
            out.send(&exit_message(self.peer, exit));
        }
        ours
    }

    /// Tells the user a line, where a program runs whose output has not ended.
    pub fn tell(&mut self, line: &str, out: &mut Outbound) {
        let runs = matches!(&self.kind, Kind::Session(session) if !session.is_larval() && !session.has_ended());
        if !runs || self.eof_sent || self.close_sent {
            return;
        }
        let has_terminal = self.has_terminal();
        if let Some(notice) = notice(self.peer, line, has_terminal, &mut self.send_window, self.send_maximum) {
            out.send(&notice);
        }
    }

    /// Sends `signal` to the program.
    pub fn kill(&self, signal: Signal, host: &mut H) {
        if let Kind::Session(session) = &self.kind {
            session.kill(signal, host);
        }
    }

    /// Decides what ends, after anything happened: the only place where EOF and CLOSE are sent. Returns whether the
    /// channel is done with, so that its number is free.
    pub fn settle(&mut self, out: &mut Outbound) -> bool {
        let terminal = self.has_terminal();

        // The client sends no more, and the program has taken all: it reads end of file. A terminal has no half close:
        // its program goes on until it is told otherwise (the user's Ctrl-D is a byte).
        if (self.eof_received || self.close_received) && self.pending.is_empty() {
            self.close_writer();
        }

        // The client left: nobody takes output any more. A program that goes on writing gets SIGPIPE, one on a
        // terminal SIGHUP, as soon as we hold no descriptor of it. Neither is killed, as under sshd. What the client
        // sent before it left still goes to a pipe or a socket.
        if self.close_received {
            self.output = None;
            self.error = None;
            if terminal {
                self.writer = None;
                self.pending = Buffer::default();
                self.release_terminal();
            }
        }

        // The program ended: nobody reads input any more.
        let ended = matches!(&self.kind, Kind::Session(session) if session.has_ended());
        if ended && self.writer.is_some() {
            self.end_input(out);
        }

        // Standard output and standard error are both at their end. Either alone is not: the other still has the
        // channel. A client that has closed wants to hear no more of it.
        let output_ended = self.started && self.output.is_none() && self.error.is_none();
        if output_ended && !self.eof_sent && !self.close_received {
            out.send(&bare(number::CHANNEL_EOF, self.peer));
            self.eof_sent = true;
        }

        // The session is over, so a background job that still holds the terminal loses it.
        if ended && output_ended {
            self.release_terminal();
        }

        // CLOSE is the last word, so everything else must have been said.
        let over = match &self.kind {
            // A client that closes before there was a program waits for nothing.
            Kind::Session(session) if session.is_larval() => self.close_received,
            // All output, and how the program ended. A program that closed its output and lives on holds the channel
            // open, as does a background job that keeps the pipes of a program that ended.
            Kind::Session(_) => ended && output_ended,
            // Both halves are closed. While either is open, the other end may still have something to say or to hear.
            Kind::Socket => output_ended && self.writer.is_none(),
        };
        if over && !self.close_sent {
            out.send(&bare(number::CHANNEL_CLOSE, self.peer));
            self.close_sent = true;
        }
        self.close_sent && self.close_received
    }

    fn release_terminal(&mut self) {
        if let Kind::Session(session) = &mut self.kind {
            session.release_terminal();
        }
    }
}

/// Whether no writer is left at a pipe's or socket's other end.
fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(fd, PollFlags::empty())];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok()
        && fds[0].revents().contains(PollFlags::HUP)
}
