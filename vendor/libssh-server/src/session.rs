//! One peer's transport.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::algorithms::Algorithms;
use crate::error::{Error, PacketError};
use crate::identification::{Found, Reader};
use crate::key::HostKeys;
use crate::message::{self, frame, frames};
use crate::negotiation::{Negotiation, Stage, Taken};
use crate::number;
use crate::packet::{Opener, Sealer};
use crate::phase::{Fate, Phase};

/// Bytes read from the socket at a time.
const READ: usize = 64 * 1024;

/// How much may come of what was read, in messages and in answers, before the rest of it waits for another turn: packets
/// inflate to a thousand times as much.
const TURN: usize = 256 * 1024;

/// How much may wait for a key exchange where a peer goes on pinging, in bytes.
const MOST_HELD: usize = 64 * 1024;

/// Written output is cut off its buffer where there is so much of it.
const WRITTEN: usize = 256 * 1024;

/// A server's side of an SSH connection, or a client's.
pub struct Session {
    negotiation: Negotiation,
    socket: TcpStream,
    /// Bytes read, and not yet used: the first `filled`. The rest is room for more.
    unread: Vec<u8>,
    filled: usize,
    /// Whether whole packets may be among them.
    has_input: bool,
    /// The client's part of a key exchange, which is taken next.
    computation: Option<Vec<u8>>,
    /// Packets, the first `written` bytes of which the socket has taken.
    output: Vec<u8>,
    written: usize,
    /// Messages that have to wait for our NEWKEYS, each behind its length as uint32.
    queued: Vec<u8>,
    opener: Opener,
    sealer: Sealer,
    /// For after the peer's NEWKEYS, once ours is out.
    next_opener: Option<Opener>,
    /// From our KEXINIT to our NEWKEYS; before the first KEXINIT, too.
    holds: bool,
    phase: Phase,
    /// A message has come in the clear that strict key exchange forbids.
    tainted: bool,
    reader: Reader,
    /// The peer's identification string, once it has come.
    peer: Option<String>,
    /// The peer is to be told nothing more: it has gone, or speaks no SSH, or nothing can be sealed.
    silent: bool,
    /// The first exchange hash.
    identifier: Vec<u8>,
}

impl Session {
    /// Begins a session on a connected socket: the identification string is ready to be flushed.
    pub fn new(socket: TcpStream, algorithms: &Algorithms, keys: Arc<HostKeys>) -> Result<Self, Error> {
        Session::create(socket, algorithms, Negotiation::server(algorithms, keys)?, Reader::client())
    }

    /// Begins a session as the client of a server on a connected socket. Its messages are 6, 51, 52, 60 and 80 to 100.
    pub fn connect(socket: TcpStream, algorithms: &Algorithms) -> Result<Self, Error> {
        Session::create(socket, algorithms, Negotiation::client(algorithms)?, Reader::server())
    }

    fn create(
        socket: TcpStream,
        algorithms: &Algorithms,
        negotiation: Negotiation,
        reader: Reader,
    ) -> Result<Self, Error> {
        socket.set_nonblocking(true).map_err(Error::Io)?;
        let phase = Phase { side: negotiation.side(), stage: Stage::Exchanging, exchanging: true, expecting: false };
        Ok(Session {
            negotiation,
            socket,
            unread: Vec::new(),
            filled: 0,
            has_input: false,
            computation: None,
            output: [algorithms.identification.as_bytes(), b"\r\n"].concat(),
            written: 0,
            queued: Vec::new(),
            opener: Opener::plain(),
            sealer: Sealer::plain(),
            next_opener: None,
            holds: true,
            phase,
            tainted: false,
            reader,
            peer: None,
            silent: false,
            identifier: Vec::new(),
        })
    }

