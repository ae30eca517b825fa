//! The options of sftp-server(8), beside OpenSSH's: the same requests in the same tree, with the same answers.

use std::collections::BTreeSet;
use std::process::Output;

use berth::connection::wire::{Reader, Write as _};

use crate::sftp_client::*;
use crate::tree::*;

/// Every request once and more, those that open files in all ways.
fn everything() -> Vec<Vec<u8>> {
    let mut script: Vec<_> = (0..0x40).map(|flags| open(format!("new-{flags}"), flags, Some(0o666))).collect();
    script.extend((0..0x40).map(|flags| open("file", flags & !0x20, None)));
    // Which of these are open depends on what was refused, for both in the same way.
    script.extend((0..3).flat_map(|handle| {
        [
            read(handle, 0, 4),
            write(handle, 0, "x"),
            on_handle(8, handle),
            extended("fsync@openssh.com", |fields| fields.put_string(handle.to_be_bytes())),
            set_attributes(10, handle.to_be_bytes(), &all_attributes(3, 0, 0o600, OLD)),
            copy_data(handle, 0, 0, handle + 1, 0),
            on_handle(4, handle),
        ]
    }));
    script.extend([
        set_attributes(9, "file", &all_attributes(5, 0, 0o640, OLD)),
        on_path(7, "link"),
        on_path(17, "file"),
        on_path(11, "missing"),
        on_path(13, "broken"),
        packet(14, 9, |fields| {
            fields.put_string("made");
            put_mode(fields, Some(0o777));
        }),
        on_path(15, "dir/sub"),
        on_path(16, "/proc/.."),
        on_path(19, "link"),
        on_paths(18, "file", "renamed"),
        on_paths(20, "target", "symlink"),
        extended("posix-rename@openssh.com", |fields| {
            fields.put_string("link");
            fields.put_string("moved");
        }),
        extended("hardlink@openssh.com", |fields| {
            fields.put_string("dir/one");
            fields.put_string("hard");
        }),
        extended("lsetstat@openssh.com", |fields| {
            fields.put_string("file");
            put_mode(fields, Some(0o600));
        }),
        extended("expand-path@openssh.com", |fields| fields.put_string("/proc/..")),
        extended("users-groups-by-id@openssh.com", |fields| {
            fields.put_string([]);
            fields.put_string([]);
        }),
        extended("no-such@openssh.com", |_| ()),
    ]);
    script
}

#[test]
fn a_read_only_server_changes_nothing_and_refuses_what_opensshs_refuses() {
    compare_called("read-only", "-R", &everything());
    // The tree is what it was.
    let scratch = Scratch::new("read-only-tree");
    plant(&scratch.0);
    let before = tree(&scratch.0);
    let mut client = Client::new(&format!("{BERTH} -R"), &scratch.0);
    for packet in everything() {
        client.ask(&packet);
    }
    assert!(client.ends_well());
    assert_eq!(before, tree(&scratch.0));
}

#[test]
fn requests_are_denied_and_allowed_by_name() {
    let names = |wanted: bool| {
        let all = "open close read write lstat fstat setstat fsetstat opendir readdir remove mkdir rmdir realpath stat \
                   rename readlink symlink posix-rename statvfs fstatvfs hardlink fsync lsetstat limits expand-path \
                   copy-data home-directory users-groups-by-id";
        let of_this_half = |(index, name)| (index % 2 == usize::from(wanted)).then_some(name);
        all.split_whitespace().enumerate().filter_map(of_this_half).collect::<Vec<_>>().join(",")
    };
    for half in [true, false] {
        compare_called("denied", &format!("-P {}", names(half)), &everything());
        compare_called("allowed", &format!("-p {}", names(half)), &everything());
    }
    compare_called("both", "-P mkdir,open -p mkdir,rmdir,lstat", &everything());
    compare_called("all", "-P '' -p '' -R", &everything());
    compare_called("grouped", "-RPread,stat", &everything());
}

