//! Logins by a browser, with a real provider of OpenID Connect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
