//! What runs in the container.
pub mod sftp;
