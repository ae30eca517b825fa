//! Hostile user names, and what becomes of guesses.

use std::fs;

use serde_json::json;
use ssh2::{KeyboardInteractivePrompt, Prompt};

use crate::common::{Answer, Berth, Client, DEADLINE, PASSWORD, WebhookServer, docker, key, libraries};
use crate::libssh2::connect;

/// Names that look like something else to logs, files, shells, templates, JSON and terminals.
const NAMES: [&str; 12] = [
    "alice\nroot",
    "x\r\n2026-01-01T00:00:00.000Z INFO  00000000000000000000000000000000: accepted password for \"root",
    "alice\" from 192.0.2.1 port 1",
    "\x1b[2J\x1b]0;owned\x07",
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "%u%k%s%n",
    "{{.Username}}${HOME}$(id)`id`",
    "-oProxyCommand=id",
    "\",\"success\":true,\"x\":\"",
    "\u{202e}\u{7f}\u{85}é",
];

struct Answers(&'static str);

impl KeyboardInteractivePrompt for Answers {
    fn prompt(&mut self, _user: &str, instructions: &str, prompts: &[Prompt]) -> Vec<String> {
        let prompts: Vec<_> = prompts.iter().map(|prompt| (&*prompt.text, prompt.echo)).collect();
        assert_eq!((instructions, prompts.as_slice()), ("", &[("Password: ", false)][..]));
        vec![self.0.to_owned()]
    }
}

/// What a client is told who tries everything.
fn refused(berth: &Berth, name: &str) -> Vec<String> {
    let session = connect(berth);
    let mut texts = vec![session.auth_methods(name).unwrap().to_owned()];
    texts.extend(session.userauth_password(name, "wrong").err().map(|error| error.to_string()));
    texts.extend(session.userauth_keyboard_interactive(name, &mut Answers("wrong")).err().map(|e| e.to_string()));
    let stranger = key("ed25519-stranger").path;
    texts.extend(session.userauth_pubkey_file(name, None, &stranger, None).err().map(|error| error.to_string()));
    texts.push(session.auth_methods(name).unwrap().to_owned());
    assert!(!session.authenticated());
    texts
}

#[test]
fn no_name_is_answered_otherwise_than_a_users_or_makes_up_a_line_of_the_log() {
    let berth = Berth::with(|config| {
        let users = &mut config["auth"]["users"];
        users["*"] = json!({"authorizedKeysFile": "keys/%u", "authorizedKeysCommand": ["/bin/echo", "%u"]});
        // Whom everything is asked of, and who has everything.
        users["bob"] = json!({
            "password": users["alice"]["password"],
            "totp": {"secretFile": "totp/%u"},
            "authenticationMethods": ["publickey,password", "password,keyboard-interactive:totp"],
        });
    });
    let known = refused(&berth, "alice");
    for name in NAMES.into_iter().chain(["bob", "nobody-of-that-name", ""]) {
        assert_eq!(refused(&berth, name), known, "{name:?}");
    }
    let log = berth.log().text();
    let lines = log.lines().filter(|line| line.contains(": failed password for \""));
    assert_eq!(lines.count(), NAMES.len() + 4, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00"), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.contains(": accepted password for \"root"), "{line:?}");
    }
    assert!(!fs::exists(berth.path("owned")).unwrap());
}

#[test]
fn a_name_with_nul_is_like_any_other_wrong_one() {
    let server = WebhookServer::start(|_, question| Answer::Json(json!({"success": question["username"] == "a\0b"})));
    let berth = Berth::with(|config| {
        config["auth"]["password"] = json!({"method": "webhook", "webhook": {"url": server.url()}});
        let keys = json!({"authorizedKeysFile": "keys/%u", "authorizedKeysCommand": ["/bin/echo", "%u"]});
        config["auth"]["users"]["*"] = keys;
    });
    // The libraries of C's kind cannot say it.
    let script = format!(
        "import paramiko, socket\n\
         key = paramiko.Ed25519Key.from_private_key_file({:?})\n\
         for name in ['alice\\0', '\\0', 'a\\0b']:\n\
        \x20   t = paramiko.Transport(socket.create_connection(('127.0.0.1', {})))\n\
        \x20   t.start_client()\n\
        \x20   for attempt in (lambda: t.auth_publickey(name, key), lambda: t.auth_password(name, {PASSWORD:?})):\n\
        \x20       try: attempt(); print('in')\n\
        \x20       except paramiko.AuthenticationException: print('out')\n\
        \x20   t.close()\n",
        key("ed25519").path,
        berth.port,
    );
    let ran = Client::new(libraries().join("python/bin/python")).args(["-c", &script]).run();
    ran.succeeds().prints("out\nout\nout\nout\nout\nin\n");
}

