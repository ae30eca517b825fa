//! Files, carried by the programs that people carry them with. The images know nothing of SFTP, but where it is said.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::{Berth, Client, DEADLINE, LONG, Running, directory_of, eventually, key, much};

/// A server whose containers of this image all have one directory of this machine's, [`far`], as `/data`: so it can be
/// looked at from here, and clients that make several connections find what they left.
fn serve(image: &str) -> Berth {
    Berth::with(|config| {
        let data = directory_of(config).join("far");
        fs::create_dir(&data).unwrap();
        let execution = &mut config["docker"]["execution"];
        execution["host"]["binds"] = [format!("{}:/data", data.display())][..].into();
        execution["container"]["image"] = image.into();
    })
}

/// What is `/data` in the containers.
fn far(berth: &Berth, name: &str) -> PathBuf {
    berth.path("far").join(name)
}

/// A directory on this side with files of many kinds.
fn tree(berth: &Berth) -> PathBuf {
    let tree = berth.path("tree");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (name, size, mode) in [
        ("empty", 0, 0o600),
        ("script", 20, 0o755),
        ("large file", 3_000_000, 0o640),
        ("read only", 100, 0o444),
        ("deep/er/still/one", 32_768, 0o644),
        ("deep/é 'quoted' $name", 5, 0o644),
    ] {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise(size)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    }
    fs::create_dir(tree.join("nothing in it")).unwrap();
    tree
}

/// So many bytes without a pattern, always the same.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Asserts that two directories have the same in them, byte for byte.
#[track_caller]
fn same(one: &Path, other: &Path) {
    Client::new("diff").args(["-r", "--no-dereference"]).args([one, other]).run().succeeds();
}

