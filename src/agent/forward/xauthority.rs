//! `.Xauthority` files, as libXau reads and xauth writes them: entries one after another, each a `uint16` family and
//! four strings behind `uint16` lengths, all big-endian.
//!
//! A new entry takes the place of older ones for its display; all others stay. Writers keep each other off with
//! libXau's lock: the file `NAME-c`, and a second link to it, `NAME-l`. The new content is written to `NAME-n`, and
//! renamed, so that readers, who take no lock, see either file whole.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::connection::wire::{Malformed, Reader};

/// `FamilyLocal`: the address is the host's name. Programs take a loopback connection for local.
const LOCAL: u16 = 256;

/// A larger file is nobody's cookies. In bytes.
const LIMIT: u64 = 1024 * 1024;

/// How long another writer is waited for: little, since the agent waits along.
const PATIENCE: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(10);

/// A lock of this age was left by a writer that was killed: xauth's opinion.
const DEAD: Duration = Duration::from_secs(600);

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization<'a> {
    family: u16,
    address: Vec<u8>,
    /// The display's, in decimal digits.
    number: Vec<u8>,
    /// The authentication protocol's.
    name: &'a [u8],
    data: &'a [u8],
}

impl<'a> Authorization<'a> {
    /// The entry for a display on this host.
    pub fn local(display: u16, name: &'a [u8], data: &'a [u8]) -> Self {
        let address = rustix::system::uname().nodename().to_bytes().to_vec();
        Authorization { family: LOCAL, address, number: display.to_string().into_bytes(), name, data }
    }

    fn decode(fields: &mut Reader<'a>) -> Result<Self, Malformed> {
        fn u16(fields: &mut Reader) -> Result<u16, Malformed> {
            Ok(u16::from_be_bytes([fields.u8()?, fields.u8()?]))
        }
        fn string<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
            let length = u16(fields)?;
            fields.bytes(length.into())
        }
        Ok(Authorization {
            family: u16(fields)?,
            address: string(fields)?.to_vec(),
            number: string(fields)?.to_vec(),
            name: string(fields)?,
            data: string(fields)?,
        })
    }

    /// Fails where a part is longer than the format allows.
    fn encode(&self, file: &mut Vec<u8>) -> Result<(), Malformed> {
        file.extend(self.family.to_be_bytes());
        for part in [self.address.as_slice(), &self.number, self.name, self.data] {
            file.extend(u16::try_from(part.len()).map_err(|_| Malformed)?.to_be_bytes());
            file.extend(part);
        }
        Ok(())
    }

    fn is_for_the_same_display(&self, other: &Self) -> bool {
        (self.family, &self.address, &self.number) == (other.family, &other.address, &other.number)
    }
}

/// Puts an entry into the file at `path`, which is made where it is missing.
pub fn add(path: &Path, new: &Authorization) -> io::Result<()> {
    let _lock = Lock::take(path)?;
    let file = merge(&read(path)?, new).map_err(|Malformed| io::ErrorKind::InvalidInput)?;
    let temporary = beside(path, "-n");
    // One that a killed writer left.
    let _ = std::fs::remove_file(&temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut temporary| temporary.write_all(&file))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.inspect_err(|_| _ = std::fs::remove_file(&temporary))
}

/// The file with the new entry. What follows the last whole entry is lost: libXau would not read it either.
pub(super) fn merge(old: &[u8], new: &Authorization) -> Result<Vec<u8>, Malformed> {
    let (mut fields, mut file) = (Reader::new(old), Vec::new());
    while let Ok(entry) = Authorization::decode(&mut fields) {
        if !entry.is_for_the_same_display(new) {
            entry.encode(&mut file)?;
        }
    }
    new.encode(&mut file)?;
    Ok(file)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Not to be kept by what is no file.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(io::Error::other("no file of X authorities"));
    }
    let mut content = Vec::new();
    file.take(LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The right to write, given back when dropped.
struct Lock {
    creation: PathBuf,
    link: PathBuf,
}

impl Lock {
    fn take(path: &Path) -> io::Result<Self> {
        let (creation, link) = (beside(path, "-c"), beside(path, "-l"));
        if is_dead(&creation) {
            let _ = std::fs::remove_file(&creation);
            let _ = std::fs::remove_file(&link);
        }
        let mut tries = 0;
        loop {
            match create(&creation, &link) {
                Ok(()) => return Ok(Lock { creation, link }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < PATIENCE => tries += 1,
                Err(error) => return Err(error),
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

fn create(creation: &Path, link: &Path) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(0o600).open(creation)?;
    std::fs::hard_link(creation, link).inspect_err(|_| _ = std::fs::remove_file(creation))
}

fn is_dead(creation: &Path) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(creation) else { return false };
    let changed = UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().unwrap_or_default());
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > DEAD)
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.creation);
        let _ = std::fs::remove_file(&self.link);
    }
}

