//! What a client's identification (RFC 4253 section 4.2) tells of its habits.

use crate::connection::hello::SymlinkOrder;

/// Clients that take OpenSSH's order of paths in SSH_FXP_SYMLINK for a habit of OpenSSH's own, and keep to the draft's
/// with every other server: AsyncSSH, libssh, the npm package ssh2, WinSCP.
const DRAFT_SYMLINKS: [&str; 5] = ["AsyncSSH_", "libssh_", "libssh-", "ssh2js", "WinSCP_"];

/// What a client does that not all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// It is OpenSSH's, which alone knows eow@openssh.com.
    pub knows_eow: bool,
    /// In which order its SFTP puts the paths of a symbolic link.
    pub symlinks: SymlinkOrder,
}

impl Habits {
    /// Those of the client that has identified itself by `client`, to a server whose software is `server`.
    pub fn of(client: &str, server: &str) -> Self {
        let software = client.strip_prefix("SSH-2.0-").unwrap_or(client);
        let draft = DRAFT_SYMLINKS.iter().any(|name| software.starts_with(name)) && !server.contains("OpenSSH");
        Habits {
            knows_eow: software.starts_with("OpenSSH"),
            symlinks: if draft { SymlinkOrder::Draft } else { SymlinkOrder::OpenSsh },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Habits, SymlinkOrder};

    #[test]
    fn clients_are_known_by_their_identification() {
        for (client, server, knows_eow, symlinks) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2", "berth_1", true, SymlinkOrder::OpenSsh),
            ("SSH-2.0-PuTTY_Release_0.78", "berth_1", false, SymlinkOrder::OpenSsh),
            ("SSH-2.0-libssh2_1.11.0", "berth_1", false, SymlinkOrder::OpenSsh),
            ("SSH-2.0-libssh_0.11.4", "berth_1", false, SymlinkOrder::Draft),
            ("SSH-2.0-WinSCP_release_6.3", "berth_1", false, SymlinkOrder::Draft),
            ("SSH-2.0-WinSCP_release_6.3", "OpenSSH_9.2", false, SymlinkOrder::OpenSsh),
            ("", "berth_1", false, SymlinkOrder::OpenSsh),
        ] {
            assert_eq!(Habits::of(client, server), Habits { knows_eow, symlinks }, "{client}");
        }
    }
}