/// Asserts that the files in two directories have the same modes and times, too.
#[track_caller]
fn same_with_modes_and_times(one: &Path, other: &Path) {
    same(one, other);
    let list = |path| {
        let find = Client::new("find").arg(path).args(["-type", "f", "-printf", "%P %m %Ts\n"]);
        let text = find.run().succeeds().text();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(list(one), list(other));
}

/// How other programs call `ssh`.
fn ssh_command(berth: &Berth) -> String {
    let words = berth.openssh("ssh").words().into_iter().map(|word| word.into_string().unwrap());
    words.collect::<Vec<_>>().join(" ")
}

/// `sftp` on these lines, of which none may fail but those that begin with a dash.
fn sftp(berth: &Berth, lines: &str) -> Client {
    berth.openssh("sftp").args(["-b", "-", "berth"]).input(lines)
}

#[test]
fn sftp_carries_directories_both_ways_with_modes_and_times() {
    // There is nothing at all in this image: no shell, no user.
    let berth = serve("berth-test/scratch");
    let (tree, back) = (tree(&berth), berth.path("back"));
    let lines = format!("put -pR {} /data/there\nget -pR /data/there {}\n", tree.display(), back.display());
    sftp(&berth, &lines).run().succeeds();
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    same_with_modes_and_times(&tree, &back);
}

#[test]
fn sftps_commands_do_what_they_say() {
    let berth = serve("berth-test/busybox");
    fs::write(far(&berth, "file"), "content\n").unwrap();
    let lines = "cd /data\nmkdir dir\nrename file dir/renamed\nln dir/renamed hard\nsymlink dir/renamed soft\n\
                 chown 1000 hard\nchgrp 1000 hard\nchmod 4711 hard\nmkdir gone\nrmdir gone\nrm soft\n\
                 symlink nowhere soft\n-rm nothing\npwd\n";
    let ran = sftp(&berth, lines).run().succeeds().says("nothing");
    assert!(ran.text().contains("Remote working directory: /data"), "{ran:?}");
    let hard = fs::metadata(far(&berth, "hard")).unwrap();
    assert_eq!((hard.mode() & 0o7777, hard.uid(), hard.gid(), hard.nlink()), (0o4711, 1000, 1000, 2));
    assert_eq!(fs::read(far(&berth, "dir/renamed")).unwrap(), b"content\n");
    assert_eq!(fs::read_link(far(&berth, "soft")).unwrap(), Path::new("nowhere"));
    assert!(!far(&berth, "file").exists() && !far(&berth, "gone").exists());
}

#[test]
fn sftp_lists_files_and_tells_how_much_room_there_is() {
    let berth = serve("berth-test/busybox");
    fs::write(far(&berth, "file"), noise(12_345)).unwrap();
    fs::set_permissions(far(&berth, "file"), fs::Permissions::from_mode(0o640)).unwrap();
    Client::new("chown").arg("1000:1000").arg(far(&berth, "file")).run().succeeds();
    symlink("file", far(&berth, "link")).unwrap();
    let text = sftp(&berth, "cd /data\nls -l\nls -1\ndf -h\ndf -i\n").run().succeeds().text();
    // The names are the image's own.
    let long = text.lines().find(|line| line.starts_with("-rw-r-----")).unwrap_or_else(|| panic!("{text}"));
    let words: Vec<_> = long.split_whitespace().collect();
    assert_eq!((words[2], words[3], words[4], *words.last().unwrap()), ("alice", "alice", "12345", "file"), "{text}");
    assert!(text.contains("lrwxrwxrwx") && text.contains("\nfile\nlink\n"), "{text}");
    assert!(text.contains("%Capacity") && text.contains("Inodes"), "{text}");
}

#[test]
fn sftp_resumes_what_was_broken_off() {
    let berth = serve("berth-test/scratch");
    let (whole, part) = (noise(5_000_000), &noise(5_000_000)[..2_222_222]);
    let near = berth.path("near");
    fs::write(&near, &whole).unwrap();
    fs::write(far(&berth, "up"), part).unwrap();
    fs::write(far(&berth, "down"), &whole).unwrap();
    fs::write(berth.path("back"), part).unwrap();
    let back = berth.path("back");
    let lines = format!("reput {} /data/up\nreget /data/down {}\n", near.display(), back.display());
    let ran = sftp(&berth, &lines).run().succeeds();
    assert!(fs::read(far(&berth, "up")).unwrap() == whole && fs::read(back).unwrap() == whole, "{ran:?}");
}

#[test]
fn sftp_carries_a_large_file_both_ways() {
    let berth = serve("berth-test/scratch");
    let (near, back) = (berth.path("near"), berth.path("back"));
    let make = r#"head -c $0 /dev/urandom >"$1""#;
    Client::new("sh").args(["-c", make, &much().to_string()]).arg(&near).within(LONG).run().succeeds();
    let lines = format!("put {} /data/file\nget /data/file {}\n", near.display(), back.display());
    sftp(&berth, &lines).within(LONG).run().succeeds();
    for copy in [far(&berth, "file"), back] {
        Client::new("cmp").args([&near, &copy]).within(LONG).run().succeeds();
    }
}

#[test]
fn sftp_carries_a_thousand_small_files_both_ways() {
    let berth = serve("berth-test/scratch");
    let (near, back) = (berth.path("near"), berth.path("back"));
    fs::create_dir(&near).unwrap();
    for number in 0..1000 {
        fs::write(near.join(format!("file-{number}")), number.to_string().repeat(number)).unwrap();
    }
    let lines = format!("put -R {} /data/files\nget -R /data/files {}\n", near.display(), back.display());
    sftp(&berth, &lines).within(LONG).run().succeeds();
    same(&near, &far(&berth, "files"));
    same(&near, &back);
}

#[test]
fn scp_carries_directories_both_ways_with_modes_and_times() {
    let berth = serve("berth-test/scratch");
    let (tree, back) = (tree(&berth), berth.path("back"));
    let scp = || berth.openssh("scp").args(["-s", "-r", "-p"]);
    scp().arg(&tree).arg("berth:/data/there").run().succeeds();
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    scp().arg("berth:/data/there").arg(&back).run().succeeds();
    same_with_modes_and_times(&tree, &back);
}

#[test]
fn scp_understands_home_and_wildcards_and_says_what_is_missing() {
    let berth = serve("berth-test/busybox");
    let master = berth.master();
    master.exec("echo one >/root/a.txt; echo two >/root/b.txt; echo three >/root/c").run().succeeds();
    let back = berth.path("back");
    fs::create_dir(&back).unwrap();
    let scp = |source: &str| master.client("scp").args(["-s", source]).arg(&back);
    scp("berth:*.txt").run().succeeds();
    scp("berth:~/c").run().succeeds();
    for (name, content) in [("a.txt", "one\n"), ("b.txt", "two\n"), ("c", "three\n")] {
        assert_eq!(fs::read_to_string(back.join(name)).unwrap(), content);
    }
    scp("berth:nothing").run().exits(1).says("nothing: No such file or directory");
}

#[test]
fn scp_carries_from_one_server_to_another() {
    let (one, other) = (serve("berth-test/scratch"), serve("berth-test/scratch"));
    let tree = tree(&one);
    Client::new("cp").arg("-a").arg(&tree).arg(far(&one, "tree")).run().succeeds();
    let host = |name: &str, berth: &Berth| {
        let known = berth.path("known_hosts");
        format!("Host {name}\n HostName 127.0.0.1\n Port {}\n UserKnownHostsFile {}\n", berth.port, known.display())
    };
    let rest = fs::read_to_string(one.path("ssh_config")).unwrap();
    let config = [host("one", &one), host("other", &other), "Host *\n User alice\n".into(), rest].concat();
    fs::write(one.path("both"), config).unwrap();
    let scp = Client::new("scp").arg("-F").arg(one.path("both")).arg("-i").arg(key("ed25519").path);
    scp.args(["-3", "-r", "-p", "one:/data/tree", "other:/data/there"]).run().succeeds();
    same_with_modes_and_times(&tree, &far(&other, "there"));
}

/// A directory of this side's that shows `/data`. In the end it is unmounted.
struct Mount {
    point: PathBuf,
    sshfs: Running,
}

impl Mount {
    fn new(berth: &Berth, options: &str) -> Self {
        let point = berth.path("mount");
        fs::create_dir(&point).unwrap();
        let identity = format!("IdentityFile={}", key("ed25519").path.display());
        // -f: not in the background, where nobody would end it.
        let sshfs = berth.openssh_without_key("sshfs").args(["-f", "-o", &identity, "-o", options, "berth:/data"]);
        let sshfs = sshfs.arg(&point).within(LONG).spawn();
        let outside = fs::metadata(berth.path("")).unwrap().dev();
        eventually("the mount", DEADLINE, || fs::metadata(&point).is_ok_and(|inside| inside.dev() != outside));
        Mount { point, sshfs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Client::new("fusermount3").args(["-u", "-z"]).arg(&self.point).run();
        if !std::thread::panicking() {
            unmounted.succeeds();
            self.sshfs.end().succeeds();
        }
    }
}

#[test]
fn sshfs_makes_the_containers_files_look_like_ones_own() {
    let berth = serve("berth-test/busybox");
    let mount = Mount::new(&berth, "auto_cache");
    let tree = tree(&berth);
    Client::new("cp").args(["-r", "--preserve=mode,timestamps"]).arg(&tree).arg(mount.path("copy")).run().succeeds();
    same_with_modes_and_times(&tree, &mount.path("copy"));
    same_with_modes_and_times(&tree, &far(&berth, "copy"));

    // The new name is taken already: as on any file system, its file is replaced.
    fs::rename(mount.path("copy/script"), mount.path("copy/empty")).unwrap();
    assert_eq!(fs::read(far(&berth, "copy/empty")).unwrap(), noise(20));
    assert!(!far(&berth, "copy/script").exists());

    let file = fs::File::options().read(true).write(true).open(mount.path("copy/large file")).unwrap();
    file.set_len(1000).unwrap();
    assert_eq!(fs::read(far(&berth, "copy/large file")).unwrap(), &noise(3_000_000)[..1000]);
    file.set_len(2000).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(far(&berth, "copy/large file")).unwrap()[1000..], [0; 1000]);
    drop(file);

    symlink("copy", mount.path("soft")).unwrap();
    assert_eq!(fs::read_link(far(&berth, "soft")).unwrap(), Path::new("copy"));
    fs::hard_link(mount.path("copy/empty"), mount.path("hard")).unwrap();
    assert_eq!(fs::metadata(far(&berth, "hard")).unwrap().nlink(), 2);
    fs::remove_dir_all(mount.path("copy")).unwrap();
    assert!(!far(&berth, "copy").exists());
}

#[test]
fn sshfs_shows_how_much_room_there_is_and_what_others_write() {
    let berth = serve("berth-test/busybox");
    let mount = Mount::new(&berth, "dir_cache=no");
    let blocks = |path: &Path| {
        let stat = Client::new("stat").args(["-f", "-c", "%b %S"]).arg(path).run().succeeds().text();
        let numbers: Vec<u64> = stat.split_whitespace().map(|word| word.parse().unwrap()).collect();
        numbers[0] * numbers[1]
    };
    assert_eq!(blocks(&mount.point), blocks(&far(&berth, "")));
    fs::write(far(&berth, "theirs"), "written in the container\n").unwrap();
    assert_eq!(fs::read_to_string(mount.path("theirs")).unwrap(), "written in the container\n");
}

/// `rclone`, to which `far:` is the server.
fn rclone(berth: &Berth, command: &str) -> Client {
    let known = berth.path("rclone_known_hosts");
    let host_key = fs::read_to_string(berth.path("host_key.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {host_key}", berth.port)).unwrap();
    let remote = format!(
        "[far]\ntype = sftp\nhost = 127.0.0.1\nport = {}\nuser = alice\nkey_file = {}\nknown_hosts_file = {}\n",
        berth.port,
        key("ed25519").path.display(),
        known.display(),
    );
    fs::write(berth.path("rclone.conf"), remote).unwrap();
    let rclone = Client::new("rclone").arg(command).arg("--config").arg(berth.path("rclone.conf"));
    rclone.env("HOME", berth.path("home")).within(LONG)
}

#[test]
fn rclone_copies_synchronizes_and_checks() {
    let berth = serve("berth-test/busybox");
    let (tree, back) = (tree(&berth), berth.path("back"));
    let carry = |command: &str| rclone(&berth, command).arg("--create-empty-src-dirs");
    carry("copy").arg(&tree).arg("far:/data/there").run().succeeds();
    same(&tree, &far(&berth, "there"));

    fs::write(tree.join("script"), "changed").unwrap();
    fs::remove_file(tree.join("large file")).unwrap();
    carry("sync").arg(&tree).arg("far:/data/there").run().succeeds();
    same(&tree, &far(&berth, "there"));
    carry("sync").arg("far:/data/there").arg(&back).run().succeeds();
    same(&tree, &back);

    // By sums that the container's own md5sum makes.
    let check = || rclone(&berth, "check").arg(&tree).arg("far:/data/there").run();
    check().succeeds().says("0 differences found");
    fs::write(far(&berth, "there/script"), "CHANGED").unwrap();
    check().exits(1).says("script: md5 differ");
}

/// `lftp` on these commands, with an open connection.
fn lftp(berth: &Berth, commands: &str) -> Client {
    let settings = format!(
        "set cmd:fail-exit yes; set net:max-retries 1; set sftp:connect-program '{} -a -x'; \
         open -u alice, sftp://berth; {commands}",
        ssh_command(berth),
    );
    Client::new("lftp").args(["--norc", "-c", &settings]).env("HOME", berth.path("home")).within(LONG)
}

#[test]
fn lftp_mirrors_both_ways() {
    let berth = serve("berth-test/scratch");
    let (tree, back) = (tree(&berth), berth.path("back"));
    symlink("deep/er", tree.join("link")).unwrap();
    lftp(&berth, &format!("mirror -R {} /data/there", tree.display())).run().succeeds();
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    fs::remove_file(tree.join("large file")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    let again = format!("mirror -R --delete {} /data/there", tree.display());
    lftp(&berth, &format!("{again}; mirror /data/there {}", back.display())).run().succeeds();
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    same_with_modes_and_times(&tree, &back);
}

#[test]
fn psftp_carries_directories_both_ways() {
    let berth = serve("berth-test/scratch");
    let (tree, back) = (tree(&berth), berth.path("back"));
    let lines = format!(
        "cd /data\nmkdir dir\nput -r {} dir/there\nget -r dir/there {}\nren dir/there/script dir/moved\n\
         chmod 600 dir/moved\nls dir\ndel dir/there/empty\nrmdir \"dir/there/nothing in it\"\n",
        tree.display(),
        back.display()
    );
    fs::write(berth.path("batch"), lines).unwrap();
    let ran = berth.putty("psftp").arg("127.0.0.1").arg("-b").arg(berth.path("batch")).run().succeeds();
    assert!(ran.text().contains("-rw-------"), "{ran:?}");
    same(&tree, &back);
    assert_eq!(fs::read(far(&berth, "dir/moved")).unwrap(), noise(20));
    for gone in ["script", "empty", "nothing in it"] {
        assert!(!far(&berth, "dir/there").join(gone).exists(), "{gone}");
    }
}

#[test]
fn pscp_carries_directories_both_ways() {
    let berth = serve("berth-test/scratch");
    let (tree, back) = (tree(&berth), berth.path("back"));
    fs::create_dir(&back).unwrap();
    let pscp = || berth.putty("pscp").args(["-sftp", "-r", "-p"]);
    pscp().arg(&tree).arg("127.0.0.1:/data").run().succeeds();
    same(&tree, &far(&berth, "tree"));
    pscp().arg("127.0.0.1:/data/tree").arg(&back).run().succeeds();
    same(&tree, &back.join("tree"));
    let ran = berth.putty("pscp").args(["-ls", "127.0.0.1:/data/tree"]).run().succeeds();
    assert!(ran.text().contains("large file"), "{ran:?}");
}

#[test]
fn rsync_makes_both_sides_the_same() {
    let berth = serve("berth-test/tools");
    let (tree, back) = (tree(&berth), berth.path("back"));
    symlink("deep/er", tree.join("link")).unwrap();
    let shell = ssh_command(&berth);
    let rsync = |from: &str, to: &str| {
        let rsync = Client::new("rsync").args(["-a", "--delete", "-e", &shell, from, to]).within(LONG);
        rsync.run().succeeds();
    };
    let (here, there) = (format!("{}/", tree.display()), "berth:/data/there/");
    rsync(&here, there);
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    // Only the difference now, and what is gone here goes there.
    fs::write(tree.join("large file"), [&noise(3_000_000)[..], b"more"].concat()).unwrap();
    fs::remove_file(tree.join("empty")).unwrap();
    rsync(&here, there);
    same_with_modes_and_times(&tree, &far(&berth, "there"));
    fs::create_dir(&back).unwrap();
    fs::write(back.join("not there"), "").unwrap();
    rsync(there, &format!("{}/", back.display()));
    same_with_modes_and_times(&tree, &back);
}

#[test]
fn git_clones_and_pushes() {
    let berth = serve("berth-test/tools");
    let shell = ssh_command(&berth);
    let git = |directory: &str, arguments: &[&str]| {
        let who = ["-c", "user.name=Alice", "-c", "user.email=alice@example.com", "-c", "init.defaultBranch=main"];
        let git = Client::new("git").arg("-C").arg(berth.path(directory)).args(who).args(arguments);
        git.env("GIT_SSH_COMMAND", &shell).env("HOME", berth.path("home")).within(LONG).run().succeeds().text()
    };
    berth.exec("git init --bare --initial-branch=main /data/repository").run().succeeds();
    let tree = tree(&berth);
    git("tree", &["init"]);
    git("tree", &["add", "--all"]);
    git("tree", &["commit", "--message=First"]);
    git("tree", &["push", "berth:/data/repository", "main"]);
    git("", &["clone", "berth:/data/repository", "clone"]);
    fs::remove_dir(tree.join("nothing in it")).unwrap();
    assert_eq!(git("clone", &["rev-parse", "HEAD"]), git("tree", &["rev-parse", "HEAD"]));
    fs::write(berth.path("clone/script"), "changed").unwrap();
    git("clone", &["commit", "--all", "--message=Second"]);
    git("clone", &["push"]);
    git("tree", &["pull", "--ff-only", "berth:/data/repository", "main"]);
    assert_eq!(fs::read(tree.join("script")).unwrap(), b"changed");
    let forced = git("tree", &["ls-remote", "ssh://berth/data/repository", "main"]);
    assert!(forced.starts_with(git("clone", &["rev-parse", "HEAD"]).trim()), "{forced}");
}
