//! Who gets in, and what becomes of those who do not.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::common::{
    Berth, Client, DEADLINE, PASSWORD, PRESENT, RawClient, SecurityKey, VERIFIED, directory_of, eventually, key,
    offer_keys, offer_security_key, string,
};

/// A server that lets alice in with this line of authorized keys alone.
fn with_key_line(line: &str) -> Berth {
    Berth::with(|config| config["auth"]["users"] = json!({"alice": {"authorizedKeys": [line]}}))
}

/// A server that lets alice in with the usual key, held to these options.
fn with_key_options(options: &str) -> Berth {
    with_key_line(&format!("{options} {}", key("ed25519").public))
}

#[test]
fn the_right_password_lets_in_and_no_other() {
    let berth = Berth::start();
    berth.openssh_with_password("ssh", PASSWORD, 1).args(["-T", "berth", "echo in"]).run().succeeds().prints("in\n");
    for wrong in ["wrong", "correct horsf", "correct hors", "correct horse ", &"long".repeat(10_000)] {
        let ran = berth.openssh_with_password("ssh", wrong, 1).args(["-T", "berth", "echo in"]).run();
        ran.exits(255).prints("").says("Permission denied");
    }
}

#[test]
fn the_password_may_be_asked_for_by_prompt() {
    let berth = Berth::start();
    for (password, code, text) in [(PASSWORD, 0, "in\n"), ("wrong", 255, "")] {
        let ssh = berth.openssh_with_password("ssh", password, 1);
        let ssh = ssh.args(["-T", "-o", "PreferredAuthentications=keyboard-interactive", "berth", "echo in"]);
        ssh.run().exits(code).prints(text);
    }
}

#[test]
fn password_hashes_of_every_kind_are_understood() {
    let made = Client::new(env!("CARGO_BIN_EXE_berth")).args(["keygen", "-t", "password"]).input(PASSWORD).run();
    let made = made.succeeds().text().trim().to_owned();
    assert!(made.starts_with("$argon2id$"), "{made}");
    let berth = Berth::with(|config| {
        let bcrypt = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";
        config["auth"]["users"] = json!({"argon2id": {"password": made}, "bcrypt": {"password": bcrypt}});
    });
    for user in ["argon2id", "bcrypt"] {
        let ssh = || berth.openssh_with_password("ssh", PASSWORD, 1).args(["-T", "-l", user, "berth", "echo in"]);
        ssh().run().succeeds().prints("in\n");
        berth.openssh_with_password("ssh", "wrong", 1).args(["-T", "-l", user, "berth", "echo in"]).run().prints("");
    }
}

#[test]
fn unknown_users_are_refused_like_known_ones() {
    let berth = Berth::start();
    let refused = |user: &str| {
        let password = berth.openssh_with_password("ssh", "wrong", 1).args(["-T", "-l", user, "berth", "true"]).run();
        let key = berth.openssh_with_key("ssh", "ed25519-stranger").args(["-l", user, "berth", "true"]).run();
        (password.stderr.replace(user, "?"), key.exits(255).stderr.replace(user, "?"))
    };
    let known = refused("alice");
    assert!(known.1.contains("Permission denied (publickey,password,keyboard-interactive)"), "{known:?}");
    assert_eq!(refused("nobody-of-that-name"), known);
}

#[test]
fn without_a_password_none_lets_in() {
    let berth = with_key_line(&key("ed25519").public);
    for password in ["", "x", "*", "!"] {
        let ran = berth.openssh_with_password("ssh", password, 1).args(["-T", "berth", "echo in"]).run();
        ran.exits(255).prints("");
    }
}

#[test]
fn keys_of_every_type_let_in() {
    let names = ["ed25519", "rsa", "ecdsa", "ecdsa-384", "ecdsa-521"];
    let lines: Vec<_> = names.iter().map(|name| key(name).public).collect();
    let berth = Berth::with(|config| config["auth"]["users"]["alice"]["authorizedKeys"] = lines.into());
    for name in names {
        berth.openssh_with_key("ssh", name).args(["-T", "berth", "echo in"]).run().succeeds().prints("in\n");
    }
}

