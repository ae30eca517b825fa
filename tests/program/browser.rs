//! Logins by a browser, with a real provider of OpenID Connect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::common::{
    Answer, Berth, Client, LONG, Ran, Relay, Running, WebhookServer, directory_of, free_port, libraries,
};

const SECRET: &str = "s3cret/+&";

/// A provider with TLS, which wants certificates. Ended when dropped.
struct Provider {
    url: String,
    _process: Running,
    _relay: Relay,
}

impl Provider {
    fn start(directory: &Path, redirect: &str) -> Self {
        let port = free_port();
        let relay = Relay::tls(directory, &format!("TCP:127.0.0.1:{port}"));
        let url = format!("https://127.0.0.1:{}", relay.port);
        let program = libraries().join("oidc/provider.mjs");
        let process = Client::new("node").arg(program).args([&port.to_string(), &url, redirect]);
        let process = process.env("HOME", directory).within(LONG).spawn();
        process.stderr.line("listening");
        Provider { url, _process: process, _relay: relay }
    }
}

/// A server whose users log in by a browser, and nobody else; the provider's section has this, too.
fn with_provider(section: Value, change: impl FnOnce(&mut Value)) -> (Provider, Berth) {
    let mut provider = None;
    let berth = Berth::with(|config| {
        let listen = format!("127.0.0.1:{}", free_port());
        let redirect = format!("http://{listen}/back");
        let started = Provider::start(&directory_of(config), &redirect);
        let mut oidc = json!({
            "url": started.url, "cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem", "timeout": "10s",
            "redirectURI": redirect,
        });
        oidc.as_object_mut().unwrap().extend(section.as_object().unwrap().clone());
        config["auth"] = json!({"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "clientId": "berth", "clientSecret": SECRET, "provider": "oidc", "oidc": oidc, "redirect": {"listen": listen},
        }}});
        change(config);
        provider = Some(started);
    });
    (provider.unwrap(), berth)
}

/// Begins to log in, and gives where the user is to go. What is asked for is read from the file `code`.
fn begin(berth: &Berth) -> (Running, String) {
    let _ = fs::remove_file(berth.path("code"));
    Client::new("mkfifo").arg(berth.path("code")).run().succeeds();
    let ssh = berth.openssh_with_password("ssh", "", 1).within(LONG);
    let script = format!("#!/bin/sh\nexec cat '{}'\n", berth.path("code").display());
    fs::write(berth.path("askpass"), script).unwrap();
    fs::set_permissions(berth.path("askpass"), fs::Permissions::from_mode(0o700)).unwrap();
    let running = ssh.args(["-T", "-o", "PreferredAuthentications=keyboard-interactive", "berth", "echo in"]).spawn();
    let line = running.stderr.line("Log in with a browser at ");
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    (running, url)
}

/// Has a browser's user of this name go to a page, and gives the last one that is shown.
fn browse(berth: &Berth, url: &str, name: &str) -> Ran {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oidc/browser.py");
    Client::new("python3").arg(program).args([url, name]).arg(berth.path("")).run()
}

/// Logs in by the code that this user's browser shows.
fn by_code(berth: &Berth, name: &str) -> Ran {
    let (running, url) = begin(berth);
    let page = browse(berth, &url, name).succeeds().text();
    let code = page.lines().find(|line| line.contains('|')).unwrap_or_else(|| panic!("no code in {page}"));
    fs::write(berth.path("code"), format!("{code}\n")).unwrap();
    running.wait()
}

#[test]
fn a_device_code_lets_in_whom_the_provider_knows() {
    let (_provider, berth) = with_provider(json!({"deviceFlow": true}), |_| ());
    let (running, url) = begin(&berth);
    browse(&berth, &url, "alice").succeeds();
    running.wait().succeeds().prints("in\n").says("Check that this code is shown there: ");
    berth.log().line("accepted keyboard-interactive");
    assert!(!berth.log().text().contains("s3cret"));
}

#[test]
fn a_browser_may_show_what_lets_in() {
    let (_provider, berth) = with_provider(json!({"authorizationCodeFlow": true}), |_| ());
    by_code(&berth, "alice").succeeds().prints("in\n");
    assert!(!berth.log().text().contains("s3cret"));
}

