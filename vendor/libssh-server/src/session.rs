//! One client's transport.

use std::collections::TryReserveError;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::ffi;
use crate::key::HostKeys;
use crate::number;

/// Bytes offered to libssh at a time. It calls itself once per packet in them, and the smallest packet has 16 bytes, so
/// this bounds the depth of its stack to some hundred frames. It is also libssh's own size for a read.
const STEP: usize = 4096;

/// Bytes read from the socket at a time.
const READ: usize = 64 * 1024;

/// The longest packet that libssh takes (its MAX_PACKET_LEN), with its header and MAC.
const LONGEST: usize = 262_144 + 1024;

/// The algorithms that a server offers: comma-separated names, the preferred ones first.
#[derive(Clone, Debug)]
pub struct Algorithms {
    methods: [CString; ffi::METHODS],
    signature_algorithms: CString,
    banner: CString,
}

impl Algorithms {
    /// `software` is what stands after `SSH-2.0-` in the own identification. A name with a NUL ends there.
    ///
    /// `signature_algorithms` are those that a user's key may sign with (`server-sig-algs`, RFC 8308 section 3.1).
    pub fn new(
        software: &str,
        key_exchange: &str,
        host_keys: &str,
        ciphers: &str,
        macs: &str,
        signature_algorithms: &str,
    ) -> Self {
        let compression = "none,zlib@openssh.com";
        Algorithms {
            // The order of enum ssh_kex_types_e; the last two are languages.
            methods: [key_exchange, host_keys, ciphers, ciphers, macs, macs, compression, compression, "", ""]
                .map(text),
            signature_algorithms: text(signature_algorithms),
            banner: text(software),
        }
    }
}

fn text(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// Why a session ended.
#[derive(Debug)]
pub enum Error {
    /// The other side closed the connection, without or with SSH_MSG_DISCONNECT.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// The other side broke the protocol, offered no algorithm in common, or disconnected with a reason: libssh's words.
    Protocol(String),
    /// No memory for a session.
    Memory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the client closed the connection"),
            Error::Io(error) => write!(f, "the connection failed: {error}"),
            // In quotes: the words may be the peer's.
            Error::Protocol(reason) => write!(f, "{reason:?}"),
            Error::Memory => f.write_str("out of memory"),
        }
    }
}

impl std::error::Error for Error {}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Error::Memory
    }
}

/// Takes messages out of libssh's callback.
type Inbox = Vec<u8>;

/// A server's side of an SSH connection, or a client's.
pub struct Session {
    raw: NonNull<ffi::RawSession>,
    /// Another descriptor of libssh's socket: libssh closes its own when it likes.
    socket: TcpStream,
    /// Bytes read, and not yet used by libssh: the first `filled`. The rest is room for more.
    unread: Vec<u8>,
    filled: usize,
    /// Messages received, each behind its length as uint32: where the callback puts them. Boxed, since C holds its address.
    inbox: Box<Inbox>,
    // Held until libssh's session is gone: it borrows them.
    _keys: Arc<HostKeys>,
}

// SAFETY: an `ssh_session` may be used by any one thread at a time, and all uses go through `&mut self` or `&self` of
// this type, which is not Sync.
unsafe impl Send for Session {}

impl Session {
    /// Begins a session on a connected socket: the identification string and the first KEXINIT are ready to be flushed.
    pub fn new(socket: TcpStream, algorithms: &Algorithms, keys: Arc<HostKeys>) -> Result<Self, Error> {
        let certificates = text(&keys.certificates(&algorithms.methods[1].to_string_lossy()));
        let [plain, certified] = keys.pointers();
        Session::create(socket, algorithms, keys, |socket, methods, inbox| {
            // SAFETY: the strings and the arrays outlive the call, which copies them; the keys and the inbox outlive the
            // session, as fields dropped after it; the descriptor becomes libssh's.
            unsafe {
                ffi::berth_session_new(
                    socket,
                    algorithms.banner.as_ptr(),
                    methods.as_ptr(),
                    algorithms.signature_algorithms.as_ptr(),
                    certificates.as_ptr(),
                    plain.as_ptr(),
                    certified.as_ptr(),
                    on_message,
                    inbox,
                )
            }
        })
    }

    /// Begins a session as the client of a server on a connected socket. Its messages are 6, 51, 52, 60 and 80 to 100.
    pub fn connect(socket: TcpStream, algorithms: &Algorithms) -> Result<Self, Error> {
        let identification = [c"SSH-2.0-".to_bytes(), algorithms.banner.to_bytes()].concat();
        let identification = CString::new(identification).unwrap_or_default();
        Session::create(socket, algorithms, Arc::default(), |socket, methods, inbox| {
            // SAFETY: the strings and the array outlive the call, which copies them; the inbox outlives the session; the
            // descriptor becomes libssh's.
            unsafe { ffi::berth_session_connect(socket, identification.as_ptr(), methods.as_ptr(), on_message, inbox) }
        })
    }