/// Logs in with each security key as a user of its own, whose line has these options; gives whether that went well.
fn with_security_keys(keys: Vec<(&str, SecurityKey)>, options_for_all: &[&str]) -> Vec<bool> {
    let berth = Berth::with(|config| {
        config["ssh"]["pubkeyAuthOptions"] = json!(options_for_all);
        for (number, (options, key)) in keys.iter().enumerate() {
            let line = format!("{options} {}", key.line());
            config["auth"]["users"][format!("user{number}")] = json!({"authorizedKeys": line});
        }
    });
    let log_in = |(number, (_, key)): (usize, (_, SecurityKey))| {
        let socket = berth.path(&format!("agent{number}"));
        let blob = key.blob.clone();
        offer_security_key(&socket, key, &[blob]);
        let ssh =
            berth.openssh_without_key("ssh").args(["-T", "-o", "IdentitiesOnly=no", "-l", &format!("user{number}")]);
        ssh.args(["berth", "echo in"]).env("SSH_AUTH_SOCK", socket).run().text() == "in\n"
    };
    keys.into_iter().enumerate().map(log_in).collect()
}

#[test]
fn security_keys_of_every_type_let_in() {
    let keys = vec![("", SecurityKey::ed25519(PRESENT)), ("", SecurityKey::ecdsa(PRESENT))];
    assert_eq!(with_security_keys(keys, &[]), [true, true]);
}

#[test]
fn a_security_key_must_have_been_touched_unless_its_line_says_otherwise() {
    let keys = || vec![("", SecurityKey::ed25519(0)), ("no-touch-required", SecurityKey::ecdsa(0))];
    assert_eq!(with_security_keys(keys(), &[]), [false, true]);
    assert_eq!(with_security_keys(keys(), &["touch-required"]), [false, false]);
}

#[test]
fn a_security_key_may_have_to_verify_its_user() {
    let keys = vec![
        ("verify-required", SecurityKey::ed25519(PRESENT)),
        ("verify-required", SecurityKey::ecdsa(PRESENT | VERIFIED)),
    ];
    assert_eq!(with_security_keys(keys, &[]), [false, true]);
    let keys = vec![("", SecurityKey::ed25519(PRESENT)), ("", SecurityKey::ecdsa(PRESENT | VERIFIED))];
    assert_eq!(with_security_keys(keys, &["verify-required"]), [false, true]);
}

#[test]
fn a_strangers_key_does_not_let_in() {
    let berth = Berth::start();
    for name in ["ed25519-stranger", "rsa"] {
        berth
            .openssh_with_key("ssh", name)
            .args(["-T", "berth", "echo in"])
            .run()
            .exits(255)
            .says("Permission denied (publickey,password,keyboard-interactive)");
    }
}

#[test]
fn signatures_with_sha_1_are_refused() {
    let berth = with_key_line(&key("rsa").public);
    let ssh = |algorithm: &str| {
        let option = format!("PubkeyAcceptedAlgorithms={algorithm}");
        berth.openssh_with_key("ssh", "rsa").args(["-T", "-o", &option])
    };
    ssh("ssh-rsa").args(["berth", "echo in"]).run().exits(255).prints("");
    ssh("rsa-sha2-256").args(["berth", "echo in"]).run().succeeds().prints("in\n");
}

