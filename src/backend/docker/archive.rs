//! Archives for `/containers/{id}/archive`: ustar (POSIX.1-2017, pax, "ustar Interchange Format").

/// The size of a header, and what contents are padded to.
pub(super) const BLOCK: usize = 512;

/// A file in an archive.
pub(super) struct Entry<'a> {
    /// Its path, relative to where the archive is unpacked.
    pub path: &'a str,
    /// Permissions.
    pub mode: u32,
    /// Owner and group, by number.
    pub owner: (u32, u32),
    /// In bytes.
    pub size: u64,
}

/// A file's header; none where its path does not fit into one.
pub(super) fn header(entry: &Entry<'_>) -> Option<[u8; BLOCK]> {
    let (prefix, name) = split(entry.path)?;
    let (mode, user, group) =
        (format!("{:07o}", entry.mode), format!("{:07o}", entry.owner.0), format!("{:07o}", entry.owner.1));
    let size = format!("{:011o}", entry.size);
    let fields: [(usize, &[u8]); 10] = [
        (0, name.as_bytes()),
        (100, mode.as_bytes()),
        (108, user.as_bytes()),
        (116, group.as_bytes()),
        (124, size.as_bytes()),
        (136, b"00000000000"), // modification time
        (148, b"        "),    // the checksum counts as spaces
        (156, b"0"),           // a regular file
        (257, b"ustar\x0000"),
        (345, prefix.as_bytes()),
    ];
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in header.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        header.iter().map(|b| u32::from(*b)).sum()
    };
    let mut checksum = 0;
    for (at, bytes) in fields {
        checksum = put(at, bytes);
    }
    put(148, format!("{checksum:06o}\0 ").as_bytes());
    Some(header)
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What it is of: `0` or nothing is a regular file.
    pub kind: u8,
    /// Permissions.
    pub mode: u64,
    /// How many bytes follow.
    pub size: u64,
}

/// Reads a header; none where it is not one.
pub(super) fn read_header(block: &[u8; BLOCK]) -> Option<Header> {
    let number = |from: usize, to: usize| {
        let text = std::str::from_utf8(&block[from..to]).ok()?;
        u64::from_str_radix(text.trim_matches(|c| c == '\0' || c == ' '), 8).ok()
    };
    let sum: u64 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if number(148, 156)? != sum {
        return None;
    }
    Some(Header { kind: block[156], mode: number(100, 108)?, size: number(124, 136)? })
}

/// How many bytes of nothing follow a file of this size.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// Parts a path into the header's two fields, at a slash.
fn split(path: &str) -> Option<(&str, &str)> {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    if path.len() <= NAME {
        return Some(("", path));
    }
    let fits = |(prefix, name): &(&str, &str)| prefix.len() <= PREFIX && (1..=NAME).contains(&name.len());
    path.match_indices('/').map(|(at, _)| (&path[..at], &path[at + 1..])).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_what_tar_reads() {
        let header = header(&Entry { path: "berth", mode: 0o755, owner: (0, 8), size: 0o1234 }).unwrap();
        assert_eq!(&header[..6], b"berth\0");
        assert_eq!(&header[100..124], b"0000755\x000000000\x000000010\0");
        assert_eq!(&header[124..136], b"00000001234\0");
        let sum: u32 =
            header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        assert_eq!(&header[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(read_header(&header), Some(Header { kind: b'0', mode: 0o755, size: 0o1234 }));
        for place in 0..BLOCK {
            let mut changed = header;
            changed[place] ^= 1;
            assert_eq!(read_header(&changed), None, "byte {place}");
        }
    }

    #[test]
    fn a_long_path_is_parted_at_a_slash() {
        let (long, name) = ("d".repeat(90), "f".repeat(100));
        let path = format!("{long}/{name}");
        assert_eq!(split(&path), Some((long.as_str(), name.as_str())));
        assert_eq!(split(&"x".repeat(101)), None);
        assert_eq!(split(&format!("{}/f", "x/".repeat(128))), None);
    }
}
