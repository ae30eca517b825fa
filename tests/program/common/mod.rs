//! What the whole-program tests share: a running berth, the clients as child processes, and their deadlines.

mod berth;
mod client;
mod docker;
mod key;
mod process;
mod ssh_agent;
mod terminal;

pub use berth::{Berth, Directory, Master, PASSWORD, unique};
pub use client::{Client, Ran, Running};
pub use docker::{containers, docker};
pub use key::{Key, key};
pub use process::{DEADLINE, Transcript, eventually};
pub use ssh_agent::{offer_keys, string};
pub use terminal::Terminal;
