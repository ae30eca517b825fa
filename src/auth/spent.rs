//! What has been made of users' one-time codes: kept over a restart, so that a code is good once, and whoever guesses has
//! to stop, whatever becomes of the process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::file;

/// The largest file, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What has been made of a user's codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// The first period whose code is still good.
    pub from: u64,
    /// The period in which codes were last looked at, and how many.
    pub tried: (u64, u32),
    /// How many wrong ones there have been since the last right one.
    pub wrong: u32,
    /// Until when none is looked at, in seconds since 1970.
    pub locked_until: u64,
    /// When all of that is too old to matter, likewise.
    pub until: u64,
}

/// By users' names. Of the whole process.
#[derive(Debug)]
pub(super) struct Kept {
    pub users: BTreeMap<String, Spent>,
    file: Option<PathBuf>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { users: BTreeMap::new(), file: None });

/// What is known of all users.
pub(super) fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what becomes of codes in a file of this directory, and takes what is there.
pub fn keep_spent_codes(directory: &Path) {
    let path = directory.join("totp.json");
    let mut kept = kept();
    match file::read(&path, LARGEST) {
        Ok(text) => match decode(&text) {
            Some(users) => kept.users.extend(users),
            None => {
                log::error!("{}: not as berth writes it: codes that were used may be good once more", path.display())
            }
        },
        Err(_) if !path.exists() => (),
        Err(error) => log::error!("{}: {error}: codes that were used may be good once more", path.display()),
    }
    kept.file = Some(path);
}

impl Kept {
    /// Writes it all down.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, encode(&self.users).as_bytes()) {
            log::error!("{}: {error}: codes that were used will not be known after a restart", file.display());
        }
    }
}

/// In one step: what is there is whole.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn encode(users: &BTreeMap<String, Spent>) -> String {
    let entry = |(name, spent): (&String, &Spent)| {
        let Spent { from, wrong, locked_until, until, .. } = spent;
        (name.clone(), json!([from, wrong, locked_until, until]))
    };
    Value::Object(users.iter().map(entry).collect()).to_string()
}

/// What [`encode`] has written; none where it did not write this.
fn decode(text: &[u8]) -> Option<BTreeMap<String, Spent>> {
    let Ok(Value::Object(users)) = serde_json::from_slice(text) else { return None };
    let entry = |(name, fields): (String, Value)| {
        let number = |index: usize| fields[index].as_u64();
        let wrong = u32::try_from(number(1)?).ok()?;
        let (from, locked_until, until) = (number(0)?, number(2)?, number(3)?);
        Some((name, Spent { from, tried: (0, 0), wrong, locked_until, until }))
    };
    users.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{Spent, decode, encode, write};

    proptest! {
        #[test]
        fn what_is_written_is_read(users in proptest::collection::btree_map("\\PC*", any::<(u64, u32, u64, u64)>(), 0..9)) {
            let users: BTreeMap<String, Spent> = users
                .into_iter()
                .map(|(name, (from, wrong, locked_until, until))| (name, Spent { from, tried: (0, 0), wrong, locked_until, until }))
                .collect();
            prop_assert_eq!(decode(encode(&users).as_bytes()), Some(users));
        }

        #[test]
        fn no_file_panics(text in any::<Vec<u8>>()) {
            decode(&text);
        }
    }

    #[test]
    fn what_is_not_as_it_was_written_is_no_file() {
        for text in ["", "{", "[]", r#"{"alice": 1}"#, r#"{"alice": [1, 2, 3]}"#, r#"{"alice": [1, -2, 3, 4]}"#] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("berth-spent-{}", std::process::id()));
        let file = directory.join("totp.json");
        for text in ["one", "two"] {
            write(&file, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
