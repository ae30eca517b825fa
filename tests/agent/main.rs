//! `berth agent` as an ordinary process of this machine, with the test as the server and the client in one.

mod forwarding;
mod harness;
#[path = "../program/common/port.rs"]
mod port;
mod sessions;
mod stream;
mod terminals;
mod windows;
mod x11;
