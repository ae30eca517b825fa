//! The container's passwd file, read by ourselves: the static binary cannot use the image's name services.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

/// More of a passwd file than this is not read. In bytes.
const LIMIT: u64 = 1024 * 1024;

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
    let mut bytes = Vec::new();
    File::open("/etc/passwd").ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    find(&bytes, uid)
}

fn find(passwd: &[u8], uid: u32) -> Option<Entry> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let mut field = || fields.next().map(|field| OsString::from_vec(field.to_vec()));
        let (name, _password, id, _gid, _gecos) = (field()?, field()?, field()?, field()?, field()?);
        let (home, mut shell) = (field()?, field()?);
        if id.to_str()?.parse() != Ok(uid) || line.contains(&0) {
            return None;
        }
        if shell.is_empty() {
            shell = "/bin/sh".into();
        }
        Some(Entry { name, home, shell })
    })
}

#[cfg(test)]
mod tests {
    use super::{Entry, find};

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/ash\nbroken:x:7\n\nweb:x:1000:1000::/srv/web:\n";

    #[test]
    fn an_entry_is_found_by_user_id() {
        let root = Entry { name: "root".into(), home: "/root".into(), shell: "/bin/ash".into() };
        assert_eq!(find(PASSWD, 0), Some(root));
        assert_eq!(find(PASSWD, 7), None);
        assert_eq!(find(PASSWD, 100), None);
    }

    #[test]
    fn an_empty_shell_field_means_bin_sh() {
        assert_eq!(find(PASSWD, 1000).map(|entry| entry.shell), Some("/bin/sh".into()));
    }
}
