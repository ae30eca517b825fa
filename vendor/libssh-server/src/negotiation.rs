//! libssh's part: key exchanges, as messages in and messages out.

mod hybrid;

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::algorithms::{Algorithms, text};
use crate::error::{Error, PacketError};
use crate::ffi;
use crate::key::HostKeys;
use crate::packet::{Algorithm, Exchange, Hash, Side};
use crate::secret::Secret;

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In a key exchange, from the peer's KEXINIT until its NEWKEYS, and before the first one.
    Exchanging,
    /// Before the user is logged in.
    Authenticating,
    /// The user is logged in.
    Authenticated,
}

/// What became of a message of a key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// It may not come now.
    NotAllowed,
    /// The method has no such message.
    NotHandled,
}

/// What a key exchange came to, and the algorithms of what is sent and of what is received.
pub(crate) struct Agreement {
    pub exchange: Exchange,
    pub sending: Algorithm,
    pub receiving: Algorithm,
}

/// The place of the host keys' algorithms among the lists.
const HOST_KEYS: usize = 1;

/// A session of libssh's.
pub(crate) struct Negotiation {
    raw: NonNull<ffi::RawSession>,
    side: Side,
    authenticated: bool,
    hybrid: hybrid::State,
    // Held until libssh's session is gone: it borrows them.
    _keys: Arc<HostKeys>,
}

// SAFETY: an `ssh_session` may be used by any one thread at a time, and all uses go through `&mut self` or `&self` of
// this type, which is not Sync.
unsafe impl Send for Negotiation {}

impl Negotiation {
    /// A server's.
    pub fn server(algorithms: &Algorithms, keys: Arc<HostKeys>) -> Result<Self, Error> {
        ffi::initialise();
        let host_keys = text(&keys.algorithms(&algorithms.methods[HOST_KEYS].to_string_lossy()));
        let [plain, certified] = keys.pointers();
        let mut methods = algorithms.methods.each_ref().map(|list| list.as_ptr());
        methods[HOST_KEYS] = host_keys.as_ptr();
        // SAFETY: the strings and the arrays outlive the call, which copies them; the keys outlive the session, as a field
        // dropped after it.
        let raw = unsafe {
            ffi::berth_session_new(
                algorithms.identification.as_ptr(),
                methods.as_ptr(),
                algorithms.signature_algorithms.as_ptr(),
                plain.as_ptr(),
                certified.as_ptr(),
            )
        };
        Ok(Negotiation {
            raw: NonNull::new(raw).ok_or(Error::Memory)?,
            side: Side::Server,
            authenticated: false,
            hybrid: hybrid::State::default(),
            _keys: keys,
        })
    }

    /// A client's.
    pub fn client(algorithms: &Algorithms) -> Result<Self, Error> {
        ffi::initialise();
        let methods = algorithms.methods.each_ref().map(|list| list.as_ptr());
        // SAFETY: the strings and the array outlive the call, which copies them.
        let raw = unsafe { ffi::berth_session_connect(algorithms.identification.as_ptr(), methods.as_ptr()) };
        let raw = NonNull::new(raw).ok_or(Error::Memory)?;
        Ok(Negotiation {
            raw,
            side: Side::Client,
            authenticated: false,
            hybrid: hybrid::State::default(),
            _keys: Arc::default(),
        })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// Takes the peer's identification string, and begins the first key exchange.
    pub fn identified(&mut self, identification: &str) {
        let identification = text(identification);
        // SAFETY: the session is live; the string outlives the call, which copies it.
        unsafe { ffi::berth_session_identified(self.raw.as_ptr(), identification.as_ptr()) }
    }

    /// Takes a message of a key exchange, its number first.
    pub fn take(&mut self, message: &[u8]) -> Result<Taken, Error> {
        let (Some((&number, body)), Ok(length)) = (message.split_first(), u32::try_from(message.len())) else {
            return Ok(Taken::NotAllowed);
        };
        // SAFETY: the session is live; pointer and length are of `body`, which is copied.
        match unsafe { ffi::berth_session_exchange(self.raw.as_ptr(), number, body.as_ptr(), length - 1) } {
            ffi::NOT_ALLOWED => Ok(Taken::NotAllowed),
            ffi::NOT_HANDLED => Ok(Taken::NotHandled),
            ffi::HYBRID => self.exchange_hybrid(number, body).map(|()| Taken::Yes),
            _ => Ok(Taken::Yes),
        }
    }

    /// Begins a key exchange anew. Only for an authenticated session in which none is under way.
    pub fn rekey(&mut self) {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_rekey(self.raw.as_ptr()) }
    }

