//! Names of users and groups, from `/etc/passwd` and `/etc/group`. The binary is static, so the C library's name
//! services are out of reach; the files are what a container has.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::LazyLock;

use crate::agent::accounts::Lines;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// How many names are kept of either file.
const MAX_NAMES: usize = 200_000;

/// The longest name that is shown, in bytes: what Linux allows is far shorter.
const MAX_NAME: usize = 255;

type Names = HashMap<u32, Box<[u8]>>;

/// Names by id, read when first asked for and then kept for the session.
#[derive(Debug)]
pub(super) struct Accounts {
    users: LazyLock<Names>,
    groups: LazyLock<Names>,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Accounts { users: LazyLock::new(|| read(PASSWD)), groups: LazyLock::new(|| read(GROUP)) }
    }

    /// The name of the user with this id.
    pub(super) fn user(&self, id: u32) -> Option<&[u8]> {
        self.users.get(&id).map(|name| &**name)
    }

    /// The name of the group with this id.
    pub(super) fn group(&self, id: u32) -> Option<&[u8]> {
        self.groups.get(&id).map(|name| &**name)
    }
}

fn read(path: &str) -> Names {
    // Without it, or the rest of it, numbers are shown.
    File::open(path).map(names).unwrap_or_default()
}

/// Both files have the name in the first field and the number in the third. The first line with a number counts.
fn names(file: impl Read) -> Names {
    let (mut names, mut lines) = (Names::new(), Lines::new(file));
    while let Some(line) = lines.next()
        && names.len() < MAX_NAMES
    {
        let mut fields = line.split(|byte| *byte == b':');
        if let (Some(name), Some(id)) = (fields.next(), number(fields.nth(1)))
            && (1..=MAX_NAME).contains(&name.len())
        {
            names.entry(id).or_insert_with(|| name.into());
        }
    }
    names
}

fn number(field: Option<&[u8]>) -> Option<u32> {
    std::str::from_utf8(field?).ok()?.parse().ok()
}

/// A passwd or group file.
pub(crate) fn fuzz(text: &[u8]) {
    names(text);
}

#[cfg(test)]
mod tests {
    use super::names;

    const TEXT: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:9:\ntoor:x:0:0::/toor:/bin/sh\n\
        al\xff:x:1000:1000::/home/al:\ncut:x:10";

    #[test]
    fn the_first_account_with_a_number_names_it() {
        let names = names(TEXT);
        assert_eq!(names.get(&0).map(|name| &**name), Some(&b"root"[..]));
        assert_eq!(names.get(&1000).map(|name| &**name), Some(&b"al\xff"[..]));
        assert_eq!(names.get(&10).map(|name| &**name), Some(&b"cut"[..]));
        assert_eq!(names.len(), 3);
    }
}
