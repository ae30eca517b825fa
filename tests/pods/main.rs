//! The whole program, with pods in containers' place: `berth serve` as it was built, a real Kubernetes, and the clients
//! that people use.
//!
//! What a user sees is to be the same as with Docker: so the tests of that are those of `tests/program`, here with pods.
//! `scripts/setup build kubernetes test` installs what they need; `tests/kubernetes/cluster up` starts the cluster, and
//! `scripts/guest kubernetes` brings it its images.

#[path = "../program/common/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests with Docker need more of it")]
mod common;

#[path = "../program/clients.rs"]
mod clients;
#[path = "../program/files.rs"]
mod files;
#[path = "../program/forwarding.rs"]
mod forwarding;
#[path = "../program/libssh2.rs"]
mod libssh2;
#[path = "../program/modes.rs"]
mod modes;
#[path = "../program/native.rs"]
mod native;
#[path = "../program/scp.rs"]
mod scp;
#[path = "../program/sessions.rs"]
mod sessions;
#[path = "../program/terminals.rs"]
mod terminals;

mod kubernetes;
