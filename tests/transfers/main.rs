//! Files to and from a session: `berth agent sftp` and `berth agent scp` beside OpenSSH's `sftp-server` and `scp`, which
//! they have to be taken for.

mod scp;
mod sftp;
mod sftp_client;
mod sftp_options;
mod tree;