    /// `make` is given the socket, the algorithms and the inbox.
    fn create(
        socket: TcpStream,
        algorithms: &Algorithms,
        keys: Arc<HostKeys>,
        make: impl FnOnce(RawFd, &[*const c_char; ffi::METHODS], *mut c_void) -> *mut ffi::RawSession,
    ) -> Result<Self, Error> {
        ffi::initialise();
        socket.set_nonblocking(true).map_err(Error::Io)?;
        let libssh_socket = socket.try_clone().map_err(Error::Io)?;
        let methods = algorithms.methods.each_ref().map(|list| list.as_ptr());
        let mut inbox = Box::new(Inbox::new());
        let raw = make(libssh_socket.into_raw_fd(), &methods, (&raw mut *inbox).cast::<c_void>());
        Ok(Session {
            raw: NonNull::new(raw).ok_or(Error::Memory)?,
            socket,
            unread: Vec::new(),
            filled: 0,
            inbox,
            _keys: keys,
        })
    }

    /// The socket, for polling.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads once from the socket, and appends the messages that became whole to `messages`, each behind its length as
    /// uint32. They are 5, 50, 61 and 80 to 100; all others libssh has dealt with. Nothing to read is no error.
    pub fn receive(&mut self, messages: &mut Vec<u8>) -> Result<(), Error> {
        if self.unread.len() < self.filled + READ {
            self.unread.try_reserve_exact(self.filled + READ - self.unread.len())?;
            self.unread.resize(self.filled + READ, 0);
        }
        match self.socket.read(&mut self.unread[self.filled..]) {
            Ok(0) => return Err(Error::Closed),
            Ok(count) => self.filled += count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => (),
            Err(error) => return Err(Error::Io(error)),
        }
        let result = self.process();
        if messages.is_empty() {
            // Without a copy, and each keeps memory for the next.
            std::mem::swap(messages, &mut self.inbox);
        } else {
            messages.append(&mut self.inbox);
        }
        result
    }

