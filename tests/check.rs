//! `berth check` as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that is removed in the end.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("berth-check-{}-{count}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn berth(command: &str, path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth")).args([command, "--config"]).arg(path).output().unwrap()
}

/// Exit status and both outputs, with the file's own name left out.
fn check(command: &str, text: &str) -> (Option<i32>, String, String) {
    let file = File::new(text);
    let output = berth(command, &file.0);
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(file.0.to_str().unwrap(), "FILE");
    (output.status.code(), words(&output.stdout), words(&output.stderr))
}

const GOOD: &str = "docker: {execution: {container: {image: guest}}}\n";

const BAD: &str = "\
ssh:
  listen: nowhere
  cipher: [aes128-ctr]
auth:
  users:
    alice: {password: secret}
docker:
  execution:
    mode: conection
    container: {image: guest, labls: {}}
    host: {mounts: [{tipe: volume}]}
";

#[test]
fn the_reference_configuration_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let output = berth("check", &path);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_good_file_is_said_to_be_so() {
    assert_eq!(check("check", GOOD), (Some(0), "FILE: ok\n".into(), String::new()));
}

#[test]
fn json_is_good_too() {
    let json = r#"{"docker": {"execution": {"container": {"Image": "guest", "Env": ["A=1"]}}}}"#;
    assert_eq!(check("check", json), (Some(0), "FILE: ok\n".into(), String::new()));
}

#[test]
fn every_error_is_told_by_line_and_path_and_no_secret_is() {
    let (status, out, errors) = check("check", BAD);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    for place in [
        "FILE:2: ssh.listen: ",
        "FILE:3: ssh.cipher: unknown key; did you mean ciphers?",
        "FILE:6: auth.users.alice.password: ",
        "FILE:9: docker.execution.mode: ",
        "FILE:10: docker.execution.container.labls: unknown key; did you mean Labels?",
        "FILE:11: docker.execution.host.mounts[0].tipe: unknown key; did you mean Type?",
    ] {
        assert!(errors.lines().any(|line| line.starts_with(place)), "{place} in\n{errors}");
    }
    assert_eq!(errors.lines().count(), 6, "{errors}");
    assert!(!errors.contains("secret"), "{errors}");
}

#[test]
fn serve_refuses_what_check_refuses() {
    assert_eq!(check("serve", BAD), check("check", BAD));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = berth("check", Path::new("/nonexistent/berth.yaml"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("/nonexistent/berth.yaml: "));
}
