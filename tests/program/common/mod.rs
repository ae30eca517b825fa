//! What the whole-program tests share: a running berth, the clients as child processes, and their deadlines.

mod berth;
mod client;
mod docker;
mod key;
mod process;
mod ssh_agent;
mod terminal;

pub use berth::{Berth, PASSWORD};
pub use client::Client;
pub use key::key;
pub use process::{DEADLINE, eventually};
pub use ssh_agent::{offer_keys, string};
pub use terminal::Terminal;
