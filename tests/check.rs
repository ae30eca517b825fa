//! `berth check` as its users run it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that is removed in the end.
struct File(PathBuf);

impl File {
    fn new(text: &[u8]) -> Self {
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
    let mut berth = Command::new(env!("CARGO_BIN_EXE_berth"));
    berth.args([command, "--config"]).arg(path).env_remove("DOCKER_HOST").env_remove("XDG_RUNTIME_DIR");
    berth.output().unwrap()
}

/// Exit status and both outputs, with the file's own name left out.
fn run(command: &str, text: &[u8]) -> (Option<i32>, String, String) {
    let file = File::new(text);
    let output = berth(command, &file.0);
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(file.0.to_str().unwrap(), "FILE");
    (output.status.code(), words(&output.stdout), words(&output.stderr))
}

/// What `berth check` prints of a text that is not good.
fn errors(text: &[u8]) -> String {
    let (status, out, errors) = run("check", text);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    errors
}

const GOOD: &str = "docker: {execution: {container: {image: guest}, host: {pidsLimit: 256, memory: 1g}}}\n";

/// Somebody whom a password lets in.
const USER: &str = "auth: {users: {a: {password: $5$rounds=1000$salt$XP4Jhu0/soBtVfUI3PL03nxvgUAiH5axJpcM7vlpCLC}}}\n";

const BAD: &str = "\
ssh:
  listen: [127.0.0.1:2222, nowhere]
  cipher: [aes128-ctr]
  macs: hmac-md5
  loginGraceTime: 120000000000
  maxAuthTries: \"6\"
auth:
  users:
    alice: {password: secret}
    bob: {authorizedKeys: [\"ssh-rsa c2VjcmV0 bob\"]}
backend: dokcer
docker:
  execution:
    mode: conection
    agentPath: /usr/bin/agent
    container: {image: guest, labls: {}, tty: nope}
    host:
      memory: 512 MB
      mounts: [{tipe: volume}]
      Memory: 512m
";

const ERRORS: &str = "\
FILE:2: ssh.listen[1]: must be an address and port, such as 127.0.0.1:2222, [::1]:2222, or :2222 for all addresses
FILE:3: ssh.cipher: unknown key; did you mean ciphers?
FILE:4: ssh.macs: not offered; offered are hmac-sha2-256-etm@openssh.com, hmac-sha2-512-etm@openssh.com, hmac-sha2-256, \
hmac-sha2-512
FILE:5: ssh.loginGraceTime: a number this large needs a unit, as in 90s or 1m30s
FILE:6: ssh.maxAuthTries: must be a number from 1 to 100, without quotes
FILE:9: auth.users.alice.password: not a password hash of a known form ($argon2id$, $2b$, $2a$, $2y$, $6$, $5$); \
make one with 'berth keygen -t password'
FILE:10: auth.users.bob.authorizedKeys[0]: the key is not of type ssh-rsa, which stands before it
FILE:11: backend: must be docker, kubernetes or sshproxy; did you mean docker?
FILE:14: docker.execution.mode: must be connection, session or persistent; did you mean connection?
FILE:15: warning: docker.execution.agentPath: has no effect: berth brings its own agent
FILE:16: docker.execution.container.labls: unknown key; did you mean labels?
FILE:16: docker.execution.container.tty: must be true or false, without quotes
FILE:18: docker.execution.host.memory: must be a number of bytes, or one with a unit, such as 512m or 2g
FILE:19: docker.execution.host.mounts[0].tipe: unknown key; did you mean type?
FILE:20: docker.execution.host.Memory: given twice; the first is in line 18
";

#[test]
fn the_reference_configuration_is_good() {
    let output = berth("check", &Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml"));
    let warnings = String::from_utf8(output.stderr).unwrap();
    // But for its only user, who has no key.
    assert!(warnings.contains("auth.users.alice: nobody can log in") && warnings.lines().count() == 1, "{warnings}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_good_file_is_said_to_be_so() {
    assert_eq!(run("check", format!("{GOOD}{USER}").as_bytes()), (Some(0), "FILE: ok\n".into(), String::new()));
}

#[test]
fn json_is_good_too() {
    let json = br#"{"docker": {"execution": {"container": {"Image": "guest", "Env": ["A=1"]},
        "host": {"PidsLimit": 256, "Memory": "1g"}}}, "auth": {"users": {"a": {"authorizedKeysFile": "keys/%u"}}}}"#;
    assert_eq!(run("check", json), (Some(0), "FILE: ok\n".into(), String::new()));
}

#[test]
fn every_error_is_told_by_line_and_path() {
    assert_eq!(errors(BAD.as_bytes()), ERRORS);
}

#[test]
fn an_sftp_server_that_cannot_be_called_so_is_an_error() {
    let configuration = "\
docker: {execution: {container: {image: guest}, subsystems: {sftp: internal-sftp -x, other: internal-sftp -R}}}
security: {forceCommand: \"internal-sftp -P unlink\"}
auth: {users: {alice: {authorizedKeys: ['command=\"internal-sftp -u 8\" ssh-ed25519 \
AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl']}}}
";
    let expected = "\
FILE:1: docker.execution.subsystems.sftp: internal-sftp: there is no option -x
FILE:2: security.forceCommand: internal-sftp: -P: there is no request \"unlink\"
FILE:3: auth.users.alice.authorizedKeys[0]: option \"command=\": internal-sftp: -u \"8\": must be an octal number up to 777
";
    assert_eq!(errors(configuration.as_bytes()), expected);
}

#[test]
fn serve_refuses_what_check_refuses() {
    assert_eq!(run("serve", BAD.as_bytes()), (Some(1), String::new(), ERRORS.into()));
}

#[test]
fn a_syntax_error_has_line_and_column() {
    let errors = errors(b"ssh:\n  listen: \"127.0.0.1:22\n");
    assert!(errors.starts_with("FILE:2:11: ") && errors.lines().count() == 1, "{errors}");
}

#[test]
fn what_is_no_text_or_too_much_of_it_is_refused() {
    assert_eq!(errors(b"ssh:\n  banner: \xff\n"), "FILE:2: not UTF-8\n");
    let comments = [b'#'; 1024 * 1024 + 1];
    assert_eq!(errors(&comments), "FILE: too large: a configuration has 1048576 bytes at most\n");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    for (path, reason) in
        [("/nonexistent/berth.yaml", "No such file or directory (os error 2)"), ("/", "Is a directory (os error 21)")]
    {
        let output = berth("check", Path::new(path));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{path}: {reason}\n"));
    }
}

#[test]
fn a_private_key_in_the_wrong_place_is_not_shown() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n      c2VjcmV0\n";
    for place in ["auth:\n  users:\n    a:\n      authorizedKeys: ", "ssh:\n  listen: "] {
        let errors = errors(format!("{GOOD}{place}|\n      {key}").as_bytes());
        assert!(errors.lines().count() == 1 && !errors.contains("c2VjcmV0"), "{errors}");
    }
}

/// Validates FILE, which is YAML, by the schema on standard input.
const VALIDATE: &str = "
import json, sys
import jsonschema, ruamel.yaml
schema = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
document = ruamel.yaml.YAML(typ='safe', pure=True).load(open(sys.argv[1]))
for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
    print('.'.join(str(key) for key in error.absolute_path))
";

/// The paths that a text is wrong at, by the schema that `berth check --schema` prints.
fn wrong_by_schema(text: &[u8]) -> String {
    let file = File::new(text);
    let schema = Command::new(env!("CARGO_BIN_EXE_berth")).args(["check", "--schema"]).output().unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", VALIDATE]).arg(&file.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(&schema.stdout).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_schema_takes_the_reference_and_finds_what_is_wrong() {
    assert_eq!(wrong_by_schema(include_bytes!("../config.yaml")), "");
    let found = wrong_by_schema(BAD.as_bytes());
    for path in ["ssh\n", "ssh.macs\n", "backend\n", "docker.execution.mode\n", "docker.execution.container\n"] {
        assert!(found.contains(path), "{path}: {found}");
    }
}

#[test]
fn a_key_is_explained() {
    let berth =
        |key: &str| Command::new(env!("CARGO_BIN_EXE_berth")).args(["check", "--explain", key]).output().unwrap();
    let good = berth("log.level");
    assert!(good.status.success());
    assert!(String::from_utf8(good.stdout).unwrap().contains("The least important messages"));
    // Nothing of an example of another key's.
    for (key, words) in [
        ("docker.connection.keyFile", "certificate and key that the daemon wants"),
        ("kubernetes.pod.spec", "The pod's ObjectMeta and PodSpec"),
        ("docker.execution.keep", "How long such a container is kept"),
        ("auth.users.alice.docker.execution.host.cpuShares", "The Docker API's HostConfig.CpuShares"),
    ] {
        let text = String::from_utf8(berth(key).stdout).unwrap();
        let said = text.split("\n\n").next().unwrap();
        assert!(said.contains(words), "{text}");
        assert!(!said.contains("BEGIN") && !said.contains("namespace: guests"), "{text}");
    }
    // By a word in its name, or else by one in what is said of it.
    let found = String::from_utf8(berth("memory").stdout).unwrap();
    assert!(found.contains("    docker.execution.host.memory\n"), "{found}");
    assert!(!found.contains("auth."), "once is enough: {found}");
    let found = String::from_utf8(berth("browser").stdout).unwrap();
    assert!(found.contains("auth.keyboardInteractive"), "{found}");
    assert_eq!(berth("xyzzy").status.code(), Some(1));
    let bad = berth("log.levle");
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8(bad.stderr).unwrap().contains("did you mean level?"));
}

/// A directory with a configuration in it, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-check-{test}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Exit status and standard error of `berth check` with these lines, and a user where they have none.
    fn check(&self, lines: &str) -> (Option<i32>, String) {
        let user = if lines.contains("auth:") { "" } else { USER };
        std::fs::write(self.path("config.yaml"), format!("{GOOD}{user}{lines}\n")).unwrap();
        let output = berth("check", &self.path("config.yaml"));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_serve_would_end_at_is_found() {
    let directory = Directory::new("serve");
    let keygen = Command::new(env!("CARGO_BIN_EXE_berth")).args(["keygen", "-f"]).arg(directory.path("open")).output();
    assert!(keygen.unwrap().status.success());
    set_mode(&directory.path("open"), 0o644);
    set_mode(&directory.path("open.pub"), 0o600);
    for (lines, reason) in [
        (
            "ssh: {hostkeys: [\"-----BEGIN OPENSSH PRIVATE KEY-----\\nAAAA\"]}",
            "in the configuration: not a private key",
        ),
        ("ssh: {hostkeys: open.pub}", "open.pub: not a private key"),
        ("ssh: {hostkeys: .}", "not a regular file"),
        ("ssh: {hostkeys: open}", "open' are too open"),
        ("ssh: {hostkeys: nowhere/key}", "nowhere/key: No such file or directory"),
        ("ssh: {hostkeys: new_rsa, hostKeyAlgorithms: ssh-ed25519}", "none of them is of a key in ssh.hostkeys"),
        ("ssh: {hostCertificates: missing-cert.pub}", "missing-cert.pub: No such file or directory"),
        ("log: {destination: file, file: nowhere/log}", "log.file: "),
    ] {
        let (status, errors) = directory.check(lines);
        assert_eq!(status, Some(1), "{lines}: {errors}");
        assert!(errors.contains(reason) && errors.lines().count() == 1, "{lines}: {errors}");
    }
    set_mode(&directory.path("open"), 0o640);
    assert_eq!(
        directory.check("ssh: {hostkeys: [open, new_ecdsa, new_ecdsa_2]}\nlog: {destination: file, file: log}"),
        (Some(0), "".into())
    );
    assert!(!directory.path("new_ecdsa").exists() && !directory.path("log").exists(), "it makes nothing");
}

#[test]
fn what_nobody_would_be_let_in_by_is_worth_a_warning() {
    let directory = Directory::new("warnings");
    std::fs::write(directory.path("revoked"), "ssh-new AAAA\n").unwrap();
    std::fs::create_dir(directory.path("open")).unwrap();
    set_mode(&directory.path("open"), 0o777);
    for (lines, reason) in [
        ("ssh: {revokedKeys: revoked}", "no key is good until that is mended"),
        ("runDirectory: open/run", "open: mode 0777 lets others put something else in its place"),
    ] {
        let (status, errors) = directory.check(lines);
        assert_eq!(status, Some(0), "{errors}");
        assert!(errors.contains(reason) && errors.lines().count() == 1, "{lines}: {errors}");
    }
    assert_eq!(directory.check("ssh: {revokedKeys: /dev/null}"), (Some(0), "".into()));
}

#[test]
fn a_code_that_somebody_is_let_in_without_is_worth_a_warning() {
    let directory = Directory::new("codes");
    for (methods, warning) in [
        ("keyboard-interactive", None),
        ("[\"publickey,keyboard-interactive\", keyboard-interactive]", None),
        ("publickey", Some("has no effect: no list of authenticationMethods has keyboard-interactive")),
        (
            "[publickey, \"password,keyboard-interactive\"]",
            Some("can be left out: a list of authenticationMethods lets in without keyboard-interactive"),
        ),
    ] {
        let totp = "totp: {secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ}, authorizedKeysFile: \"%u\", \
                    password: $5$rounds=1000$salt$XP4Jhu0/soBtVfUI3PL03nxvgUAiH5axJpcM7vlpCLC";
        for lines in [
            format!("auth: {{users: {{a: {{{totp}, authenticationMethods: {methods}}}}}}}"),
            format!("auth: {{users: {{a: {{{totp}}}}}}}\nssh: {{authenticationMethods: {methods}}}"),
        ] {
            let (status, errors) = directory.check(&lines);
            assert_eq!(status, Some(0), "{lines}: {errors}");
            match warning {
                Some(warning) => assert!(errors.contains(&format!("auth.users.a.totp: {warning}")), "{errors}"),
                None => assert_eq!(errors, "", "{lines}"),
            }
        }
    }
}

#[test]
fn who_cannot_log_in_is_worth_a_warning() {
    let directory = Directory::new("logins");
    std::fs::write(directory.path("keys"), "").unwrap();
    for (lines, warning) in [
        ("auth: {}", "auth has neither users nor webhooks: nobody can log in"),
        ("auth: {users: {a: {}}}", "auth.users.a: nobody can log in as this user: give a password"),
        (
            "auth: {users: {a: {authorizedKeysFile: \"%u\", authenticationMethods: password}}}",
            "auth.users.a: nobody can log in as this user: each list of authenticationMethods",
        ),
        (
            "auth: {users: {a: {authorizedKeysFile: \"https://example.org/%u.keys\"}}}",
            "auth.users.a.authorizedKeysFile: the path of a file, not a URL",
        ),
        ("auth: {users: {a: {authorizedKeysFile: missing}}}", "auth.users.\"a\": authorizedKeysFile: "),
        ("auth: {users: {a: {authorizedKeysCommand: [curl, -s]}}}", "logins/curl: No such file or directory"),
        ("auth: {users: {a: {authorizedKeysCommand: keys}}}", "keys: not a program"),
    ] {
        let (status, errors) = directory.check(lines);
        let errors = errors.replace(&format!("-{}", std::process::id()), "");
        assert_eq!(status, Some(0), "{lines}: {errors}");
        assert!(errors.contains(warning) && errors.lines().count() == 1, "{lines}: {errors}");
    }
    for lines in [
        "auth: {users: {a: {authorizedKeysFile: keys}}}",
        "auth: {users: {a: {authorizedKeysFile: \"%u\", totp: {secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ}}}}",
        "auth: {users: {a: {}}, password: {method: webhook, webhook: {url: \"http://127.0.0.1\"}}}",
        "auth: {users: {a: {}}}\nssh: {trustedUserCAKeys: keys}",
    ] {
        assert_eq!(directory.check(lines), (Some(0), String::new()), "{lines}");
    }
}

#[test]
fn help_is_there_for_each_command() {
    let berth = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_berth")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (command, words) in
        [("serve", "SIGHUP"), ("check", "--explain"), ("keygen", "--comment"), ("agent", "--listen PATH")]
    {
        let (status, help, _) = berth(&["help", command]);
        assert!(status == Some(0) && help.starts_with(&format!("Usage: berth {command}")), "{help}");
        assert!(help.contains(words), "{help}");
        for option in ["--help", "-h"] {
            assert_eq!(berth(&[command, option]), (Some(0), help.clone(), String::new()));
        }
    }
    let (_, all, _) = berth(&["--help"]);
    assert_eq!(berth(&["help"]), (Some(0), all, String::new()));
    assert_eq!(berth(&["help", "sevre"]).0, Some(2));
}

#[test]
fn whoever_has_read_enough_of_the_output_ends_it_quietly() {
    let schema = "\"$BERTH\" check --schema";
    for (line, expected) in [
        (format!("{schema} | head -n 1; echo ${{PIPESTATUS[0]}}"), "{\n0\n"),
        ("\"$BERTH\" --help | true; echo ${PIPESTATUS[0]}".to_owned(), "0\n"),
        // There is something wrong with this, which cannot be said.
        ("\"$BERTH\" check --config /nowhere 2>&1 | true; echo ${PIPESTATUS[0]}".to_owned(), "1\n"),
        (
            format!("{schema} 2>&1 >/dev/full; echo $?"),
            "berth: standard output: No space left on device (os error 28)\n1\n",
        ),
    ] {
        let mut bash = Command::new("bash");
        let output = bash.args(["-c", &line]).env("BERTH", env!("CARGO_BIN_EXE_berth")).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!((text(output.stdout), text(output.stderr)), (expected.to_owned(), String::new()), "{line}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_worth_a_warning() {
    let directory = Directory::new("secrets");
    std::fs::write(directory.path("secret"), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n").unwrap();
    for (mode, expected) in [(0o644, true), (0o600, false), (0o440, false)] {
        set_mode(&directory.path("secret"), mode);
        for lines in [
            "auth: {users: {a: {totp: {secretFile: secret}}}}",
            "auth: {users: {a: {totp: {secret: {file: secret}}}}}",
            "kubernetes: {connection: {bearerTokenFile: secret}}",
        ] {
            let (status, errors) = directory.check(lines);
            assert_eq!((status, errors.contains("are too open")), (Some(0), expected), "{lines}: {errors}");
        }
    }
}