    /// The socket, for polling.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads once from the socket, and appends the messages that became whole to `messages`, each behind its length as
    /// uint32. They are 5, 50, 61 and 80 to 100; all others have been dealt with. Nothing to read is no error. Where what
    /// was read before comes to much, it goes on with that instead: see [`Session::has_input`]. A server stops before each
    /// part of a client's in a key exchange, and does nothing but take that the next time: see [`Session::will_compute`].
    pub fn receive(&mut self, messages: &mut Vec<u8>) -> Result<(), Error> {
        let result = match self.computation.take() {
            Some(message) => {
                self.has_input = self.filled > 0;
                self.exchange(&message)
            }
            None => self.receive_packets(messages),
        };
        if result.is_err() && self.sealer.is_plain() {
            // A failed first key exchange: the peer shall see our KEXINIT, or what is wrong with its identification. So few
            // bytes always find room.
            let _ = self.flush();
        }
        result
    }

    /// Whether [`Session::receive`] has left something of what it has read, and is to be called again, whether there is
    /// more to read or not.
    pub fn has_input(&self) -> bool {
        self.has_input
    }

    /// Whether the next [`Session::receive`] is the one that takes long: it computes the server's part of a key exchange,
    /// which a large group takes a tenth of a second for. It waits for nothing.
    pub fn will_compute(&self) -> bool {
        self.computation.is_some()
    }

    fn receive_packets(&mut self, messages: &mut Vec<u8>) -> Result<(), Error> {
        if !std::mem::take(&mut self.has_input) {
            self.read()?;
        }
        let mut used = 0;
        let result = self.process(&mut used, messages);
        self.unread.copy_within(used..self.filled, 0);
        self.filled -= used;
        result
    }

    fn read(&mut self) -> Result<(), Error> {
        if self.unread.len() < self.filled + READ {
            self.unread.try_reserve_exact(self.filled + READ - self.unread.len())?;
            self.unread.resize(self.filled + READ, 0);
        }
        match self.socket.read(&mut self.unread[self.filled..]) {
            Ok(0) => Err(Error::Closed),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(Error::Io(error)),
        }
    }

    /// Opens the packets in what was read; `used` are the bytes that are not needed any more.
    fn process(&mut self, used: &mut usize, messages: &mut Vec<u8>) -> Result<(), Error> {
        if self.peer.is_none() && !self.identify(used)? {
            return Ok(());
        }
        let most = messages.len() + self.pending() + TURN;
        loop {
            if messages.len() + self.pending() >= most {
                self.has_input = *used < self.filled;
                break;
            }
            let Some(packet) = self.opener.open(&mut self.unread[*used..self.filled])? else { break };
            *used += packet.length;
            let message = packet.message;
            let number = message[0];
            let fate = self.phase.fate(number);
            if fate == Fate::Owner {
                messages.try_reserve(4 + message.len())?;
                frame(messages, message);
                if number == number::USERAUTH_SUCCESS {
                    self.begin_connection();
                }
                continue;
            }
            // Few, and not large.
            let message = message.to_vec();
            self.tainted |= self.opener.is_plain() && !Phase::is_strict(number);
            match fate {
                Fate::Owner | Fate::Ignore => (),
                Fate::Compute => {
                    self.computation = Some(message);
                    self.has_input = true;
                    break;
                }
                Fate::Exchange => self.exchange(&message)?,
                Fate::Disconnect => {
                    self.silent = true;
                    return Err(Error::Protocol(message::farewell(&message)));
                }
                Fate::Ping => self.pong(&message)?,
                Fate::Unknown => self.unimplemented()?,
                Fate::Refuse => return Err(PacketError::Message(number).into()),
            }
        }
        self.exchange_if_spent()
    }

    /// Answers a ping with what it says. A key exchange holds the answer up, and only so many of them.
    fn pong(&mut self, message: &[u8]) -> Result<(), Error> {
        let says = &message[1..];
        if frames(says).next().is_none_or(|text| text.len() + 4 != says.len()) || self.queued.len() > MOST_HELD {
            return Err(PacketError::Message(number::PING).into());
        }
        self.send(&[&[number::PONG], says].concat())
    }