/// A file becomes one whose last entry is the new one, and from which the next merge takes nothing away.
pub(crate) fn fuzz(old: &[u8]) {
    let new = Authorization { family: LOCAL, address: b"box".into(), number: b"10".into(), name: b"M", data: b"new" };
    let merged = merge(old, &new).expect("parts as long as they were");
    assert_eq!(merge(&merged, &new).as_ref(), Ok(&merged));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::{Authorization, add, beside, merge};
    use crate::connection::wire::Reader;

    fn entry(number: &'static str, data: &'static [u8]) -> Authorization<'static> {
        Authorization { family: 256, address: b"box".into(), number: number.into(), name: b"MIT-MAGIC-COOKIE-1", data }
    }

    fn entries(file: &[u8]) -> Vec<Authorization<'_>> {
        let mut fields = Reader::new(file);
        std::iter::from_fn(|| Authorization::decode(&mut fields).ok()).collect()
    }

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-xauthority-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// `printf 'add unix:10 MIT-MAGIC-COOKIE-1 00ff' | xauth -f FILE`, on a host of the name `box`.
    const XAUTHS: &[u8] = b"\x01\0\0\x03box\0\x0210\0\x12MIT-MAGIC-COOKIE-1\0\x02\0\xff";

    #[test]
    fn an_entry_is_encoded_as_xauth_does() {
        assert_eq!(merge(b"", &entry("10", &[0, 255])).unwrap(), XAUTHS);
        assert_eq!(entries(XAUTHS), [entry("10", &[0, 255])]);
    }

    #[test]
    fn a_new_entry_replaces_its_displays_and_no_other() {
        let file = merge(XAUTHS, &entry("11", b"a")).unwrap();
        let file = merge(&file, &entry("10", b"b")).unwrap();
        assert_eq!(entries(&file), [entry("11", b"a"), entry("10", b"b")]);
    }

    #[test]
    fn the_file_is_made_for_its_owner_alone_and_no_lock_stays() {
        let directory = Directory::new("new");
        let path = directory.0.join("file");
        add(&path, &entry("10", b"a")).unwrap();
        add(&path, &entry("11", b"b")).unwrap();
        assert_eq!(entries(&std::fs::read(&path).unwrap()).len(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 1);
    }

    #[test]
    fn a_locked_file_is_left_alone() {
        let directory = Directory::new("locked");
        let path = directory.0.join("file");
        std::fs::write(beside(&path, "-c"), "").unwrap();
        assert_eq!(add(&path, &entry("10", b"a")).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert!(!path.exists() && beside(&path, "-c").exists());
    }

    #[test]
    fn what_is_no_file_is_left_alone_and_not_waited_for() {
        let directory = Directory::new("pipe");
        let path = directory.0.join("file");
        std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(add(&path, &entry("10", b"a")).is_err());
    }

    proptest! {
        #[test]
        fn any_file_is_merged_into_one_that_reads_back(
            old in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..XAUTHS.len(),
        ) {
            for old in [old.clone(), [&XAUTHS[..cut], &old].concat(), [XAUTHS, &old].concat()] {
                let new = entry("10", b"new");
                let merged = merge(&old, &new).unwrap();
                let mut expected: Vec<_> = entries(&old);
                expected.retain(|entry| !entry.is_for_the_same_display(&new));
                expected.push(new);
                prop_assert_eq!(entries(&merged), expected);
            }
        }
    }
}