    /// Gives back the memory of buffers that hold nothing: to be called where the connection falls idle.
    pub fn shrink(&mut self) {
        self.unread.truncate(self.filled);
        self.unread.shrink_to_fit();
        self.inbox.shrink_to_fit();
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_shrink(self.raw.as_ptr()) }
    }

    /// Gives what was read to libssh, in steps.
    fn process(&mut self) -> Result<(), Error> {
        let mut used = 0;
        let mut offer = STEP;
        while used < self.filled {
            let rest = &mut self.unread[used..self.filled];
            let (offered, all) = (offer.min(rest.len()), rest.len());
            // SAFETY: the pointer and length are of `rest`, which libssh may change; the callback writes to the inbox
            // alone, which nothing else refers to during the call.
            let taken = unsafe { ffi::berth_session_receive(self.raw.as_ptr(), rest.as_mut_ptr(), offered) };
            used += taken.min(offered);
            self.state()?;
            if !self.is_encrypted() && self.pending() > 0 {
                // A failed first key exchange closes libssh's socket with what it buffers: the client shall see our
                // KEXINIT all the same. So few bytes always find room.
                self.flush()?;
            }
            match taken {
                // Half a packet: libssh wants to see more of it at once.
                0 if offered < all => offer += STEP,
                0 => break,
                _ => offer = STEP,
            }
        }
        self.unread.copy_within(used..self.filled, 0);
        self.filled -= used;
        if self.filled > LONGEST {
            return Err(Error::Protocol("packet too long".into()));
        }
        Ok(())
    }

    /// Whether there is output for [`Session::flush`], in bytes.
    pub fn pending(&self) -> usize {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_pending(self.raw.as_ptr()) }
    }

    /// Writes what the socket takes. To be called where it is known to be writable (POLLOUT).
    pub fn flush(&mut self) -> Result<(), Error> {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_flush(self.raw.as_ptr()) };
        self.state()
    }

    /// Writes what waits, to a peer that reads, for `time` at most. What cannot be written by then stays.
    pub fn flush_within(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.pending() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&timeout));
            if left.is_zero() || ready != Ok(1) || self.flush().is_err() {
                return;
            }
        }
    }

    /// Sends one message, its number first. While [`Session::is_exchanging`] it is kept until that is over: a bulk
    /// sender stops then, so that little is kept.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(message.len()).map_err(|_| Error::Memory)?;
        // SAFETY: pointer and length are of `message`, which is copied.
        match unsafe { ffi::berth_session_send(self.raw.as_ptr(), message.as_ptr(), length) } {
            ffi::OK => Ok(()),
            _ => Err(self.protocol_error()),
        }
    }

    /// Sends SSH_MSG_USERAUTH_SUCCESS, after which connection messages pass both ways.
    pub fn authenticated(&mut self) -> Result<(), Error> {
        // SAFETY: the session is live.
        match unsafe { ffi::berth_session_authenticated(self.raw.as_ptr()) } {
            ffi::OK => Ok(()),
            _ => Err(self.protocol_error()),
        }
    }

    /// Lets the next SSH_MSG_USERAUTH_INFO_RESPONSE through (RFC 4256): to be called with each INFO_REQUEST.
    pub fn expect_information(&mut self) {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_expect_information(self.raw.as_ptr()) }
    }

    /// Lets the answers to a client's service request, or authentication request, through.
    pub fn expect_answers(&mut self) {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_expect_answers(self.raw.as_ptr()) }
    }

    /// The server's host key, encoded (RFC 4253 section 6.6), once the first key exchange has shown that it has it.
    pub fn host_key(&self) -> Option<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the session is live; the answer is ours to free.
        unsafe { crate::key::take_bytes(ffi::berth_session_host_key(self.raw.as_ptr(), &raw mut length), length) }
    }

    /// Whether a key exchange is under way, the first one included.
    pub fn is_exchanging(&self) -> bool {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_exchanging(self.raw.as_ptr()) != 0 }
    }

    fn is_encrypted(&self) -> bool {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_encrypted(self.raw.as_ptr()) != 0 }
    }

    /// The session identifier (RFC 4253 section 7.2), which signatures of user keys cover; empty before the first key
    /// exchange is over.
    pub fn identifier(&self) -> &[u8] {
        let mut length = 0;
        // SAFETY: the session is live; the bytes are its own until it ends: the first exchange hash never changes.
        unsafe {
            let bytes = ffi::berth_session_identifier(self.raw.as_ptr(), &raw mut length);
            if bytes.is_null() { &[] } else { std::slice::from_raw_parts(bytes, length) }
        }
    }

    /// The client's identification string, where it has come.
    pub fn client(&self) -> Option<String> {
        // SAFETY: null or a C string of the session's.
        let banner = unsafe { ffi::berth_session_client_banner(self.raw.as_ptr()) };
        // SAFETY: as above.
        (!banner.is_null()).then(|| unsafe { CStr::from_ptr(banner) }.to_string_lossy().into_owned())
    }

    /// Sends SSH_MSG_DISCONNECT (RFC 4253 section 11.1) as far as that goes, and ends the connection. Does not wait for
    /// a client that reads nothing.
    pub fn disconnect(mut self, reason: u32, description: &str) {
        let description = &description.as_bytes()[..description.len().min(255)];
        let mut message = vec![number::DISCONNECT];
        message.extend_from_slice(&reason.to_be_bytes());
        message.extend_from_slice(&(description.len() as u32).to_be_bytes());
        message.extend_from_slice(description);
        message.extend_from_slice(&0u32.to_be_bytes());
        if self.state().is_ok() && !self.is_exchanging() {
            if self.send(&message).is_ok() && is_writable(&self.socket) {
                let _ = self.flush();
            }
        } else if !self.is_encrypted() {
            // libssh closes its descriptor at a failed first key exchange; the packet is plain then (RFC 4253 section 6).
            let padding = 8 - (message.len() + 5) % 8 + 8;
            let mut packet = ((message.len() + padding + 1) as u32).to_be_bytes().to_vec();
            packet.push(padding as u8);
            packet.extend_from_slice(&message);
            packet.resize(packet.len() + padding, 0);
            let _ = self.socket.write(&packet);
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    fn state(&self) -> Result<(), Error> {
        // SAFETY: the session is live.
        match unsafe { ffi::berth_session_state(self.raw.as_ptr()) } {
            ffi::OK => Ok(()),
            _ => Err(self.protocol_error()),
        }
    }

    fn protocol_error(&self) -> Error {
        // SAFETY: libssh's error text is a C string inside the session, copied here.
        let reason: *const c_char = unsafe { ffi::berth_session_error(self.raw.as_ptr()) };
        // SAFETY: as above.
        let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned();
        if reason.is_empty() { Error::Closed } else { Error::Protocol(reason) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is live and freed once; the keys and the inbox are dropped after it.
        unsafe { ffi::berth_session_free(self.raw.as_ptr()) }
    }
}

/// Where a send would not block. A socket that takes nothing now belongs to a client that is not reading.
fn is_writable(socket: &TcpStream) -> bool {
    // An empty send tells nothing; but one poll more at the end of a connection costs nothing either.
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready == 1)
}

/// libssh's `berth_message_callback`.
///
/// # Safety
/// `user` is the session's inbox; `message` has `length` bytes.
unsafe extern "C" fn on_message(user: *mut c_void, message: *const u8, length: usize) {
    // SAFETY: what the contract above says; the inbox is not otherwise in use during a call into libssh.
    let (inbox, message) = unsafe { (&mut *user.cast::<Inbox>(), std::slice::from_raw_parts(message, length)) };
    // libssh bounds a packet to 256 KiB, so the length fits.
    inbox.extend_from_slice(&(length as u32).to_be_bytes());
    inbox.extend_from_slice(message);
}
