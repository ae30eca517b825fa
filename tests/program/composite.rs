//! Keys of ML-DSA and Ed25519 together, which OpenSSH has since 10.6: of users and authorities, with its own tools.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::common::{Berth, Client, key, newest_openssh};

const USER: &str = "mldsa44-ed25519";
const AUTHORITY: &str = "mldsa44-ed25519-ca";

/// Whether the newest `ssh` gets in with such a key and these options.
fn lets_in(berth: &Berth, options: &[&str]) -> bool {
    let ssh = berth.openssh_with_key(&newest_openssh("ssh"), USER).args(options);
    ssh.args(["-T", "berth", "echo in"]).run().text() == "in\n"
}

fn keygen() -> Client {
    Client::new(newest_openssh("ssh-keygen")).arg("-q")
}

/// A certificate with the serial number 5 by this authority, for such a key of alice's.
fn certify(berth: &Berth, authority: &str) -> PathBuf {
    let public = berth.path("certified.pub");
    fs::write(&public, key(USER).public).unwrap();
    let options = ["-I", "alice's laptop", "-n", "alice", "-z", "5"];
    keygen().arg("-s").arg(key(authority).path).args(options).arg(&public).run().succeeds();
    berth.path("certified-cert.pub")
}

#[test]
fn a_composite_key_lets_in_until_it_is_revoked() {
    let berth = Berth::with(|config| {
        config["ssh"]["revokedKeys"] = json!("revoked");
        config["auth"]["users"] = json!({"alice": {"authorizedKeys": [key(USER).public]}});
    });
    for (revoked, expected) in [(AUTHORITY, true), (USER, false)] {
        fs::write(berth.path("revoked"), key(revoked).public).unwrap();
        assert_eq!(lets_in(&berth, &[]), expected, "{revoked} is revoked");
    }
    for kind in ["key", "sha1", "sha256"] {
        for (revoked, expected) in [(AUTHORITY, true), (USER, false)] {
            fs::write(berth.path("specification"), format!("{kind}: {}\n", key(revoked).public)).unwrap();
            keygen().arg("-kf").arg(berth.path("revoked")).arg(berth.path("specification")).run().succeeds();
            assert_eq!(lets_in(&berth, &[]), expected, "{revoked} is revoked by {kind}");
        }
    }
    // Another one of the type lets nobody in.
    berth.reload(|config| {
        config["ssh"]["revokedKeys"] = json!([]);
        config["auth"]["users"] = json!({"alice": {"authorizedKeys": [key(AUTHORITY).public]}});
    });
    assert!(!lets_in(&berth, &[]));
}

#[test]
fn a_composite_certificate_lets_in_until_it_is_revoked() {
    let berth = Berth::with(|config| {
        config["ssh"]["trustedUserCAKeys"] = json!("ca.pub");
        config["ssh"]["revokedKeys"] = json!("revoked");
        config["auth"]["users"] = json!({"alice": {}});
    });
    fs::write(berth.path("revoked"), "").unwrap();
    for authority in [AUTHORITY, "ed25519-ca"] {
        fs::write(berth.path("ca.pub"), key(authority).public).unwrap();
        let certificate = format!("CertificateFile={}", certify(&berth, authority).display());
        assert!(lets_in(&berth, &["-o", &certificate]), "{authority}");
    }
    fs::write(berth.path("ca.pub"), key(AUTHORITY).public).unwrap();
    let certificate = format!("CertificateFile={}", certify(&berth, "ed25519-ca").display());
    assert!(!lets_in(&berth, &["-o", &certificate]), "by an authority that is not trusted");
    let file = certify(&berth, AUTHORITY);
    let certificate = format!("CertificateFile={}", file.display());
    for (specification, expected) in [
        ("serial: 6\n".to_owned(), true),
        ("serial: 5\n".to_owned(), false),
        ("id: alice's laptop\n".to_owned(), false),
        (format!("key: {}\n", key(USER).public), false),
        (format!("sha256: {}\n", key(AUTHORITY).public), false),
    ] {
        fs::write(berth.path("specification"), &specification).unwrap();
        let krl = keygen().arg("-kf").arg(berth.path("revoked")).arg("-s").arg(berth.path("ca.pub"));
        krl.arg(berth.path("specification")).run().succeeds();
        assert_eq!(lets_in(&berth, &["-o", &certificate]), expected, "{specification}");
    }
    // A list with the certificate revokes the key in it.
    for (text, expected) in [(String::new(), true), (fs::read_to_string(file).unwrap(), false)] {
        fs::write(berth.path("revoked"), text).unwrap();
        assert_eq!(lets_in(&berth, &["-o", &certificate]), expected);
    }
}

#[test]
fn a_composite_host_key_is_told_for_what_it_is_not() {
    let berth = Berth::start();
    let log = berth.reload(|config| config["ssh"]["hostkeys"] = json!(key(USER).path));
    assert!(log.contains("mldsa44-ed25519: not an Ed25519, ECDSA or RSA key"), "{log}");
}
