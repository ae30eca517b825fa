//! The server between a real client and an agent: a real one, as a process of this machine, or one that the test plays.

mod harness;
mod hostbound;
mod hostile;
mod policy;
#[path = "../program/common/port.rs"]
mod port;
