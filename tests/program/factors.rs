//! More than one proof: AuthenticationMethods, and one-time codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Berth, Client, PASSWORD, Ran, key};

/// RFC 6238's.
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// A server whose alice has these further settings.
fn with(settings: Value) -> Berth {
    Berth::with(|config| {
        let alice = config["auth"]["users"]["alice"].as_object_mut().unwrap();
        alice.extend(settings.as_object().unwrap().clone());
    })
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// What the user's device shows now, or will show some seconds from now.
fn code(options: &[&str], later: i64) -> String {
    let time = format!("@{}", now() + later);
    Client::new("oathtool").args(options).args(["-b", "-N", &time, SECRET]).run().succeeds().text().trim().to_owned()
}

/// Runs `echo in` as alice, who has these keys, and answers prompts with the password and the code.
fn log_in(berth: &Berth, keys: &[&str], methods: &str, password: &str, code: &str) -> Ran {
    let mut ssh = berth.openssh_with_password("ssh", password, 1).env("CODE", code);
    let askpass = berth.path("askpass");
    fs::write(&askpass, "#!/bin/sh\ncase $1 in *code:*) echo \"$CODE\" ;; *) echo \"$PASSWORD\" ;; esac\n").unwrap();
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
    for name in keys {
        ssh = ssh.arg("-i").arg(key(name).path);
    }
    let methods = format!("PreferredAuthentications={methods}");
    ssh.args(["-v", "-T", "-o", &methods, "berth", "echo in"]).run()
}

fn is_in(ran: &Ran) -> bool {
    ran.stdout == b"in\n"
}

#[test]
fn all_methods_of_a_list_are_needed() {
    let general = Berth::with(|config| {
        config["ssh"]["authenticationMethods"] = "publickey,password publickey,keyboard-interactive".into();
    });
    let own = with(json!({"authenticationMethods": ["publickey,password", "publickey,keyboard-interactive"]}));
    for berth in [general, own] {
        for second in ["password", "keyboard-interactive"] {
            let ran = log_in(&berth, &["ed25519"], &format!("publickey,{second}"), PASSWORD, "");
            assert!(is_in(&ran), "{ran:?}");
            let ran = ran.says(r#"using "publickey" with partial success"#);
            ran.says("Authentications that can continue: password,keyboard-interactive");
            for (keys, password) in [(&["ed25519"][..], "wrong"), (&["ed25519-stranger"], PASSWORD), (&[], PASSWORD)] {
                let ran = log_in(&berth, keys, &format!("publickey,{second}"), password, "");
                assert!(!is_in(&ran), "{ran:?}");
            }
        }
        let ran = log_in(&berth, &["ed25519"], "publickey", PASSWORD, "");
        assert!(!is_in(&ran), "{ran:?}");
        let line = berth.log().line("partial publickey");
        assert!(line.contains(r#"for "alice" from 127.0.0.1 port "#) && line.contains("SHA256:"), "{line}");
    }
}

#[test]
fn two_keys_must_differ() {
    let keys = json!([key("ed25519").public, format!("no-pty {}", key("rsa").public)]);
    let berth = with(json!({"authenticationMethods": "publickey,publickey", "authorizedKeys": keys}));
    for (keys, lets_in) in [(&["ed25519", "rsa"][..], true), (&["rsa", "ed25519"], true), (&["ed25519"], false)] {
        let ran = log_in(&berth, keys, "publickey", "", "");
        assert_eq!(is_in(&ran), lets_in, "{keys:?}: {ran:?}");
    }
    // What either forbids is forbidden.
    let ssh = berth.openssh_with_key("ssh", "ed25519").arg("-i").arg(key("rsa").path);
    ssh.args(["-tt", "berth", "true"]).run().exits(255).says("PTY allocation request failed");
}

#[test]
fn a_group_may_have_methods_of_its_own() {
    let berth = Berth::with(|config| {
        config["ssh"]["authenticationMethods"] = "publickey,password".into();
        config["auth"]["groups"] = json!({"robots": {"authenticationMethods": "publickey"}});
        let keys = json!([key("ed25519").public]);
        config["auth"]["users"]["bob"] = json!({"groups": "robots", "authorizedKeys": keys});
        config["auth"]["users"]["carol"] = json!({"authenticationMethods": "any", "authorizedKeys": keys});
    });
    for (user, lets_in) in [("alice", false), ("bob", true), ("carol", true)] {
        let ran =
            berth.ssh(["-T", "-l", user, "-i", &key("ed25519").path.display().to_string(), "berth", "echo in"]).run();
        assert_eq!(is_in(&ran), lets_in, "{user}: {ran:?}");
    }
}

#[test]
fn before_the_first_proof_nobody_learns_who_needs_which() {
    let berth = Berth::with(|config| {
        let mut alice = config["auth"]["users"]["alice"].clone();
        config["auth"]["users"]["bob"] = alice.clone();
        alice["authenticationMethods"] = "publickey,password".into();
        alice["totp"] = json!({"secret": SECRET});
        config["auth"]["users"]["alice"] = alice;
    });
    let refused = |user: &str| {
        let mut texts = Vec::new();
        for method in ["publickey", "password", "keyboard-interactive"] {
            let option = format!("PreferredAuthentications={method}");
            let ssh = berth.openssh_with_password("ssh", "wrong", 1).arg("-i").arg(key("ed25519-stranger").path);
            let ran = ssh.args(["-T", "-o", &option, "-l", user, "berth", "true"]).run().exits(255);
            texts.push(ran.stderr.replace(user, "?"));
        }
        texts
    };
    assert_eq!(refused("alice"), refused("bob"));
    assert_eq!(refused("alice"), refused("nobody-of-that-name"));
    // The right password at the wrong time is like a wrong one.
    let ran = log_in(&berth, &[], "keyboard-interactive,password", PASSWORD, &code(&["--totp"], 0));
    assert!(!is_in(&ran) && !ran.stderr.contains("partial"), "{ran:?}");
}

#[test]
fn a_user_with_a_secret_needs_a_code_whatever_comes_before() {
    let berth = with(json!({"totp": {"secret": SECRET, "skew": 4}}));
    let ways = [("publickey,keyboard-interactive", &["ed25519"][..], -30), ("keyboard-interactive", &[], 0)];
    for (methods, keys, later) in ways {
        for (password, code, lets_in) in [
            (PASSWORD, "000000".to_owned(), false),
            (PASSWORD, String::new(), false),
            (PASSWORD, code(&["--totp"], later), true),
        ] {
            let ran = log_in(&berth, keys, methods, password, &code);
            assert_eq!(is_in(&ran), lets_in, "{methods} {code}: {ran:?}");
        }
    }
    // After the password by its own method, the code alone is asked for.
    let ran = log_in(&berth, &[], "password,keyboard-interactive", PASSWORD, &code(&["--totp"], 30));
    assert!(is_in(&ran), "{ran:?}");
    for (keys, methods) in [(&["ed25519"][..], "publickey"), (&[], "password")] {
        assert!(!is_in(&log_in(&berth, keys, methods, PASSWORD, "")));
    }
}

#[test]
fn a_code_is_good_once() {
    let berth = with(json!({"totp": {"secret": SECRET}}));
    let code = code(&["--totp"], 0);
    assert!(is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, &code)));
    assert!(!is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, &code)));
    assert!(!berth.log().text().contains(&code) && !berth.log().text().contains(SECRET));
}

