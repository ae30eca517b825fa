//! `berth keygen`, judged by ssh-keygen.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use berth::auth::{LONGEST_PASSWORD, PasswordHash};

/// A directory of this test's own, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-keygen-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn keygen(arguments: &[&str], file: Option<&Path>, input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("keygen").args(arguments);
    if let Some(file) = file {
        command.arg("-f").arg(file);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Fails where the program does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[test]
fn keys_of_every_type_are_good_for_openssh() {
    let directory = Directory::new("types");
    for (arguments, start) in [
        (&[][..], "ssh-ed25519 "),
        (&["-t", "ed25519"], "ssh-ed25519 "),
        (&["-t", "ecdsa"], "ecdsa-sha2-nistp256 "),
        (&["-t", "rsa"], "ssh-rsa "),
    ] {
        let file = directory.path(&arguments.concat());
        let file = if arguments.is_empty() { directory.path("default") } else { file };
        let output = keygen(arguments, Some(&file), b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let public = text(&output.stdout);
        assert!(public.starts_with(start), "{public}");
        // ssh-keygen computes the public key from the private one.
        let judge = Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&file).output().unwrap();
        assert_eq!(text(&judge.stdout), public, "{judge:?}");
        assert_eq!(fs::read_to_string(file.with_extension("pub")).unwrap(), format!("{public}\n"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    assert_eq!(directory.names().len(), 2 * 4, "{:?}", directory.names());
}

#[test]
fn a_private_key_is_never_overwritten() {
    let directory = Directory::new("overwrite");
    let file = directory.path("key");
    fs::write(&file, "precious").unwrap();
    let output = keygen(&[], Some(&file), b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("key: File exists"), "{output:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(directory.names(), ["key"]);
}

#[test]
fn a_password_becomes_a_hash_that_verifies() {
    for input in ["Hello world!", "Hello world!\n", "Hello world!\r\n", "Hello world!\nAnd more\n"] {
        let output = keygen(&["-t", "password"], None, input.as_bytes());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(output.stdout.starts_with(b"$argon2id$v=19$"), "{output:?}");
        let hash = PasswordHash::parse(text(&output.stdout)).unwrap();
        assert!(hash.verify(b"Hello world!") && !hash.verify(b"Hello world"), "{input:?}");
    }
}

#[test]
fn what_is_no_password_is_refused() {
    for input in [&b""[..], b"\n", b"\xff\xfe\n", &[b'x'; LONGEST_PASSWORD + 1], &[b'x'; 100_000]] {
        let output = keygen(&["-t", "password"], None, input);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.starts_with(b"berth: "), "{output:?}");
    }
}

#[test]
fn a_wrong_command_line_says_so() {
    let directory = Directory::new("usage");
    for (arguments, file) in [(&["-t", "dsa"][..], Some("key")), (&["-t", "rsa"], None), (&["--bits"], Some("key"))] {
        let output = keygen(arguments, file.map(|name| directory.path(name)).as_deref(), b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).ends_with("see 'berth --help'"), "{output:?}");
    }
    assert!(directory.names().is_empty());
}
