//! Listener, connection thread, authentication exchange, channel bridge.
