//! A whole copy, in a directory of its own.

use super::{Call, Role, serve};
use rustix::fs::Mode;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Takes what a client sends, and then sends it back with the same bytes for answers. Nothing appears beside the target.
pub(crate) fn fuzz(data: &[u8]) {
    let Some((options, input)) = data.split_first() else { return };
    let root = std::env::temp_dir().join(format!("berth-fuzz-scp-{}", std::process::id()));
    let target = root.join("in");
    fs::create_dir_all(&target).expect("a directory for the test");
    let call = |role, path: &Path| Call {
        role,
        recursive: options & 1 != 0,
        preserve: options & 2 != 0,
        into_directory: options & 4 != 0,
        verbose: false,
        paths: vec![path.into()],
    };
    let new = target.join("new");
    let path = if options & 8 != 0 { &new } else { &target };
    serve(&call(Role::Sink, path), Mode::from_raw_mode(0o022), input, io::sink());
    serve(&call(Role::Source, &target), Mode::empty(), input, io::sink());
    let beside = fs::read_dir(&root).map(Iterator::count);
    remove(&root);
    assert_eq!(beside.ok(), Some(1));
}

/// Removes a directory, whatever the modes of those in it.
fn remove(directory: &Path) {
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir_all(directory);
}
