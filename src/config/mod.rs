//! `config.yaml`: types, defaults, validation.

mod docker;
mod ssh;
pub use ssh::Ssh;

pub use docker::{Docker, ExecutionMode, ImagePullPolicy};