#[test]
fn a_name_that_differs_from_a_users_by_case_alone_is_turned_away() {
    let server = WebhookServer::start(|_, _| Answer::Json(json!({"success": true})));
    let berth = Berth::with(|config| {
        config["auth"]["password"] = json!({"method": "webhook", "webhook": {"url": server.url()}});
    });
    let lets_in = |user| {
        let ssh = berth.openssh_with_password("ssh", "by the webhook", 1).args(["-l", user, "-T", "berth", "echo in"]);
        ssh.run().text() == "in\n"
    };
    assert!(lets_in("alice") && lets_in("carol"));
    assert!(!lets_in("Alice"));
    berth.log().line(r#""Alice" turned away: auth.users has "alice""#);
}

#[test]
fn a_name_that_a_webhook_lets_in_stays_a_name() {
    let server = WebhookServer::start(|_, _| Answer::Json(json!({"success": true})));
    let berth = Berth::with(|config| {
        config["auth"] = json!({"password": {"method": "webhook", "webhook": {"url": server.url()}}});
    });
    for name in NAMES {
        let session = connect(&berth);
        session.userauth_password(name, PASSWORD).unwrap();
        let question = server.questions().last().unwrap().1.clone();
        assert_eq!((question["username"].as_str(), question.as_object().unwrap().len()), (Some(name), 5));
        let mut channel = session.channel_session().unwrap();
        channel.exec("read line").unwrap();
        berth.has_containers(1, DEADLINE);
        let labels = docker(&["inspect", "-f", "{{json .Config.Labels}}", &berth.containers()[0]]);
        let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
        assert!(labels["berth.user"] == name, "{name:?}: {labels}");
        assert!(labels["containerssh_username"] == name, "{name:?}: {labels}");
        let known = ["berth.instance", "berth.server", "berth.connection", "berth.user", "berth.client"];
        let is_known = |key: &String| known.contains(&key.as_str()) || key.starts_with("containerssh_");
        assert!(labels.as_object().unwrap().keys().all(is_known), "{labels}");
        drop((channel, session));
        berth.has_containers(0, DEADLINE);
    }
    let log = berth.log().text();
    assert!(!log.contains(PASSWORD) && !log.contains("Y29ycmVjdCB"), "{log}");
}

#[test]
fn no_secret_of_the_configuration_is_in_the_log_whatever_goes_wrong() {
    let berth = Berth::with(|config| {
        config["log"]["level"] = "debug".into();
        config["auth"]["users"]["alice"]["totp"] = json!({"secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"});
        config["auth"]["users"]["bob"] = json!({"totp": {"secretFile": "bad"}, "authorizedKeysFile": "bad"});
    });
    fs::write(berth.path("bad"), "ssh-ed25519 s3cret-key\n").unwrap();
    refused(&berth, "alice");
    refused(&berth, "bob");
    let text = berth.log().text();
    for secret in ["GEZDGNBV", "s3cret", "$6$", "wrong"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let check =
        Client::new(env!("CARGO_BIN_EXE_berth")).args(["check", "--config"]).arg(berth.path("config.yaml")).run();
    assert!(!check.succeeds().text().contains("GEZDGNBV"));
}

#[test]
fn a_colon_is_part_of_a_name() {
    // sshd would cut it off, and take what is behind it for a style of BSD's authentication.
    let berth = Berth::with(|config| config["auth"]["users"]["tenant:bob"] = config["auth"]["users"]["alice"].clone());
    berth.ssh(["-T", "tenant:bob@berth", "echo in"]).run().succeeds().prints("in\n");
    berth.ssh(["-T", "alice:style@berth", "echo in"]).run().exits(255).prints("");
    berth.log().line(r#"failed publickey for "alice:style""#);
}
