//! OpenSSH's user certificates, made by `ssh-keygen -s`, and their revocation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Berth, Client, Ran, key};

/// A server that trusts the key `ed25519-ca` to certify users, with a changed configuration.
fn trusting_and(change: impl FnOnce(&mut Value)) -> Berth {
    let berth = Berth::with(|config| {
        config["ssh"]["trustedUserCAKeys"] = json!("ca.pub");
        change(config);
    });
    fs::write(berth.path("ca.pub"), key("ed25519-ca").public).unwrap();
    berth
}

/// The same, with the users alice and bob, who have no keys.
fn trusting() -> Berth {
    trusting_and(|config| {
        config["auth"]["users"] = json!({"alice": {}, "bob": {"authorizedPrincipals": ["web", "no-pty admins"]}});
    })
}

/// Has an authority certify the public key of the usual client. `options` are `ssh-keygen`'s.
fn certify(berth: &Berth, authority: &str, options: &[&str]) -> PathBuf {
    let public = berth.path("certified.pub");
    fs::write(&public, key("ed25519").public).unwrap();
    let keygen = Client::new("ssh-keygen").arg("-q").arg("-s").arg(key(authority).path);
    keygen.args(["-I", "alice's laptop"]).args(options).arg(&public).run().succeeds();
    berth.path("certified-cert.pub")
}

/// Runs a command with a certificate by this authority.
fn exec_certified(berth: &Berth, authority: &str, user: &str, options: &[&str], command: &str) -> Ran {
    let certificate = format!("CertificateFile={}", certify(berth, authority, options).display());
    let ssh = berth.openssh("ssh").args(["-o", &certificate, "-l", user]);
    ssh.args(["-T", "berth", command]).run()
}

#[track_caller]
fn lets_in(berth: &Berth, user: &str, options: &[&str]) -> bool {
    exec_certified(berth, "ed25519-ca", user, options, "echo in").text() == "in\n"
}

#[test]
fn a_certificate_lets_in_those_whose_it_is() {
    let berth = trusting();
    assert!(lets_in(&berth, "alice", &["-n", "carol,alice"]));
    berth.log().line("ID \"alice's laptop\" (serial 0) CA SHA256:");
    assert!(!lets_in(&berth, "alice", &["-n", "carol"]));
    assert!(!lets_in(&berth, "alice", &[]), "it has no principals");
    assert!(!lets_in(&berth, "alice", &["-h", "-n", "alice"]), "it is a host's");
    assert!(!lets_in(&berth, "carol", &["-n", "carol"]), "there is no such user");
}

#[test]
fn a_users_principals_stand_in_place_of_the_name() {
    let berth = trusting();
    assert!(lets_in(&berth, "bob", &["-n", "web"]));
    assert!(lets_in(&berth, "bob", &["-n", "admins"]));
    assert!(!lets_in(&berth, "bob", &["-n", "bob"]));
}

