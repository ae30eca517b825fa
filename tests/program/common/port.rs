//! Ports that tests choose before anything listens on them.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of loopback that nobody listens on. The system gives no such port to a connection, nor to a listener that wants
/// any port (ip_local_port_range begins at 32768), so it stays free until the test uses it.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(101).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + (number % 18_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