    /// Looks for the peer's identification; whether it has come.
    fn identify(&mut self, used: &mut usize) -> Result<bool, Error> {
        match self.reader.read(&self.unread[..self.filled]) {
            Found::Nothing(read) => {
                *used = read;
                Ok(false)
            }
            Found::Bad(reason) => {
                self.silent = true;
                self.output.extend_from_slice(reason.as_bytes());
                self.output.extend_from_slice(b"\r\n");
                Err(Error::Identification(reason))
            }
            Found::Identification(identification, read) => {
                *used = read;
                self.negotiation.identified(identification);
                self.peer = Some(identification.to_owned());
                self.follow()?;
                Ok(true)
            }
        }
    }

    /// Takes the peer's message of a key exchange.
    fn exchange(&mut self, message: &[u8]) -> Result<(), Error> {
        let number = message[0];
        if number == number::NEWKEYS && self.tainted && self.negotiation.is_strict() {
            return Err(PacketError::Strict.into());
        }
        match self.negotiation.take(message)? {
            Taken::Yes => (),
            Taken::NotAllowed => return Err(PacketError::Message(number).into()),
            Taken::NotHandled => self.unimplemented()?,
        }
        self.follow()?;
        if number == number::NEWKEYS {
            let mut opener = self.next_opener.take().ok_or(PacketError::Message(number))?;
            if !self.negotiation.is_strict() {
                opener.continue_from(self.opener.sequence());
            }
            if self.phase.stage == Stage::Authenticated {
                opener.enable_compression();
            }
            self.opener = opener;
        }
        Ok(())
    }

    /// Sends what the key exchange has to say, and sees how far it is.
    fn follow(&mut self) -> Result<(), Error> {
        let output = self.negotiation.take_output();
        for message in frames(&output) {
            match message.first() {
                Some(&number::KEXINIT) => self.holds = true,
                Some(_) => (),
                None => continue,
            }
            self.put_out(message)?;
            if message[0] == number::NEWKEYS {
                // Without new keys nothing may follow it, under the old ones least of all.
                self.renew_keys().inspect_err(|_| self.silent = true)?;
            }
        }
        self.phase.exchanging = self.negotiation.is_exchanging();
        self.phase.stage = self.negotiation.stage()?;
        Ok(())
    }

    /// Our NEWKEYS is out: what comes next, and what has waited, is sealed by the new keys.
    fn renew_keys(&mut self) -> Result<(), Error> {
        let agreement = self.negotiation.agreement()?;
        let side = self.phase.side;
        let mut sealer = agreement.exchange.sealer(side, agreement.sending)?;
        if !self.negotiation.is_strict() {
            sealer.continue_from(self.sealer.sequence());
        }
        if self.negotiation.is_authenticated() {
            sealer.enable_compression();
        }
        self.next_opener = Some(agreement.exchange.opener(side, agreement.receiving)?);
        self.sealer = sealer;
        self.identifier = agreement.exchange.identifier;
        self.holds = false;
        for message in frames(&std::mem::take(&mut self.queued)) {
            self.put_out(message)?;
        }
        Ok(())
    }

    /// Appends a packet to the output. A sealer that has failed is not used again.
    fn put_out(&mut self, message: &[u8]) -> Result<(), Error> {
        Ok(self.sealer.seal(message, &mut self.output).inspect_err(|_| self.silent = true)?)
    }

    /// Begins a key exchange where one key has been used for much (RFC 4344 section 3, RFC 4253 section 9).
    fn exchange_if_spent(&mut self) -> Result<(), Error> {
        if self.opener.is_spent() || self.sealer.is_spent() { self.exchange_keys() } else { Ok(()) }
    }

    /// Begins a key exchange anew, where one may begin now: the user is logged in, and none is under way.
    pub fn exchange_keys(&mut self) -> Result<(), Error> {
        if self.phase.stage != Stage::Authenticated || self.phase.exchanging {
            return Ok(());
        }
        self.negotiation.rekey();
        self.follow()
    }

    /// Answers the packet that was opened last.
    fn unimplemented(&mut self) -> Result<(), Error> {
        let sequence = self.opener.sequence().wrapping_sub(1).to_be_bytes();
        let message = [&[number::UNIMPLEMENTED], &sequence[..]].concat();
        self.put_out(&message)
    }