#[test]
fn lines_that_the_configuration_does_not_hold_set_what_is_permitted() {
    let variables = r#"environment="LC_A=a",environment="LC_B=b""#;
    let berth = trusting_and(|config| {
        let directory = crate::common::directory_of(config);
        let write = |name: &str, text: String| {
            fs::write(directory.join(name), text).unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("program", format!("#!/bin/sh\necho '{variables} {}'\n", key("ed25519").public.trim()));
        write("authorities", format!("cert-authority,{variables} {}\n", key("ed25519-ca").public.trim()));
        write("principals", format!("{variables} web\n"));
        config["auth"]["users"] = json!({
            "program": {"authorizedKeysCommand": "program"},
            "authority": {"authorizedKeysFile": "authorities"},
            "principal": {"authorizedPrincipalsFile": "principals"},
        });
    });
    let certificates = [("authority", "authority"), ("principal", "web")];
    for (permitted, expected) in [("no", "[] []\n"), ("LC_B", "[] [b]\n"), ("yes", "[a] [b]\n")] {
        if permitted != "no" {
            berth.reload(|config| config["ssh"]["permitUserEnvironment"] = permitted.into());
        }
        let command = "echo [$LC_A] [$LC_B]";
        berth.ssh(["-T", "-l", "program", "berth", command]).run().succeeds().prints(expected);
        for (user, principal) in certificates {
            let ran = exec_certified(&berth, "ed25519-ca", user, &["-n", principal], command);
            ran.succeeds().prints(expected);
        }
    }
}

#[test]
fn nobody_else_can_certify() {
    let berth = trusting();
    exec_certified(&berth, "ed25519-stranger", "alice", &["-n", "alice"], "echo in").exits(255).prints("");
    // The bare key is none that lets in.
    berth.exec("echo in").run().exits(255).prints("");
}

#[test]
fn authorities_may_have_keys_of_every_type() {
    let berth = trusting();
    for authority in ["rsa", "ecdsa", "ecdsa-384", "ecdsa-521"] {
        fs::write(berth.path("ca.pub"), key(authority).public).unwrap();
        exec_certified(&berth, authority, "alice", &["-n", "alice"], "echo in").succeeds().prints("in\n");
    }
}

#[test]
fn a_certificate_has_its_time() {
    let berth = trusting();
    for (validity, expected) in [("-1d:+1d", true), ("20200101:20210101", false), ("+1d:+2d", false)] {
        assert_eq!(lets_in(&berth, "alice", &["-n", "alice", "-V", validity]), expected, "{validity}");
    }
}

#[test]
fn critical_options_are_honoured() {
    let berth = trusting();
    let run = |option: &str| {
        let options = ["-n", "alice", "-O", option];
        exec_certified(&berth, "ed25519-ca", "alice", &options, "echo mine").text()
    };
    assert_eq!(run("force-command=echo $SSH_ORIGINAL_COMMAND, forced"), "echo mine, forced\n");
    assert_eq!(run("source-address=127.0.0.0/8"), "mine\n");
    assert_eq!(run("source-address=192.0.2.1"), "");
    assert_eq!(run("critical:no-such-option@example.com=x"), "");
    assert_eq!(run("extension:no-such-extension@example.com=x"), "mine\n");
}

#[test]
fn what_a_certificate_does_not_permit_is_refused() {
    let berth = trusting();
    let options: &[&str] = &["-n", "alice", "-O", "clear"];
    let run = |options: &[&str]| {
        let certificate = format!("CertificateFile={}", certify(&berth, "ed25519-ca", options).display());
        let terminal = berth.ssh(["-tt", "-o", &certificate, "berth", "tty"]).run().text() == "/dev/pts/0\r\n";
        let forwarding = berth.ssh(["-o", &certificate, "-W", "localhost:9", "berth"]).run();
        (terminal, forwarding.stderr.contains("administratively prohibited"))
    };
    assert_eq!(run(options), (false, true));
    assert_eq!(run(&[options, &["-O", "permit-pty", "-O", "permit-port-forwarding"]].concat()), (true, false));
}

#[test]
fn a_line_of_authorized_keys_may_be_an_authoritys() {
    let berth = Berth::with(|config| {
        let line = |options: &str| json!({"authorizedKeys": format!("{options} {}", key("ed25519-ca").public)});
        config["auth"]["users"] = json!({
            "alice": line("cert-authority"),
            "bob": line("cert-authority,principals=\"web,admins\",command=\"echo forced\""),
        });
    });
    assert!(lets_in(&berth, "alice", &["-n", "alice"]));
    assert!(!lets_in(&berth, "alice", &["-n", "web"]));
    let ran = exec_certified(&berth, "ed25519-ca", "bob", &["-n", "admins"], "echo mine");
    ran.succeeds().prints("forced\n");
    assert!(!lets_in(&berth, "bob", &["-n", "bob"]));
    let two = ["-n", "web", "-O", "force-command=echo another"];
    exec_certified(&berth, "ed25519-ca", "bob", &two, "echo mine").exits(255).prints("");
    // The authority's own key lets nobody in.
    berth.openssh_with_key("ssh", "ed25519-ca").args(["-T", "berth", "echo in"]).run().exits(255).prints("");
}

#[test]
fn a_revoked_key_does_not_let_in_nor_any_where_the_list_is_no_good() {
    let berth = Berth::with(|config| config["ssh"]["revokedKeys"] = json!("revoked"));
    let lets_in = || berth.exec("echo in").run().text() == "in\n";
    assert!(!lets_in(), "nobody knows what is in a file that is missing");
    berth.log().line("no key is good until that is mended");
    for (list, expected) in [
        ("# nothing\n".to_owned(), true),
        (key("rsa").public, true),
        (key("ed25519").public, false),
        ("nonsense\n".to_owned(), false),
        ("ssh-new AAAAB3NzaC1uZXc=\n".to_owned(), false),
    ] {
        fs::write(berth.path("revoked"), &list).unwrap();
        assert_eq!(lets_in(), expected, "{list}");
    }
}

#[test]
fn files_in_a_directory_that_others_can_write_to_are_good_where_that_is_permitted() {
    let berth = Berth::with(|config| {
        config["ssh"]["revokedKeys"] = json!("open/revoked");
        config["auth"]["users"] = json!({"alice": {"authorizedKeysFile": "open/%u"}});
    });
    // As Kubernetes makes a volume of a ConfigMap.
    let open = berth.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for (name, text) in [("alice", key("ed25519").public), ("revoked", "# nothing\n".to_owned())] {
        fs::write(open.join(name), text).unwrap();
        fs::set_permissions(open.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    berth.exec("echo in").run().exits(255).prints("");
    berth.log().line("lets others put something else in its place");
    berth.log().line("/open/alice: ");
    berth.reload(|config| config["ssh"]["strictModes"] = "no".into());
    berth.exec("echo in").run().succeeds().prints("in\n");
    fs::set_permissions(open.join("revoked"), fs::Permissions::from_mode(0o666)).unwrap();
    berth.exec("echo in").run().exits(255).prints("");
}

#[test]
fn a_line_with_a_certificate_revokes_its_key() {
    let berth = trusting_and(|config| {
        config["ssh"]["revokedKeys"] = json!("revoked");
        config["auth"]["users"]["carol"] = json!({"authorizedKeys": [key("rsa").public]});
    });
    let certificate = fs::read(certify(&berth, "ed25519-ca", &["-n", "alice"])).unwrap();
    fs::write(berth.path("revoked"), &certificate).unwrap();
    berth.exec("echo in").run().exits(255).prints("");
    berth.log().line("revoked");
    let other = berth.openssh_with_key("ssh", "rsa").args(["-l", "carol", "-T", "berth", "echo in"]).run();
    other.succeeds().prints("in\n");
    fs::write(berth.path("revoked"), &certificate[..certificate.len() / 2]).unwrap();
    let other = berth.openssh_with_key("ssh", "rsa").args(["-l", "carol", "-T", "berth", "echo in"]).run();
    other.exits(255).prints("");
}

#[test]
fn the_null_device_is_a_list_that_revokes_nothing() {
    let berth = Berth::with(|config| config["ssh"]["revokedKeys"] = json!("/dev/null"));
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_krl_revokes_certificates_and_keys() {
    let berth = trusting_and(|config| {
        config["ssh"]["revokedKeys"] = json!("revoked");
        config["auth"]["users"] = json!({"alice": {}});
    });
    let revoke = |specification: String| {
        fs::write(berth.path("specification"), specification).unwrap();
        let keygen =
            Client::new("ssh-keygen").arg("-kqf").arg(berth.path("revoked")).arg("-s").arg(berth.path("ca.pub"));
        keygen.arg(berth.path("specification")).run().succeeds();
    };
    let own = key("ed25519").public;
    let odd: String = (0..40).map(|number| format!("serial: {}\n", 2 * number + 1)).collect();
    for (specification, expected) in [
        ("serial: 6\n".into(), true),
        ("serial: 5\n".into(), false),
        ("serial: 4-9\n".into(), false),
        (odd, false),
        ("id: bob's laptop\n".into(), true),
        ("id: alice's laptop\n".into(), false),
        (format!("key: {own}\n"), false),
        (format!("sha1: {own}\n"), false),
        (format!("sha256: {own}\n"), false),
        (format!("sha256: {}\n", key("ed25519-ca").public), false),
    ] {
        revoke(specification.clone());
        assert_eq!(lets_in(&berth, "alice", &["-n", "alice", "-z", "5"]), expected, "{specification}");
    }
}

/// Has an authority certify the server's host key, and the client know nothing but the authority.
pub(crate) fn certify_host(berth: &Berth, key_file: &str, options: &[&str]) {
    let public = berth.path(&format!("{key_file}.pub"));
    let keygen = Client::new("ssh-keygen").arg("-q").arg("-s").arg(key("ed25519-ca").path).args(["-I", "host"]);
    keygen.args(options).arg(&public).run().succeeds();
    fs::write(berth.path("known_hosts"), format!("@cert-authority * {}", key("ed25519-ca").public)).unwrap();
}

#[test]
fn host_keys_have_certificates_for_those_who_know_the_authority() {
    let files = ["host_key", "host_key_ecdsa", "host_key_rsa"];
    let berth = Berth::with(|config| config["ssh"]["hostkeys"] = json!(files));
    for file in files {
        certify_host(&berth, file, &["-h", "-n", "127.0.0.1"]);
        berth.reload(|config| config["ssh"]["hostCertificates"] = json!([]));
        berth.exec("true").run().exits(255).says("host key is known");
        berth.reload(|config| config["ssh"]["hostCertificates"] = json!(format!("{file}-cert.pub")));
        berth.exec("echo in").run().succeeds().prints("in\n");
        // Later key exchanges have the certificate, too.
        let ran = berth.ssh(["-o", "RekeyLimit=64K", "-T", "berth", "head -c 1000000 /dev/zero"]).run().succeeds();
        assert_eq!(ran.stdout.len(), 1_000_000);
    }
    // Who does not know the authority goes by a key.
    fs::write(berth.path("known_hosts"), format!("* {}", fs::read_to_string(berth.path("host_key.pub")).unwrap()))
        .unwrap();
    let ssh = berth.ssh(["-o", "HostKeyAlgorithms=ssh-ed25519", "-T", "berth", "echo in"]);
    ssh.run().succeeds().prints("in\n");
}

#[test]
fn a_certificate_that_is_not_for_a_host_key_is_named() {
    let berth = Berth::start();
    for options in [&["-n", "alice"][..], &["-h", "-n", "127.0.0.1"]] {
        // Of the user's key, which is no host's.
        let certificate = certify(&berth, "ed25519-ca", options);
        let log = berth.reload(|config| config["ssh"]["hostCertificates"] = json!(certificate));
        assert!(log.contains("certified-cert.pub: not a certificate for hosts"), "{log}");
    }
}
