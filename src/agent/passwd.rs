//! The container's passwd file, read by ourselves: the static binary cannot use the image's name services.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::accounts::Lines;

const PASSWD: &str = "/etc/passwd";

/// The fields of passwd(5) that a session needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The login name.
    pub name: OsString,
    /// The home directory.
    pub home: OsString,
    /// The login shell, `/bin/sh` where the field is empty.
    pub shell: OsString,
}

/// The entry of user `uid` in /etc/passwd, as the file is now.
pub fn by_uid(uid: u32) -> Option<Entry> {
    find(File::open(PASSWD).ok()?, |_, id| id == uid)
}

/// The entry of the user called `name` in /etc/passwd, as the file is now.
pub fn by_name(name: &[u8]) -> Option<Entry> {
    find(File::open(PASSWD).ok()?, |entry, _| entry.name.as_bytes() == name)
}

/// The first entry that is `wanted`, told its user id besides.
fn find(passwd: impl Read, wanted: impl Fn(&Entry, u32) -> bool) -> Option<Entry> {
    let mut lines = Lines::new(passwd);
    while let Some(line) = lines.next() {
        if let Some((entry, id)) = parse(line)
            && wanted(&entry, id)
        {
            return Some(entry);
        }
    }
    None
}

fn parse(line: &[u8]) -> Option<(Entry, u32)> {
    let mut fields = line.split(|byte| *byte == b':');
    let mut field = || fields.next().map(|field| OsString::from_vec(field.to_vec()));
    let (name, _password, id, _gid, _gecos) = (field()?, field()?, field()?, field()?, field()?);
    let (home, mut shell) = (field()?, field()?);
    if line.contains(&0) {
        return None;
    }
    if shell.is_empty() {
        shell = "/bin/sh".into();
    }
    Some((Entry { name, home, shell }, id.to_str()?.parse().ok()?))
}

/// A passwd file. An entry that is found by its number is so by its name.
pub(crate) fn fuzz(passwd: &[u8]) {
    for uid in [0, 1000, u32::MAX] {
        if let Some(entry) = find(passwd, |_, id| id == uid) {
            assert!(find(passwd, |other, _| other.name == entry.name).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, find};

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/ash\nbroken:x:7\n\nweb:x:1000:1000::/srv/web:\n";

    fn by_uid(uid: u32) -> Option<Entry> {
        find(PASSWD, |_, id| id == uid)
    }

    #[test]
    fn an_entry_is_found_by_user_id_and_by_name() {
        let root = || Entry { name: "root".into(), home: "/root".into(), shell: "/bin/ash".into() };
        assert_eq!(by_uid(0), Some(root()));
        assert_eq!(find(PASSWD, |entry, _| entry.name == "root"), Some(root()));
        assert_eq!(by_uid(7), None);
        assert_eq!(by_uid(100), None);
    }

    #[test]
    fn an_empty_shell_field_means_bin_sh() {
        assert_eq!(by_uid(1000).map(|entry| entry.shell), Some("/bin/sh".into()));
    }
}
