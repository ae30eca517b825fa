//! berth: an SSH server that gives every user a container.
//!
//! The whole of the program is in this library, so that tests and fuzz targets reach every parser; `main.rs` only
//! chooses the subcommand. `docs/architecture.md` tells how the parts work together. Modules point inward only:
//! [`connection`] and [`http`] know nothing of berth; [`agent`] never imports [`ssh`], [`backend`] or [`config`];
//! [`backend`] never imports [`ssh`].

pub mod agent;
pub mod auth;
pub mod backend;
mod bounded;
mod clock;
pub mod config;
pub mod connection;
#[doc(hidden)]
pub mod fuzzing;
pub mod geoip;
mod hex;
pub mod http;
pub mod ip_qos;
pub mod logger;
pub mod metadata;
mod metrics;
pub mod oauth2;
mod pattern;
mod private_file;
mod program;
mod random;
pub mod run_directory;
pub mod ssh;
mod strict_modes;
mod turn;
mod waker;
pub mod webhook;