#[test]
fn keys_that_are_none_are_refused_and_the_next_method_follows() {
    let berth = Berth::start();
    let socket = berth.path("agent");
    let known = [&string(b"ssh-ed25519")[..], &string([7; 32])].concat();
    let keys = [
        [string(b"ssh-dss"), string([1; 129]), string([1; 21]), string([1; 128]), string([1; 128])].concat(),
        [string(b"sk-ssh-ed25519@openssh.com"), string([1; 32]), string(b"ssh:")].concat(),
        [string(b"no-such-type@example.com"), vec![255; 300]].concat(),
        // Cut off in the middle, and with too much.
        known[..known.len() - 5].to_vec(),
    ];
    offer_keys(&socket, &keys);
    let plink = berth.putty("plink").env("SSH_AUTH_SOCK", &socket).args(["-v", "-agent", "127.0.0.1", "echo in"]);
    let ran = plink.run().succeeds().prints("in\n");
    assert_eq!(ran.stderr.matches("Server refused our key").count(), keys.len(), "{ran:?}");
}

#[test]
fn openssh_goes_on_after_hardware_and_dsa_keys() {
    let berth = Berth::start();
    let socket = berth.path("agent");
    let dsa = [string(b"ssh-dss"), string([1; 129]), string([1; 21]), string([1; 128]), string([1; 128])].concat();
    let hardware = [string(b"sk-ssh-ed25519@openssh.com"), string([1; 32]), string(b"ssh:")].concat();
    offer_keys(&socket, &[dsa, hardware]);
    // Since OpenSSH 10 the client knows no DSA at all.
    let known = Client::new("ssh").args(["-Q", "key-sig"]).run().succeeds().text();
    let dsa = if known.lines().any(|name| name == "ssh-dss") { ",ssh-dss" } else { "" };
    let accepted = format!("PubkeyAcceptedAlgorithms=+sk-ssh-ed25519@openssh.com{dsa}");
    let ssh = berth.ssh(["-v", "-T", "-o", "IdentitiesOnly=no", "-o", &accepted, "berth", "echo in"]);
    ssh.env("SSH_AUTH_SOCK", &socket).run().succeeds().prints("in\n").says("Offering public key: crafted");
}

#[test]
fn methods_that_berth_has_not_are_refused_at_once() {
    let berth = Berth::start();
    for method in ["hostbased", "gssapi-with-mic", "none"] {
        let option = format!("PreferredAuthentications={method}");
        let ssh = berth.ssh(["-T", "-o", &option, "-o", "BatchMode=no", "berth", "echo in"]);
        ssh.run().exits(255).says("Permission denied (publickey,password,keyboard-interactive)");
    }
}

