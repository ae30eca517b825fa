//! Signal names, RFC 4254 sections 6.9 and 6.10: without `SIG`.

use rustix::process::Signal;

const NAMES: [(&str, Signal); 13] = [
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("FPE", Signal::FPE),
    ("HUP", Signal::HUP),
    ("ILL", Signal::ILL),
    ("INT", Signal::INT),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("QUIT", Signal::QUIT),
    ("SEGV", Signal::SEGV),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
];

/// The signal of this name. OpenSSH's `INFO@openssh.com` has none on Linux.
pub fn by_name(name: &[u8]) -> Option<Signal> {
    NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, signal)| *signal)
}

/// The name of a signal that ended a process. For what the RFC has no name for, `sshd` says `SIG@openssh.com`.
pub fn name(signal: i32) -> &'static str {
    NAMES.iter().find(|(_, known)| known.as_raw() == signal).map_or("SIG@openssh.com", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::{by_name, name};

    #[test]
    fn a_signal_has_its_rfc_name_or_opensshs_placeholder() {
        assert_eq!(name(15), "TERM");
        assert_eq!(by_name(b"TERM").map(|signal| signal.as_raw()), Some(15));
        assert_eq!(name(7), "SIG@openssh.com");
        assert!(by_name(b"SIGTERM").is_none());
    }
}