    /// The messages to be sent, each behind its length as uint32.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut length = 0;
        // SAFETY: the session is live; the bytes are its own until the second call, and copied before it.
        unsafe {
            let bytes = ffi::berth_session_outbox(self.raw.as_ptr(), &raw mut length);
            let copy = copied(bytes, length);
            ffi::berth_session_sent(self.raw.as_ptr());
            copy
        }
    }

    /// How far the session is, or why it is no further.
    pub fn stage(&self) -> Result<Stage, Error> {
        // SAFETY: the session is live.
        match unsafe { ffi::berth_session_stage(self.raw.as_ptr()) } {
            ffi::stage::EXCHANGING => Ok(Stage::Exchanging),
            ffi::stage::AUTHENTICATING => Ok(Stage::Authenticating),
            ffi::stage::AUTHENTICATED => Ok(Stage::Authenticated),
            _ => Err(self.error()),
        }
    }

    /// Whether a key exchange is under way, the first one included, from either side's KEXINIT on.
    pub fn is_exchanging(&self) -> bool {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_exchanging(self.raw.as_ptr()) != 0 }
    }

    /// Whether both sides are strict in key exchanges: known once the peer's first KEXINIT has come.
    pub fn is_strict(&self) -> bool {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_strict(self.raw.as_ptr()) != 0 }
    }

    /// Whether the user is logged in, in the midst of a key exchange as well.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// The user is logged in.
    pub fn authenticated(&mut self) {
        self.authenticated = true;
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_authenticated(self.raw.as_ptr()) }
    }

    /// What the key exchange came to whose NEWKEYS has just been put out, and the peer's has not come yet.
    pub fn agreement(&mut self) -> Result<Agreement, Error> {
        let raw = self.raw.as_ptr();
        let (mut hash, mut identifier, mut secret) = (0, 0, 0);
        // SAFETY: the session is live; each answer is null or has as many bytes as it says, and is copied; the secret is
        // ours to free.
        let (hash, identifier, secret) = unsafe {
            let (h, i) =
                (ffi::berth_session_hash(raw, &raw mut hash), ffi::berth_session_identifier(raw, &raw mut identifier));
            let k = ffi::berth_session_secret(raw, &raw mut secret);
            let copies = (copied(h, hash), copied(i, identifier), Secret::new(copied(k, secret)));
            if !k.is_null() {
                ffi::berth_secret_free(k, secret);
            }
            copies
        };
        let secret = self.hybrid.secret.take().unwrap_or(secret);
        let method = self.method(ffi::method::KEY_EXCHANGE);
        let algorithm = |place: usize| {
            let [cipher, mac, compression] = [ffi::method::CIPHER, ffi::method::MAC, ffi::method::COMPRESSION]
                .map(|places| self.method(places[place]));
            Algorithm::named(&cipher, &mac, &compression).ok_or(PacketError::Cipher)
        };
        // RFC 4253 section 7.1 names the client's direction first.
        let (from_client, from_server) = (algorithm(0)?, algorithm(1)?);
        let (sending, receiving) = match self.side {
            Side::Client => (from_client, from_server),
            Side::Server => (from_server, from_client),
        };
        let function = Hash::of(&method).ok_or(PacketError::Cipher)?;
        if hash.is_empty() || identifier.is_empty() || secret.is_empty() {
            return Err(Error::Packet(PacketError::Cipher));
        }
        Ok(Agreement { exchange: Exchange { secret, hash, identifier, function }, sending, receiving })
    }

    /// The name of what was chosen, or nothing.
    fn method(&self, place: c_int) -> String {
        // SAFETY: the session is live; the answer is null or a C string of its, which is copied.
        unsafe {
            let name = ffi::berth_session_method(self.raw.as_ptr(), place);
            if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        }
    }

    /// The server's host key, encoded.
    pub fn host_key(&self) -> Option<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the session is live; the answer is ours to free.
        unsafe { crate::key::take_bytes(ffi::berth_session_host_key(self.raw.as_ptr(), &raw mut length), length) }
    }

    /// Gives back the memory of buffers that hold nothing.
    pub fn shrink(&mut self) {
        // SAFETY: the session is live.
        unsafe { ffi::berth_session_shrink(self.raw.as_ptr()) }
    }

    /// Why the session failed, in libssh's words.
    fn error(&self) -> Error {
        // SAFETY: the session is live; its error text is a C string inside of it, which is copied.
        let reason = unsafe { CStr::from_ptr(ffi::berth_session_error(self.raw.as_ptr())) };
        match reason.to_string_lossy() {
            reason if reason.is_empty() => Error::Protocol("the key exchange failed".into()),
            reason => Error::Protocol(reason.into_owned()),
        }
    }
}

impl Drop for Negotiation {
    fn drop(&mut self) {
        // SAFETY: the session is live and freed once; the keys are dropped after it.
        unsafe { ffi::berth_session_free(self.raw.as_ptr()) }
    }
}

/// # Safety
/// `bytes` is null or has `length` bytes.
unsafe fn copied(bytes: *const u8, length: usize) -> Vec<u8> {
    // SAFETY: what the contract above says.
    if bytes.is_null() { Vec::new() } else { unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec() }
}
