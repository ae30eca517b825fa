//! The tree that the tests work in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// 9 September 2001: what the tests set is older than any file that they merely make.
pub const OLD: u32 = 1_000_000_000;

/// A directory that goes away with the value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-transfer-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path.canonicalize().unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn set_old(path: &Path) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(OLD.into());
    File::open(path).unwrap().set_times(FileTimes::new().set_accessed(old).set_modified(old)).unwrap();
}

/// The same tree every time: files, directories, links, odd modes and names.
pub fn plant(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("file"), b"0123456789").unwrap();
    fs::write(root.join("dir/one"), vec![b'x'; 300_000]).unwrap();
    fs::write(root.join("dir/sub/two"), b"").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"byte-\xff\xfe")), b"raw").unwrap();
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    for path in ["file", "dir/one", "dir/sub/two", "dir/sub", "dir", "."] {
        set_old(&root.join(path));
    }
}

/// What is under `root`: for each path its mode, owner, links and content, and the times that were set.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let time = if meta.mtime() <= i64::from(OLD) { meta.mtime() } else { 0 };
        let content = if meta.is_symlink() {
            format!("{:?}", path.read_link().unwrap())
        } else if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            let content = fs::read(&path).unwrap();
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            format!("{} bytes, hash {:x}", content.len(), hasher.finish())
        };
        let line = format!("{:o} {}:{} {} {time} {content}", meta.mode(), meta.uid(), meta.gid(), meta.nlink());
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    found
}

/// A server in `directory` under umask 027.
pub fn command(server: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask 027; exec {server}")]).current_dir(directory);
    command
}
