//! The ways in to every parser of what clients, containers, daemons and files may say: see docs/testing.md.

/// A parser's name, and its way in: it takes any bytes, and panics where the parser does, or breaks a promise.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub fn targets() -> impl Iterator<Item = Target> {
    let all = [
        libssh_server::FUZZ_TARGETS,
        crate::connection::FUZZ_TARGETS,
        crate::http::FUZZ_TARGETS,
        crate::auth::FUZZ_TARGETS,
        crate::config::FUZZ_TARGETS,
        crate::backend::FUZZ_TARGETS,
        crate::backend::sshproxy::FUZZ_TARGETS,
        crate::agent::FUZZ_TARGETS,
        crate::ssh::FUZZ_TARGETS,
        crate::webhook::FUZZ_TARGETS,
        crate::oauth2::FUZZ_TARGETS,
    ];
    all.into_iter().flatten().copied()
}

/// Runs one.
///
/// # Panics
/// Where the parser does, and where there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = targets().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}"));
    target(data);
}

/// Cuts `data` into pieces, each behind its length in two bytes. A length that is too large takes what there is, so that
/// any change of a byte still leaves some.
pub(crate) fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk()?;
        let (piece, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
        data = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn data_is_cut_by_lengths() {
        assert_eq!(pieces(b"\0\x01a\0\0\0\xffbc").collect::<Vec<_>>(), [&b"a"[..], b"", b"bc"]);
        assert_eq!(pieces(b"\0").count(), 0);
    }
}