#[test]
fn guesses_of_codes_have_a_limit() {
    let berth = with(json!({"totp": {"secret": SECRET, "period": "5m"}}));
    let period = now() / 300;
    for _ in 0..5 {
        assert!(!is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, "000000")));
    }
    let code = code(&["--totp", "-s", "300"], 0);
    let ran = log_in(&berth, &[], "keyboard-interactive", PASSWORD, &code);
    // Else the count has begun again.
    if now() / 300 == period {
        assert!(!is_in(&ran), "{ran:?}");
        berth.log().line("too many codes");
    }
}

#[test]
fn codes_of_every_kind_are_understood() {
    let berth = with(json!({
        "totp": {"secretFile": "totp-%u", "algorithm": "SHA512", "digits": 8, "period": "60s", "skew": 3},
        "authenticationMethods": "publickey,keyboard-interactive:totp",
    }));
    let code = code(&["--totp=SHA512", "-d", "8", "-s", "60"], -60);
    assert!(!is_in(&log_in(&berth, &["ed25519"], "publickey,keyboard-interactive", "", &code)));
    fs::write(berth.path("totp-alice"), format!("{SECRET}\nsomething else\n")).unwrap();
    let ran = log_in(&berth, &["ed25519"], "publickey,keyboard-interactive", "", &code);
    assert!(is_in(&ran), "{ran:?}");
}

#[test]
fn secrets_are_made() {
    let made = Client::new(env!("CARGO_BIN_EXE_berth")).args(["keygen", "-t", "totp", "-C", "alice@example.org"]);
    let made = made.run().succeeds().text();
    let (secret, uri) = made.trim_end().split_once('\n').unwrap();
    Client::new("oathtool").args(["--totp", "-b", secret]).run().succeeds();
    let expected = format!("otpauth://totp/berth:alice%40example.org?secret={secret}&issuer=berth");
    assert!(uri.starts_with(&expected) && secret.len() == 32, "{made}");
}

#[test]
fn a_code_that_was_used_is_used_after_a_restart_too() {
    // A period and a skew that outlast the test.
    let totp = json!({"secret": SECRET, "period": "300s", "skew": 10});
    let mut berth = with(json!({"totp": totp}));
    let shown = code(&["--totp", "-s", "300s"], 0);
    assert!(is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, &shown)));
    berth.end(Signal::TERM).succeeds();
    berth.restart();
    assert!(!is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, &shown)));
    let next = code(&["--totp", "-s", "300s"], 300);
    assert!(is_in(&log_in(&berth, &[], "keyboard-interactive", PASSWORD, &next)));
}
