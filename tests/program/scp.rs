//! Copies by the old protocol, into and out of images that have no `scp`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::{Berth, Client, DEADLINE, PASSWORD, directory_of};

/// Nothing is in the image but one program: no shell, no home.
fn from_scratch(config: &mut Value) {
    config["docker"]["execution"]["container"]["image"] = "berth-test/scratch".into();
}

/// A file of the test's own, with all its directories.
fn file(berth: &Berth, name: &str, content: &[u8]) -> PathBuf {
    let path = berth.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

/// Sets a mode, and a time long past.
fn set(path: &Path, mode: u32, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    fs::File::open(path).unwrap().set_times(times).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The names under a directory, each with its mode, time and content.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = path.metadata().unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.push(format!("{name:?} {:o} {} {}", meta.mode(), meta.mtime(), content.escape_ascii()));
    }
    found.sort();
    found
}

#[test]
fn files_go_up_and_come_down() {
    let berth = Berth::start();
    let master = berth.master();
    let copied = |from: &str, to: &str| master.client("scp").args(["-O", "-v", from, to]).run().succeeds();
    let here = file(&berth, "here", b"content\n");
    let here = here.to_str().unwrap();
    // It is told where it is the agent's: OpenSSH's says more.
    copied(here, "berth:/tmp/there").says("Sink: C0644 8 here");
    copied(here, "berth:");
    master.exec("cat /tmp/there ~/here; stat -c %a /tmp/there").run().prints("content\ncontent\n644\n");
    copied("berth:here", berth.path("back").to_str().unwrap());
    assert_eq!(fs::read(berth.path("back")).unwrap(), b"content\n");
}