#[test]
fn another_user_of_the_providers_is_not_let_in() {
    let (_provider, berth) = with_provider(json!({"authorizationCodeFlow": true}), |_| ());
    by_code(&berth, "bob").exits(255).prints("");
    berth.log().line(r#"by the provider the user is "bob""#);
}

#[test]
fn whoever_has_an_id_token_that_the_provider_has_not_signed_is_not_let_in() {
    let (_provider, berth) = with_provider(json!({"authorizationCodeFlow": true, "enforceUsername": false}), |_| ());
    let by_none = "the ID token is signed by none of the provider's keys";
    for (name, reason) in [
        ("another-key", by_none),
        ("no-algorithm", r#"the ID token is signed by "none", which is not taken"#),
        ("a-changed-bit", by_none),
    ] {
        let start = berth.log().text().len();
        by_code(&berth, name).exits(255).prints("");
        assert!(berth.log().find(start, reason).is_some(), "{name}: {}", berth.log().text());
    }
    by_code(&berth, "anybody-else").succeeds().prints("in\n");
}

#[test]
fn what_the_browser_shows_is_good_for_its_own_login_alone() {
    let (_provider, berth) = with_provider(json!({"authorizationCodeFlow": true}), |_| ());
    let (running, url) = begin(&berth);
    let page = browse(&berth, &url, "alice").succeeds().text();
    let code = page.lines().find_map(|line| line.split_once('|')).unwrap().1.to_owned();
    fs::write(berth.path("code"), format!("{}|{code}\n", "x".repeat(43))).unwrap();
    running.wait().exits(255).prints("");
    berth.log().line("what the user gave is of another login");
}

#[test]
fn webhooks_learn_what_the_provider_says() {
    let server = WebhookServer::start(|_, question| {
        Answer::Json(json!({"success": question["authenticatedUsername"] == "bob@example.org"}))
    });
    let section = json!({"authorizationCodeFlow": true, "usernameField": "email", "extraScopes": ["email"]});
    let (_provider, berth) = with_provider(section, |config| {
        config["auth"]["authz"] = json!({"method": "webhook", "webhook": {"url": server.url()}});
    });
    by_code(&berth, "bob").succeeds().prints("in\n");
    let question = &server.questions_at("/authz")[0];
    assert_eq!(question["username"], "alice");
    assert_eq!(question["metadata"]["OIDC_USERINFO_SUB"]["value"], "bob");
    // Sensitive.
    assert!(question["metadata"]["OIDC_TOKEN"].is_null());
}

#[test]
fn an_address_that_the_provider_has_not_verified_is_nobodys_name() {
    let section = json!({
        "authorizationCodeFlow": true, "usernameField": "email", "extraScopes": ["email"], "enforceUsername": false,
    });
    let (_provider, berth) = with_provider(section, |_| ());
    by_code(&berth, "mallory").exits(255).prints("");
    berth.log().line("the provider has not verified the user's email");
}

#[test]
fn a_provider_that_is_none_lets_nobody_in() {
    let answers: [fn() -> Answer; 4] = [
        || Answer::Status(500, ""),
        || Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html".to_vec()),
        || Answer::Json(json!({"issuer": "https://elsewhere.example", "token_endpoint": "https://elsewhere.example"})),
        || Answer::Endless,
    ];
    for answer in answers {
        let server = WebhookServer::start(move |_, _| answer());
        let berth = Berth::with(|config| {
            config["auth"]["keyboardInteractive"] = json!({"method": "oauth2", "oauth2": {
                "clientId": "berth", "clientSecret": SECRET, "provider": "oidc",
                "oidc": {"url": server.url(), "deviceFlow": true, "timeout": "5s"},
            }});
        });
        let ssh = berth.openssh_with_password("ssh", "x", 1);
        let ssh = ssh.args(["-T", "-o", "PreferredAuthentications=keyboard-interactive", "berth", "echo in"]);
        ssh.run().exits(255).prints("");
        berth.log().line("no login by a browser");
        // What else lets in still does.
        berth.exec("echo in").run().succeeds().prints("in\n");
    }
}

/// A server whose users say at GitHub who they are, which is this one.
fn with_github(github: &WebhookServer, section: Value) -> Berth {
    Berth::with(|config| {
        let mut keys = json!({"url": github.url(), "apiurl": github.url(), "timeout": "10s"});
        keys.as_object_mut().unwrap().extend(section.as_object().unwrap().clone());
        config["auth"] = json!({"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "clientId": "berth", "clientSecret": SECRET, "provider": "github", "github": keys,
            "redirect": {"listen": format!("127.0.0.1:{}", free_port())},
        }}});
    })
}