#[test]
fn a_umask_is_for_files_and_directories() {
    for options in ["-u 0", "-u 0077", "-u027", "-u 777", "-eu 0022"] {
        let script = [
            open("one", 0x2 | 0x8, Some(0o777)),
            open("two", 0x2 | 0x8, None),
            packet(14, 9, |fields| {
                fields.put_string("three");
                put_mode(fields, None);
            }),
            on_path(7, "one"),
        ];
        compare_called("umask", options, &script);
    }
}

#[test]
fn new_files_have_the_mode_that_is_given_for_them() {
    let scratch = Scratch::new("mode");
    let mut client = Client::new(&format!("{BERTH} -m 0640 -u 077"), &scratch.0);
    for (name, mode) in [("asked", Some(0o777)), ("not-asked", None)] {
        assert_eq!(client.ask(&open(name, 0x2 | 0x8, mode))[0], 102);
    }
    let made = packet(14, 9, |fields| {
        fields.put_string("directory");
        put_mode(fields, Some(0o777));
    });
    assert_eq!(status(&client.ask(&made)), 0);
    assert!(client.ends_well());
    let modes: Vec<_> = tree(&scratch.0).into_iter().map(|(path, line)| format!("{} {line}", path.display())).collect();
    for expected in ["asked 100640 ", "not-asked 100640 ", "directory 40700 "] {
        assert!(modes.iter().any(|line| line.starts_with(expected)), "{expected}: {modes:?}");
    }
}

#[test]
fn a_session_starts_in_the_directory_that_is_given() {
    let here = |name: &str| [on_path(16, "."), on_path(17, "two"), on_path(17, name)];
    for directory in ["dir/sub", "dir/../dir/sub/", "missing", "file", "%%", "''"] {
        compare_called("directory", &format!("-d {directory}"), &here("x"));
    }
    // By the account of who runs it.
    for directory in ["%d", "%d/..", "/%u", "/../%u/.."] {
        compare_called("token", &format!("-d {directory}"), &here("."));
    }
}

/// What a server says of its extensions.
fn extensions(server: &str, options: &str) -> BTreeSet<String> {
    let scratch = Scratch::new("extensions");
    let mut client = Client::silent(&format!("{server} {options}"), &scratch.0);
    let answer = client.ask(&packet(1, 3, |_| {}));
    let mut reader = Reader::new(&answer[5..]);
    std::iter::from_fn(|| Some(format!("{} {}", reader.utf8().ok()?, reader.utf8().ok()?))).collect()
}

#[test]
fn what_is_denied_is_not_announced() {
    for options in ["", "-R", "-P copy-data,statvfs", "-p open,limits", "-p open"] {
        assert_eq!(extensions(openssh(), options), extensions(BERTH, options), "{options}");
    }
}

/// A server's end with these options and no input.
fn ended(server: &str, options: &str) -> Output {
    let scratch = Scratch::new("ended");
    command(&format!("{server} {options} </dev/null"), &scratch.0).output().unwrap()
}

#[test]
fn what_cannot_be_taken_ends_the_server_and_its_features_are_listed() {
    for options in ["-x", "-u", "-u 999", "-u 1000", "-d %h", "-P a -P b", "-p a -p b", "-h", "-Q nothing"] {
        for server in [openssh(), BERTH] {
            let ended = ended(server, options);
            assert!(!ended.status.success() && ended.stdout.is_empty(), "{server} {options}: {ended:?}");
        }
    }
    let [theirs, ours] = [openssh(), BERTH].map(|server| ended(server, "-Q requests"));
    assert_eq!((theirs.status.code(), &theirs.stdout), (ours.status.code(), &ours.stdout));
    // OpenSSH's server passes these over; a mistyped name would let through what was to be denied.
    for options in ["-P unlink", "-p read,Write", "-l LOUD", "-f MAIL", "directory"] {
        let ended = ended(BERTH, options);
        assert!(!ended.status.success(), "{options}: {ended:?}");
    }
}