    /// Sends one message, its number first. Between our KEXINIT and NEWKEYS it is kept: a bulk sender stops while
    /// [`Session::is_exchanging`], so that little is kept.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        let Some(number) = message.first() else { return Ok(()) };
        if self.holds && !Phase::passes(*number) {
            self.queued.try_reserve(4 + message.len())?;
            frame(&mut self.queued, message);
            return Ok(());
        }
        self.put_out(message)?;
        self.exchange_if_spent()
    }

    /// How many bytes wait for the peer: output for [`Session::flush`], and messages that a key exchange holds up.
    pub fn pending(&self) -> usize {
        self.output.len() - self.written + self.queued.len()
    }

    /// Whether there is output for [`Session::flush`].
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> Result<(), Error> {
        if !self.has_output() {
            return Ok(());
        }
        match self.socket.write(&self.output[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => (),
            Err(error) => return Err(Error::Io(error)),
        }
        if self.written == self.output.len() || self.written >= WRITTEN {
            self.output.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Writes what waits, to a peer that reads, for `time` at most. What cannot be written by then stays.
    pub fn flush_within(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.has_output() {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&timeout));
            if left.is_zero() || ready != Ok(1) || self.flush().is_err() {
                return;
            }
        }
    }

    /// Sends SSH_MSG_USERAUTH_SUCCESS, after which connection messages pass both ways.
    pub fn authenticated(&mut self) -> Result<(), Error> {
        self.send(&[number::USERAUTH_SUCCESS])?;
        self.begin_connection();
        Ok(())
    }

    /// SSH_MSG_USERAUTH_SUCCESS has been sent, or has come.
    fn begin_connection(&mut self) {
        self.negotiation.authenticated();
        self.phase.stage = Stage::Authenticated;
        self.sealer.enable_compression();
        self.opener.enable_compression();
    }

    /// Lets SSH_MSG_USERAUTH_INFO_RESPONSE through (RFC 4256): to be called with each INFO_REQUEST.
    pub fn expect_information(&mut self) {
        self.phase.expecting = true;
    }

    /// Lets the answers to a client's service request, or authentication request, through.
    pub fn expect_answers(&mut self) {
        self.phase.expecting = true;
    }

    /// The server's host key, encoded (RFC 4253 section 6.6), once the first key exchange has shown that it has it.
    pub fn host_key(&self) -> Option<Vec<u8>> {
        self.negotiation.host_key()
    }

    /// Whether a key exchange is under way, the first one included.
    pub fn is_exchanging(&self) -> bool {
        self.phase.exchanging
    }

    /// The session identifier (RFC 4253 section 7.2), which signatures of user keys cover; empty before the first key
    /// exchange is over.
    pub fn identifier(&self) -> &[u8] {
        &self.identifier
    }

    /// The peer's identification string, where it has come.
    pub fn client(&self) -> Option<String> {
        self.peer.clone()
    }

    /// Gives back the memory of buffers that hold nothing: to be called where the connection falls idle.
    pub fn shrink(&mut self) {
        self.unread.truncate(self.filled);
        self.unread.shrink_to_fit();
        self.output.drain(..self.written);
        self.written = 0;
        self.output.shrink_to_fit();
        self.queued.shrink_to_fit();
        self.opener.shrink();
        self.negotiation.shrink();
    }

    /// Sends SSH_MSG_DISCONNECT (RFC 4253 section 11.1) as far as that goes, and ends the connection. Does not wait for
    /// a client that reads nothing, and says nothing to one that has not said what it is.
    pub fn disconnect(mut self, reason: u32, description: &str) {
        if self.peer.is_some() && !self.silent {
            let message = message::disconnect(reason, description);
            // Where it fails, there is nothing more to be said.
            let _ = self.put_out(&message);
        }
        if is_writable(&self.socket) {
            let _ = self.flush();
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}

/// Where a send would not block. A socket that takes nothing now belongs to a client that is not reading.
fn is_writable(socket: &TcpStream) -> bool {
    // An empty send tells nothing; but one poll more at the end of a connection costs nothing either.
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())) == Ok(1)
}

#[cfg(test)]
mod tests;