#[test]
fn github_gives_a_device_code_unless_that_is_switched_off() {
    let github = WebhookServer::start(|path, _| {
        Answer::Json(match path {
            "/login/device/code" => json!({
                "device_code": "d", "user_code": "WDJB-MJHT", "verification_uri": "https://example.org/device",
                "interval": 1,
            }),
            "/login/oauth/access_token" => json!({"access_token": "token"}),
            _ => json!({"login": "alice"}),
        })
    });
    let forms = |path: &str| github.questions_at(path);
    let berth = with_github(&github, json!({"deviceFlow": false}));
    let (running, url) = begin(&berth);
    assert!(url.starts_with(&format!("{}/login/oauth/authorize?", github.url())), "{url}");
    let state = url.split(['?', '&']).find_map(|field| field.strip_prefix("state=")).unwrap();
    fs::write(berth.path("code"), format!("{state}|c0de\n")).unwrap();
    running.wait().succeeds().prints("in\n");
    assert_eq!(forms("/login/device/code"), [] as [Value; 0]);
    assert!(forms("/login/oauth/access_token")[0].as_str().unwrap().contains("code=c0de"));
    // It is on where nothing is said.
    let berth = with_github(&github, json!({}));
    let (running, url) = begin(&berth);
    assert_eq!(url, "https://example.org/device");
    running.wait().succeeds().prints("in\n").says("Check that this code is shown there: WDJB-MJHT");
    assert_eq!(forms("/login/device/code").len(), 1);
}

#[test]
fn what_a_provider_says_of_itself_is_kept_and_errors_are_not() {
    let url: Arc<OnceLock<String>> = Arc::default();
    let issuer = Arc::clone(&url);
    let is_well = Arc::new(OnceLock::new());
    let well = Arc::clone(&is_well);
    let server = WebhookServer::start(move |_, _| {
        let Some(()) = well.get() else { return Answer::Status(500, "") };
        let at = |path: &str| format!("{}/{path}", issuer.get().unwrap());
        Answer::Json(json!({
            "issuer": issuer.get(), "authorization_endpoint": at("authorize"), "token_endpoint": at("token"),
            "userinfo_endpoint": at("user"), "jwks_uri": at("keys"),
        }))
    });
    url.set(server.url()).unwrap();
    let redirect = free_port();
    let berth = Berth::with(|config| {
        config["auth"] = json!({"keyboardInteractive": {"method": "oauth2", "oauth2": {
            "clientId": "berth", "clientSecret": SECRET, "provider": "oidc",
            "redirect": {"listen": format!("127.0.0.1:{redirect}")},
            "oidc": {"url": server.url(), "authorizationCodeFlow": true, "timeout": "10s",
                     "redirectURI": format!("http://127.0.0.1:{redirect}/back")},
        }}});
    });
    let log_in = || {
        let ssh = berth.openssh_with_password("ssh", "no code", 1);
        ssh.args(["-T", "-o", "PreferredAuthentications=keyboard-interactive", "berth", "true"]).run().exits(255)
    };
    let asked = || server.questions_at("/.well-known/openid-configuration").len();
    for count in 1..=2 {
        assert!(!log_in().stderr.contains("Log in with a browser"));
        assert_eq!(asked(), count);
    }
    is_well.set(()).unwrap();
    for _ in 0..3 {
        log_in().says("Log in with a browser at ");
        assert_eq!(asked(), 3);
    }
}
