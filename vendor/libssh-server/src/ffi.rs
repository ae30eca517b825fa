//! The functions of shim.c, and nothing else of libssh. What each requires is said there.

use std::ffi::{c_char, c_int, c_void};

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

/// `berth_message_callback`
pub type MessageCallback = unsafe extern "C" fn(user: *mut c_void, message: *const u8, length: usize);

/// `SSH_KEX_METHODS`
pub const METHODS: usize = 10;

/// `SSH_OK`
pub const OK: c_int = 0;

unsafe extern "C" {
    pub fn berth_init() -> c_int;
    pub fn berth_session_new(
        fd: c_int,
        banner: *const c_char,
        methods: *const *const c_char,
        signature_algorithms: *const c_char,
        certificates: *const c_char,
        keys: *const *mut RawKey,
        certified: *const *mut RawKey,
        callback: MessageCallback,
        user: *mut c_void,
    ) -> *mut RawSession;
    pub fn berth_session_connect(
        fd: c_int,
        banner: *const c_char,
        methods: *const *const c_char,
        callback: MessageCallback,
        user: *mut c_void,
    ) -> *mut RawSession;
    pub fn berth_session_expect_answers(session: *mut RawSession);
    pub fn berth_session_host_key(session: *mut RawSession, length: *mut usize) -> *mut u8;
    pub fn berth_session_free(session: *mut RawSession);
    pub fn berth_session_receive(session: *mut RawSession, data: *mut u8, length: usize) -> usize;
    pub fn berth_session_state(session: *mut RawSession) -> c_int;
    pub fn berth_session_pending(session: *mut RawSession) -> usize;
    pub fn berth_session_flush(session: *mut RawSession) -> c_int;
    pub fn berth_session_send(session: *mut RawSession, message: *const u8, length: u32) -> c_int;
    pub fn berth_session_shrink(session: *mut RawSession);
    pub fn berth_session_authenticated(session: *mut RawSession) -> c_int;
    pub fn berth_session_expect_information(session: *mut RawSession);
    pub fn berth_session_exchanging(session: *mut RawSession) -> c_int;
    pub fn berth_session_encrypted(session: *mut RawSession) -> c_int;
    pub fn berth_session_identifier(session: *mut RawSession, length: *mut usize) -> *const u8;
    pub fn berth_session_error(session: *mut RawSession) -> *const c_char;
    pub fn berth_session_client_banner(session: *mut RawSession) -> *const c_char;
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
