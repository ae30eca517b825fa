//! `config.yaml`: types, defaults, validation.

mod docker;

pub use docker::{Docker, ExecutionMode, ImagePullPolicy};
