//! The whole program: `berth serve` as it was built, a Docker daemon, and the clients that people use.
//!
//! Every test has a server and containers of its own. `scripts/setup build docker test` installs what they need, and
//! `scripts/guest test` makes the images.

mod authentication;
mod beside_sshd;
mod browser;
mod certificates;
mod clients;
mod command_line;
mod common;
mod composite;
mod containers;
mod factors;
mod faults;
mod files;
mod floods;
mod forwarding;
mod hardening;
mod hostbound;
mod images;
mod key_exchange;
mod libssh2;
mod logging;
mod modes;
mod monitoring;
mod names;
mod native;
mod persistent;
mod podman;
mod reload;
mod remote;
mod scp;
mod security;
mod sessions;
mod sidecars;
mod sshproxy;
mod startups;
mod terminals;
mod transport;
mod webhooks;