#[test]
fn much_goes_up_and_down_intact() {
    let berth = Berth::start();
    let master = berth.master();
    let large = berth.path("large");
    let made = Client::new("sh").args(["-c", r#"head -c 200000000 /dev/urandom >"$0""#]).arg(&large).run();
    made.succeeds();
    master.client("scp").args(["-O", large.to_str().unwrap(), "berth:/tmp/large"]).run().succeeds();
    master.client("scp").args(["-O", "berth:/tmp/large", berth.path("back").to_str().unwrap()]).run().succeeds();
    Client::new("cmp").arg(large).arg(berth.path("back")).run().succeeds();
}

#[test]
fn directories_go_up_and_come_down_with_modes_and_times() {
    let berth = Berth::start();
    let master = berth.master();
    for (name, mode) in [("tree/a", 0o600), ("tree/d/b", 0o4755), ("tree/d/e/f", 0o444)] {
        set(&file(&berth, name, name.as_bytes()), mode, 1_000_000_000);
    }
    // The innermost first: to fill a directory changes its time.
    for (name, mode) in [("tree/d/e", 0o555), ("tree/d", 0o700), ("tree", 0o2777)] {
        set(&berth.path(name), mode, 900_000_000);
    }
    let up = || master.client("scp").args(["-O", "-r", "-p"]).arg(berth.path("tree")).arg("berth:/tmp/copy");
    up().run().succeeds();
    master.client("scp").args(["-O", "-rp", "berth:/tmp/copy"]).arg(berth.path("back")).run().succeeds();
    assert_eq!(tree(&berth.path("tree")), tree(&berth.path("back")));
    // Into the one that is there.
    up().run().succeeds();
    master.exec("cat /tmp/copy/tree/d/e/f").run().prints("tree/d/e/f");
}

#[test]
fn any_name_is_kept_and_remote_ones_are_the_shells() {
    let berth = Berth::start();
    let master = berth.master();
    let names = ["a b", "it's \"$HOME\"", "-r", "*", "\u{e9}\\"];
    let paths = names.map(|name| file(&berth, &format!("names/{name}"), name.as_bytes()));
    master.exec("mkdir '/tmp/to here'").run().succeeds();
    master.client("scp").args(["-O", "--"]).args(&paths).arg("berth:'/tmp/to here'").run().succeeds();
    let escaped = ["/tmp/to\\ here/a\\ b", "\"/tmp/to here/it's \\\"\\$HOME\\\"\"", "'/tmp/to here/-r'"];
    for (name, escaped) in names.iter().zip(escaped) {
        let back = berth.path("back");
        // OpenSSH's client does not understand such quotes, and would not believe that these are the files that it wants.
        master.client("scp").args(["-O", "-T", &format!("berth:{escaped}")]).arg(&back).run().succeeds();
        assert_eq!(fs::read(back).unwrap(), name.as_bytes());
    }
    fs::create_dir(berth.path("all")).unwrap();
    master.client("scp").args(["-O", "berth:/tmp/to\\ here/*"]).arg(berth.path("all")).run().succeeds();
    assert_eq!(fs::read_dir(berth.path("all")).unwrap().count(), names.len());
    for name in names {
        assert_eq!(fs::read(berth.path("all").join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_line_break_in_a_name_is_replaced_as_by_openssh() {
    let berth = Berth::start();
    let master = berth.master();
    master.exec("echo x >'/tmp/a\nb'").run().succeeds();
    fs::create_dir(berth.path("to")).unwrap();
    master.client("scp").args(["-O", "-T", "berth:/tmp/a*"]).arg(berth.path("to")).run().succeeds();
    assert_eq!(fs::read(berth.path("to").join("a\\^Jb")).unwrap(), b"x\n");
}

#[test]
fn what_fails_is_told_and_the_rest_is_copied() {
    let berth = Berth::with(|config| config["docker"]["execution"]["container"]["user"] = "alice".into());
    let master = berth.master();
    let here = file(&berth, "here", b"x");
    let here = here.to_str().unwrap();
    let copy = |arguments: &[&str]| master.client("scp").arg("-O").args(arguments).run();
    let back = berth.path("back");
    fs::create_dir(&back).unwrap();
    let back = back.to_str().unwrap();
    copy(&["berth:no-such", back]).exits(1).says("scp: no-such: No such file or directory");
    copy(&["berth:/tmp", back]).exits(1).says("scp: /tmp: not a regular file");
    copy(&[here, "berth:/etc/x"]).exits(1).says("scp: /etc/x: Permission denied");
    copy(&[here, here, "berth:/etc/passwd"]).exits(1).says("scp: /etc/passwd: Not a directory");
    copy(&[here, "berth:no-such/x"]).exits(1).says("scp: no-such/x: No such file or directory");
    let secret = "mkdir d && echo 1 >d/1 && echo 2 >d/2 && chmod 0 d/1";
    master.exec(secret).run().succeeds();
    copy(&["-r", "berth:d", back]).exits(1).says("scp: d/1: Permission denied");
    assert_eq!(fs::read(berth.path("back/d/2")).unwrap(), b"2\n");
    assert!(!berth.path("back/d/1").exists());
}

#[test]
fn an_images_own_scp_is_preferred() {
    let berth = Berth::start();
    let master = berth.master();
    let own = "printf '#!/bin/sh\\necho \"own scp: $*\" >&2\\nexit 1\\n' >/bin/scp; chmod +x /bin/scp";
    master.exec(own).run().succeeds();
    let here = file(&berth, "here", b"x");
    master.client("scp").arg("-Op").arg(here).arg("berth:/tmp").run().exits(1).says("own scp: -p -t /tmp");
}

#[test]
fn a_users_own_call_is_left_to_the_shell() {
    let berth = Berth::start();
    berth.exec("scp a b").run().exits(127).says("scp: not found");
}

#[test]
fn an_image_without_a_shell_needs_none() {
    let berth = Berth::with(from_scratch);
    let master = berth.master();
    let copy = |arguments: &[&str]| master.client("scp").arg("-O").args(arguments).run();
    for name in ["tree/one.txt", "tree/two.txt", "tree/d/a b"] {
        file(&berth, name, name.as_bytes());
    }
    let tree_here = berth.path("tree");
    copy(&["-r", tree_here.to_str().unwrap(), "berth:~/'a tree'"]).succeeds();
    let back = berth.path("back");
    let back = back.to_str().unwrap();
    copy(&["-r", "berth:\"a tree\"", back]).succeeds();
    assert_eq!(tree(&tree_here).len(), tree(&berth.path("back")).len());
    copy(&["berth:a\\ tree/*.t[xy]t", back]).succeeds();
    assert_eq!(fs::read(berth.path("back/two.txt")).unwrap(), b"tree/two.txt");
    copy(&["berth:no-such*", back]).exits(1).says("no-such*: No such file or directory");
    copy(&["berth:'no end", back]).exits(1).says("berth: unterminated quoted string");
    master.exec("/cat 'a tree'/*/'a b' ~/a?tree/one.txt").run().succeeds().prints("tree/d/a btree/one.txt");
}

#[test]
fn pscp_copies_by_the_old_protocol() {
    for image in [|_: &mut Value| (), from_scratch as fn(&mut Value)] {
        let berth = Berth::with(|config| {
            image(config);
            // Every call is a connection of its own, and so has a container of its own.
            let share = directory_of(config).join("share");
            fs::create_dir(&share).unwrap();
            config["docker"]["execution"]["host"]["binds"] = [format!("{}:/share", share.display())].into();
        });
        for name in ["tree/a", "tree/d/b c"] {
            set(&file(&berth, name, name.as_bytes()), 0o640, 1_000_000_000);
        }
        let pscp = |arguments: &[&str]| berth.putty("pscp").args(["-scp", "-q", "-p", "-r"]).args(arguments).run();
        let (here, back) = (berth.path("tree"), berth.path("back"));
        fs::create_dir(&back).unwrap();
        pscp(&[here.to_str().unwrap(), "127.0.0.1:/share/copy"]).succeeds();
        pscp(&["-unsafe", "127.0.0.1:/share/copy/*", back.to_str().unwrap()]).succeeds();
        // It has neither modes nor times for directories, and on its own side no modes.
        let files = |root: &Path| tree(root).into_iter().filter(|line| line.contains("tree/")).collect::<Vec<_>>();
        assert_eq!(files(&berth.path("share/copy")), files(&here));
        assert_eq!(fs::read(berth.path("back/d/b c")).unwrap(), b"tree/d/b c");
        pscp(&["127.0.0.1:/no-such", back.to_str().unwrap()]).exits(1).says("no-such: No such file or directory");
    }
}

#[test]
fn libssh2_copies_by_the_old_protocol() {
    let berth = Berth::start();
    let mut session = ssh2::Session::new().unwrap();
    session.set_timeout(DEADLINE.as_millis() as u32);
    session.set_tcp_stream(TcpStream::connect(("127.0.0.1", berth.port)).unwrap());
    session.handshake().unwrap();
    session.userauth_password("alice", PASSWORD).unwrap();
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let path = Path::new("/tmp/it's $HOME");
    let mut up = session.scp_send(path, 0o640, content.len() as u64, Some((1_000_000_000, 1_000_000_000))).unwrap();
    up.write_all(&content).unwrap();
    up.send_eof().unwrap();
    up.wait_eof().unwrap();
    up.close().unwrap();
    up.wait_close().unwrap();
    let (mut down, stat) = session.scp_recv(path).unwrap();
    assert_eq!((stat.size(), stat.mode() & 0o777), (300_000, 0o640));
    let mut back = vec![0; content.len()];
    down.read_exact(&mut back).unwrap();
    assert!(back == content);
}
