//! The functions of shim.c, and nothing else of libssh. What each requires is said there.

use std::ffi::{c_char, c_int};

// Nothing of it is called from Rust, but it brings libssh and OpenSSL to the linker.
use libssh_rs_sys as _;
use openssl_sys as _;

/// `struct berth_session`
#[repr(C)]
pub struct RawSession {
    _opaque: [u8; 0],
}

/// `struct ssh_key_struct`
#[repr(C)]
pub struct RawKey {
    _opaque: [u8; 0],
}

/// `SSH_KEX_METHODS`
pub const METHODS: usize = 10;

/// What [`berth_session_exchange`] gives for a message that may not come now.
pub const NOT_ALLOWED: c_int = 1;

/// And for one that no handler wants.
pub const NOT_HANDLED: c_int = 2;

/// And where the rest of the hybrid method is the caller's.
pub const HYBRID: c_int = 3;

/// What functions give that do no more than what they say.
pub const OK: c_int = 0;

/// What [`berth_session_stage`] gives.
pub mod stage {
    use std::ffi::c_int;

    pub const EXCHANGING: c_int = 1;
    pub const AUTHENTICATING: c_int = 2;
    pub const AUTHENTICATED: c_int = 3;
}

/// Places of enum ssh_kex_types_e.
pub mod method {
    use std::ffi::c_int;

    pub const KEY_EXCHANGE: c_int = 0;
    pub const CIPHER: [c_int; 2] = [2, 3];
    pub const MAC: [c_int; 2] = [4, 5];
    pub const COMPRESSION: [c_int; 2] = [6, 7];
}

unsafe extern "C" {
    pub fn berth_init() -> c_int;
    pub fn berth_session_new(
        identification: *const c_char,
        methods: *const *const c_char,
        signature_algorithms: *const c_char,
        keys: *const *mut RawKey,
        certified: *const *mut RawKey,
    ) -> *mut RawSession;
    pub fn berth_session_connect(identification: *const c_char, methods: *const *const c_char) -> *mut RawSession;
    pub fn berth_session_free(session: *mut RawSession);
    pub fn berth_session_identified(session: *mut RawSession, identification: *const c_char);
    pub fn berth_session_exchange(session: *mut RawSession, number: u8, body: *const u8, length: u32) -> c_int;
    pub fn berth_session_begin(session: *mut RawSession, keys: *const u8, length: usize) -> c_int;
    pub fn berth_session_transcript(
        session: *mut RawSession,
        key: *const u8,
        key_length: usize,
        length: *mut usize,
    ) -> *mut u8;
    pub fn berth_session_answer(
        session: *mut RawSession,
        hash: *const u8,
        hash_length: usize,
        keys: *const u8,
        length: usize,
    ) -> c_int;
    pub fn berth_session_conclude(
        session: *mut RawSession,
        hash: *const u8,
        hash_length: usize,
        signature: *const u8,
        length: usize,
    ) -> c_int;
    pub fn berth_session_rekey(session: *mut RawSession);
    pub fn berth_session_outbox(session: *mut RawSession, length: *mut usize) -> *const u8;
    pub fn berth_session_sent(session: *mut RawSession);
    pub fn berth_session_stage(session: *mut RawSession) -> c_int;
    pub fn berth_session_exchanging(session: *mut RawSession) -> c_int;
    pub fn berth_session_strict(session: *mut RawSession) -> c_int;
    pub fn berth_session_authenticated(session: *mut RawSession);
    pub fn berth_session_method(session: *mut RawSession, place: c_int) -> *const c_char;
    pub fn berth_session_hash(session: *mut RawSession, length: *mut usize) -> *const u8;
    pub fn berth_session_identifier(session: *mut RawSession, length: *mut usize) -> *const u8;
    pub fn berth_session_secret(session: *mut RawSession, length: *mut usize) -> *mut u8;
    pub fn berth_secret_free(secret: *mut u8, length: usize);
    pub fn berth_session_host_key(session: *mut RawSession, length: *mut usize) -> *mut u8;
    pub fn berth_session_shrink(session: *mut RawSession);
    pub fn berth_session_error(session: *mut RawSession) -> *const c_char;
    pub fn berth_key_import(text: *const c_char) -> *mut RawKey;
    pub fn berth_key_certify(key: *mut RawKey, name: *const c_char, base64: *const c_char) -> *mut RawKey;
    pub fn berth_key_generate(kind: c_int) -> *mut RawKey;
    pub fn berth_key_export(key: *mut RawKey) -> *mut c_char;
    pub fn berth_key_public(key: *mut RawKey) -> *mut c_char;
    pub fn berth_key_sign(
        key: *mut RawKey,
        algorithm: *const c_char,
        data: *const u8,
        data_length: usize,
        length: *mut usize,
    ) -> *mut u8;
    pub fn berth_key_blob(key: *mut RawKey, length: *mut usize) -> *mut u8;
    pub fn berth_key_kind(key: *mut RawKey) -> c_int;
    pub fn berth_key_name(key: *mut RawKey) -> *const c_char;
    pub fn berth_key_free(key: *mut RawKey);
    pub fn berth_text_free(text: *mut c_char);
}

/// Initialises libssh and OpenSSL, once per process. Where that fails, each later call fails by itself.
pub fn initialise() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: no argument, and called once.
    ONCE.call_once(|| unsafe {
        berth_init();
    });
}
