//! What the whole-program tests share: a running berth, the clients as child processes, and their deadlines.

mod berth;
mod client;
#[allow(dead_code, reason = "the tests with Docker need little of it")]
pub mod cluster;
mod docker;
mod interposer;
mod key;
mod pod;
mod podman;
mod port;
mod process;
mod raw;
mod registry;
mod relay;
mod security_key;
mod ssh_agent;
mod sshd;
mod terminal;
mod webhook;

pub use berth::{Berth, Master, PASSWORD, directory_of, much, on_this_machines_network, this_machine, unique};
pub use client::{Client, Ran, Running, libraries, newest_openssh};
pub use docker::{daemon_socket, docker};
pub use interposer::{Fate, Interposer};
pub use key::key;
pub use podman::Podman;
pub use port::free_port;
pub use process::{DEADLINE, LONG, eventually};
pub use raw::{RawClient, auth_request, connect_from};
pub use registry::Registry;
pub use relay::{Relay, Way, daemon};
pub use security_key::{PRESENT, SecurityKey, VERIFIED};
pub use ssh_agent::{offer_keys, offer_security_key, string};
pub use sshd::Sshd;
pub use terminal::Terminal;
pub use webhook::{Answer, WebhookServer};