#[test]
fn logins_are_logged_with_method_user_address_and_key_and_nothing_secret() {
    let berth = Berth::start();
    let by = |method: &str, password: &str| {
        let option = format!("PreferredAuthentications={method}");
        berth.openssh_with_password("ssh", password, 1).args(["-T", "-o", &option, "berth", "true"]).run();
    };
    by("password", "not this one");
    by("keyboard-interactive", "nor this");
    berth.openssh_with_key("ssh", "ed25519-stranger").args(["-T", "berth", "true"]).run().exits(255);
    by("password", PASSWORD);
    berth.exec("true").run().succeeds();
    berth.has_connections(0);

    let log = berth.log().text();
    let lines = log.lines().filter(|line| line.contains("accepted ") || line.contains("failed "));
    let logged: Vec<_> = lines.map(|line| line.split_once(" port ").unwrap().0.split_once(": ").unwrap().1).collect();
    let expected = ["failed password", "failed keyboard-interactive", "failed publickey", "accepted password"];
    let expected = expected.iter().chain(&["accepted publickey"]);
    let expected: Vec<_> = expected.map(|words| format!(r#"{words} for "alice" from 127.0.0.1"#)).collect();
    assert_eq!(logged, expected, "{log}");
    for (outcome, name) in [("failed", "ed25519-stranger"), ("accepted", "ed25519")] {
        let fingerprint = Client::new("ssh-keygen").arg("-lf").arg(key(name).path).run().succeeds().text();
        let line = berth.log().line(&format!("{outcome} publickey"));
        assert!(line.ends_with(&format!(": {}", fingerprint.split(' ').nth(1).unwrap())), "{line}");
    }
    for secret in ["not this one", "nor this", PASSWORD] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_client_has_a_few_attempts() {
    let berth = Berth::with(|config| config["ssh"]["maxAuthTries"] = 3.into());
    let ssh = berth.openssh_with_password("ssh", "wrong", 9).args(["-o", "PreferredAuthentications=password"]);
    let ran = ssh.args(["-T", "berth", "echo in"]).run();
    let ran = ran.exits(255).says("Too many authentication failures");
    assert_eq!(ran.stderr.matches("Permission denied, please try again").count(), 2, "{ran:?}");
}

#[test]
fn a_client_has_some_time() {
    let berth = Berth::with(|config| config["ssh"]["loginGraceTime"] = "2s".into());
    let began = Instant::now();
    // One that says nothing at all, and one that sits before the prompt.
    let mut silent = TcpStream::connect(("127.0.0.1", berth.port)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let ssh = berth.openssh_with_password("ssh", "", 1).args(["berth"]);
    fs::write(berth.path("askpass"), "#!/bin/sh\nexec sleep 30\n").unwrap();
    let slow = ssh.spawn();
    silent.read_to_end(&mut Vec::new()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2), "after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "after {:?}", began.elapsed());
    berth.log().line("timeout before authentication");
    drop(slow);
    // Whoever is in has all the time in the world.
    berth.exec("sleep 3; echo in").run().succeeds().prints("in\n");
}

#[test]
fn there_is_room_for_so_many_who_have_not_authenticated() {
    let berth = Berth::with(|config| config["ssh"]["maxStartups"] = 3.into());
    let mut waiting: Vec<_> = (0..3).map(|_| RawClient::connect(berth.port)).collect();
    berth.exec("echo in").run().exits(255).prints("");
    berth.log().line("ssh.maxStartups");
    waiting.pop();
    eventually("room", DEADLINE, || berth.exec("true").run().code == Some(0));
    // Those who are in take no room.
    let master = berth.master();
    master.exec("true").run().succeeds();
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_keys_command_runs_in_place_of_the_clients() {
    let berth = with_key_options(r#"command="echo forced; echo $SSH_ORIGINAL_COMMAND""#);
    berth.exec("echo mine").run().succeeds().prints("forced\necho mine\n");
    berth.ssh(["-T", "berth"]).run().succeeds().prints("forced\n\n");
    berth.ssh(["-s", "berth", "sftp"]).run().succeeds().prints("forced\ninternal-sftp\n");
}

#[test]
fn a_key_may_be_for_sftp_alone() {
    let berth = with_key_options(r#"restrict,command="internal-sftp""#);
    fs::write(berth.path("batch"), "pwd\n").unwrap();
    let sftp = berth.openssh("sftp").arg("-b").arg(berth.path("batch")).arg("berth").run();
    assert!(sftp.text().contains("Remote working directory: /root"), "{sftp:?}");
    // The answer to a command is SFTP all the same: nothing comes before the client has begun.
    berth.exec("echo in").run().prints("");
}

#[test]
fn the_configuration_may_force_a_command_on_everybody() {
    let berth = Berth::with(|config| {
        config["security"]["forceCommand"] = "echo $SSH_ORIGINAL_COMMAND; echo forced".into();
        let line = format!(r#"command="echo the key's" {}"#, key("ed25519").public);
        config["auth"]["users"]["alice"]["authorizedKeys"] = [line][..].into();
    });
    berth.exec("echo mine").run().succeeds().prints("echo mine\nforced\n");
    berth.ssh(["-T", "berth"]).run().succeeds().prints("\nforced\n");
    berth.ssh(["-tt", "berth"]).run().succeeds().prints("\r\nforced\r\n");
    berth.ssh(["-s", "berth", "sftp"]).run().succeeds().prints("internal-sftp\nforced\n");
    berth.ssh(["-s", "berth", "no-such"]).run().exits(255).prints("").says("subsystem request failed");
    let sftp = berth.openssh_with_password("ssh", PASSWORD, 1).args(["-T", "berth", "echo mine"]);
    sftp.run().succeeds().prints("echo mine\nforced\n");
}

#[test]
fn the_configuration_may_allow_sftp_alone() {
    let berth = Berth::with(|config| config["security"]["forceCommand"] = "internal-sftp".into());
    fs::write(berth.path("batch"), "pwd\n").unwrap();
    berth.openssh("sftp").arg("-b").arg(berth.path("batch")).arg("berth").run().succeeds();
    berth.exec("echo in").run().prints("");
}

#[test]
fn a_key_may_be_for_some_addresses() {
    for (from, lets_in) in [
        ("127.0.0.1", true),
        ("10.0.0.0/8,127.0.0.0/8", true),
        ("192.0.2.1", false),
        ("*,!127.0.0.1", false),
        ("::1", false),
    ] {
        let berth = with_key_options(&format!("from=\"{from}\""));
        let ran = berth.exec("echo in").run();
        assert_eq!(ran.text() == "in\n", lets_in, "{from}: {ran:?}");
    }
}

#[test]
fn a_key_may_be_refused_a_terminal() {
    for option in ["no-pty", "restrict"] {
        let berth = with_key_options(option);
        berth.ssh(["-tt", "berth", "tty"]).run().exits(255).says("PTY allocation request failed");
        berth.exec("tty").run().exits(1).prints("not a tty\n");
    }
    let berth = with_key_options("restrict,pty");
    berth.ssh(["-tt", "berth", "tty"]).run().succeeds().prints("/dev/pts/0\r\n");
}

#[test]
fn a_key_may_expire() {
    let berth = with_key_options(r#"expiry-time="20200101""#);
    berth.exec("echo in").run().exits(255).says("Permission denied");
    let berth = with_key_options(r#"expiry-time="20990101Z""#);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_file_of_keys_is_read_at_each_login() {
    let berth = Berth::with(|config| {
        config["auth"]["users"] = json!({"alice": {"authorizedKeysFile": "keys"}});
    });
    berth.exec("echo in").run().exits(255).says("Permission denied");
    fs::write(berth.path("keys"), format!("# Alice's\nnonsense\n{}\n", key("ed25519").public)).unwrap();
    berth.exec("echo in").run().succeeds().prints("in\n");
    fs::remove_file(berth.path("keys")).unwrap();
    berth.exec("echo in").run().exits(255).says("Permission denied");
}

/// Writes a script that prints alice's key where `condition` holds, and gives its path.
fn script(directory: &Path, condition: &str) -> PathBuf {
    let path = directory.join("script");
    fs::write(&path, format!("#!/bin/sh\nif {condition}; then echo 'no-pty {}'; fi\n", key("ed25519").public)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_program_may_say_which_keys_let_in() {
    let berth = Berth::with(|config| {
        script(&directory_of(config), r#"echo "$@" >>"${0%script}asked"; [ "$1" = carol ]"#);
        let command = json!(["script", "%u", "%t", "%f", "100%%", "%k"]);
        config["auth"]["users"] = json!({"*": {"authorizedKeysCommand": command}});
    });
    let run = |user: &str| berth.openssh("ssh").args(["-tt", "-o", &format!("User={user}"), "berth", "echo in"]).run();
    // By a line with an option.
    run("carol").exits(255).says("PTY allocation request failed");
    run("dave").exits(255).says("Permission denied");
    for user in ["../carol", "carol/", ".carol"] {
        run(user).exits(255).says("Permission denied");
    }
    let asked = fs::read_to_string(berth.path("asked")).unwrap();
    let public = key("ed25519").public;
    let words: Vec<&str> = public.split(' ').collect();
    let fingerprint = Client::new("ssh-keygen").arg("-lf").arg(key("ed25519").path).run().succeeds().text();
    let rest = format!("{} {} 100% {}", words[0], fingerprint.split(' ').nth(1).unwrap(), words[1]);
    assert_eq!(asked, format!("carol {rest}\ndave {rest}\n"));
}

#[test]
fn a_program_that_others_can_write_to_is_not_run() {
    let berth = Berth::with(|config| {
        let path = script(&directory_of(config), "true");
        fs::set_permissions(path, fs::Permissions::from_mode(0o775)).unwrap();
        config["auth"]["users"] = json!({"alice": {"authorizedKeysCommand": "script"}});
    });
    berth.exec("echo in").run().exits(255).says("Permission denied");
    berth.log().line("chmod go-w");
    fs::set_permissions(berth.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_program_that_says_who_may_in_ends_with_berth_and_runs_as_whom_it_should() {
    let mut berth = Berth::with(|config| {
        let directory = directory_of(config);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        script(&directory, r#"echo $(id -un) $$ >/dev/shm/"$1"; exec sleep 1000"#);
        let instance = config["instance"].clone();
        let user = json!({"authorizedKeysCommand": ["script", instance], "authorizedKeysCommandUser": "nobody"});
        config["auth"]["users"] = json!({ "alice": user });
    });
    let path = Path::new("/dev/shm").join(&berth.instance);
    let _client = berth.exec("true").spawn();
    eventually("the program", DEADLINE, || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (account, id) = text.trim().split_once(' ').unwrap();
    assert_eq!(account, "nobody");
    berth.end(Signal::KILL);
    eventually("the program's end", DEADLINE, || !Path::new("/proc").join(id).exists());
}

#[test]
fn a_host_key_may_stand_in_the_configuration() {
    let berth = Berth::start();
    let pem = fs::read_to_string(berth.path("host_key")).unwrap();
    let public = fs::read_to_string(berth.path("host_key.pub")).unwrap();
    let other = Berth::with(|config| {
        // The harness reads the public half from its file.
        fs::write(directory_of(config).join("host_key.pub"), &public).unwrap();
        config["ssh"]["hostkeys"] = json!([pem]);
    });
    other.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn everybody_with_a_file_in_a_directory_of_keys_is_a_user() {
    let berth = Berth::with(|config| {
        config["auth"]["users"] = json!({"*": {"authorizedKeysFile": "keys/%u"}, "eve": {}});
    });
    fs::create_dir(berth.path("keys")).unwrap();
    for name in ["carol", "eve", ".hidden"] {
        fs::write(berth.path("keys").join(name), key("ed25519").public).unwrap();
    }
    fs::write(berth.path("outside"), key("ed25519").public).unwrap();
    let lets_in = |user: &str| {
        let ssh = berth.openssh("ssh").args(["-T", "-o", &format!("User={user}"), "berth", "echo in"]);
        ssh.run().text() == "in\n"
    };
    assert!(lets_in("carol"));
    // Eve has an entry of her own, which says nothing of a file; the others are no names of files in there.
    for user in ["dave", "eve", ".hidden", "../outside", "./carol", "keys/carol", "%u", "carol/"] {
        assert!(!lets_in(user), "{user}");
    }
}

#[test]
fn a_user_and_a_group_may_have_containers_of_their_own() {
    let berth = Berth::with(|config| {
        let keys = json!([key("ed25519").public]);
        config["auth"]["groups"] = json!({
            "students": {"authorizedKeys": keys, "docker": {"execution": {"container": {"env": ["CLASS=1a"]}}}},
        });
        config["auth"]["users"] = json!({
            "student*": {"groups": ["students"]},
            "alice": {"authorizedKeys": keys},
            "bob": {"groups": ["students"], "docker": {"execution": {"host": {"pidsLimit": 77}}}},
        });
    });
    let run = |user: &str| {
        let ssh = berth.openssh("ssh").args(["-T", "-l", user, "berth"]);
        ssh.arg("echo $USER $CLASS; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null").run().text()
    };
    assert!(run("student7").starts_with("root 1a\n"));
    assert!(run("alice").starts_with("root\n"));
    assert_eq!(run("bob"), "root 1a\n77\n");
}
