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

mod election;
mod faults;
mod lifecycle;
mod older;
mod persistent;
mod role;
mod spec;

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use common::{Berth, Running};

/// A kubelet looks once in a second, and a pod's end takes several looks.
const SOON: Duration = Duration::from_secs(20);

/// A server with these changes of `kubernetes`.
fn with(change: impl FnOnce(&mut Value)) -> Berth {
    Berth::with(|config| change(&mut config["kubernetes"]))
}

/// A session that runs until its input ends.
fn session(berth: &Berth) -> Running {
    let session = berth.exec("echo in; cat").stdin(Stdio::piped()).within(Duration::from_secs(180)).spawn();
    session.stdout.line("in");
    session
}
