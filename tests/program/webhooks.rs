//! Webhooks: who is let in by them, what is asked, and what becomes of servers that do not behave.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::common::{Answer, Berth, PASSWORD, Relay, WebhookServer, directory_of, docker, key, unique};

/// A berth without users, that asks this server about passwords and keys.
fn with_webhook(server: &WebhookServer, change: impl FnOnce(&mut Value)) -> Berth {
    let webhook = json!({"method": "webhook", "webhook": {"url": server.url()}});
    Berth::with(|config| {
        config["auth"] = json!({"password": webhook, "publicKey": webhook});
        change(config);
    })
}

fn success(yes: bool) -> Answer {
    Answer::Json(json!({"success": yes}))
}

/// Whether a password of alice's lets in, and how long that takes to be known.
fn login(berth: &Berth, password: &str) -> (bool, Duration) {
    let begin = Instant::now();
    let ssh = berth.openssh_with_password("ssh", password, 1).args(["-o", "PreferredAuthentications=password"]);
    let ran = ssh.args(["-T", "berth", "echo in"]).run();
    (ran.stdout == b"in\n", begin.elapsed())
}

#[test]
fn a_webhook_says_which_password_lets_in() {
    let server = WebhookServer::start(|path, question| {
        assert_eq!(path, "/password");
        success(question["username"] == "alice" && question["passwordBase64"] == "Y29ycmVjdCBob3JzZQ==")
    });
    let berth = with_webhook(&server, |_| ());
    assert!(login(&berth, PASSWORD).0);
    assert!(!login(&berth, "wrong").0);
    let question = &server.questions_at("/password")[0];
    assert!(question["remoteAddress"].as_str().unwrap().starts_with("127.0.0.1:"), "{question}");
    assert!(question["clientVersion"].as_str().unwrap().starts_with("SSH-2.0-OpenSSH"), "{question}");
    assert_eq!(question["connectionId"].as_str().unwrap().len(), 32);
    assert!(!berth.log().text().contains(PASSWORD) && !berth.log().text().contains("Y29ycmVjdCB"));
}

#[test]
fn a_webhook_says_which_key_lets_in_and_is_asked_once() {
    let known = key("ed25519").public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let server = WebhookServer::start(move |path, question| {
        assert_eq!(path, "/pubkey");
        success(question["publicKey"] == known.as_str())
    });
    let berth = with_webhook(&server, |_| ());
    berth.exec("echo in").run().succeeds().prints("in\n");
    berth.openssh_with_key("ssh", "ed25519-stranger").args(["-T", "berth", "echo in"]).run().exits(255);
    assert_eq!(server.questions().len(), 2);
}

#[test]
fn users_of_the_configuration_need_no_webhook() {
    let server = WebhookServer::start(|_, question| success(question["username"] == "bob"));
    let berth = with_webhook(&server, |config| {
        config["auth"]["users"] = json!({"alice": {"authorizedKeys": [key("ed25519").public]}});
    });
    berth.exec("echo in").run().succeeds().prints("in\n");
    assert_eq!(server.questions().len(), 0);
    berth.ssh(["-T", "-l", "bob", "-i", &key("rsa").path.display().to_string(), "berth", "echo in"]).run().succeeds();
}

#[test]
fn the_last_word_is_the_authorization_webhooks() {
    let server = WebhookServer::start(|path, question| match path {
        "/hooks/pubkey" => Answer::Json(json!({
            "success": true,
            "authenticatedUsername": "alice@example",
            "metadata": {"team": {"value": "blue"}, "token": {"value": "s3cret", "sensitive": true}},
        })),
        _ => success(question["metadata"]["team"]["value"] == "blue" && question["username"] == "alice"),
    });
    let berth = with_webhook(&server, |config| {
        let url = format!("{}/hooks/", server.url());
        config["auth"]["publicKey"]["webhook"]["url"] = url.clone().into();
        config["auth"]["authz"] = json!({"method": "webhook", "webhook": {"url": url}});
    });
    berth.exec("echo in").run().succeeds().prints("in\n");
    let key = key("ed25519").path.display().to_string();
    berth.ssh(["-T", "-l", "bob", "-i", &key, "berth", "echo in"]).run().exits(255).prints("");
    let questions = server.questions_at("/hooks/authz");
    assert_eq!(questions.len(), 2);
    assert_eq!(questions[0]["authenticatedUsername"], "alice@example");
    // What is sensitive is not passed on.
    assert_eq!(questions[0]["metadata"], json!({"team": {"value": "blue", "sensitive": false}}));
    assert!(!berth.log().text().contains("s3cret"));
}

#[test]
fn a_server_and_its_client_may_show_each_other_certificates() {
    let server = WebhookServer::start(|_, _| success(true));
    let mut relay = None;
    let berth = with_webhook(&server, |config| {
        let tls = Relay::tls(&directory_of(config), &format!("TCP:127.0.0.1:{}", server.port));
        let url = format!("https://127.0.0.1:{}", tls.port);
        let webhook = |more: Value| {
            let mut webhook = json!({"url": url, "cacert": "ca.pem"});
            webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"method": "webhook", "webhook": webhook})
        };
        config["auth"]["password"] = webhook(json!({"cert": "cert.pem", "key": "key.pem"}));
        config["auth"]["publicKey"] = webhook(json!({}));
        relay = Some(tls);
    });
    assert!(login(&berth, PASSWORD).0);
    // The server wants a certificate.
    berth.exec("echo in").run().exits(255);
    berth.log().line("/pubkey failed");
}

#[test]
fn an_error_status_denies_at_once_with_a_line_in_the_log() {
    for (status, headers) in [(403, ""), (404, ""), (302, "Location: http://127.0.0.1:1/\r\n")] {
        let server = WebhookServer::start(move |_, _| Answer::Status(status, headers));
        let berth = with_webhook(&server, |_| ());
        let (is_in, time) = login(&berth, PASSWORD);
        assert!(!is_in && time < Duration::from_secs(10), "{status}: {time:?}");
        let line = berth.log().line("denied");
        assert!(line.contains(&format!("/password failed: status {status}")), "{line}");
        assert_eq!(server.questions().len(), 1);
    }
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let server = WebhookServer::start(move |_, _| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Answer::Raw(Vec::new()),
        1 => Answer::Status(503, ""),
        _ => success(true),
    });
    let berth = with_webhook(&server, |_| ());
    assert!(login(&berth, PASSWORD).0);
    assert_eq!(server.questions().len(), 3);
}

#[test]
fn answers_that_are_none_let_nobody_in() {
    let answers: [fn() -> Answer; 6] = [
        || Answer::Raw(b"220 smtp.example ESMTP\r\n".to_vec()),
        || Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html".to_vec()),
        || Answer::Json(json!({"success": "true"})),
        || Answer::Json(json!({"success": true, "metadata": "none"})),
        || Answer::Json(json!([true])),
        || Answer::Endless,
    ];
    for answer in answers {
        let server = WebhookServer::start(move |_, _| answer());
        let berth = with_webhook(&server, |_| ());
        assert!(!login(&berth, PASSWORD).0);
        berth.log().line("denied");
        assert_eq!(server.questions().len(), 1);
    }
}

#[test]
fn keys_of_answers_may_be_in_any_case_and_an_answer_that_says_nothing_is_told_of() {
    let name = unique();
    docker(&["run", "--detach", "--network", "none", "--name", &name, "berth-test/busybox", "sleep", "1000"]);
    let execution = json!({"ContainerName": name});
    let server = WebhookServer::start(move |path, question| match path {
        "/config" => Answer::Json(json!({"Config": {"Docker": {"Execution": execution}}})),
        _ if question["passwordBase64"] == "Y29ycmVjdCBob3JzZQ==" => Answer::Json(json!({"Success": true})),
        _ => Answer::Json(json!({"sucess": true})),
    });
    let berth = with_webhook(&server, |config| {
        config["configserver"] = json!({"url": format!("{}/config", server.url())});
        // The server says which container.
        config["docker"]["execution"] = json!({"mode": "persistent"});
    });
    assert!(login(&berth, PASSWORD).0);
    assert!(!login(&berth, "wrong").0);
    berth.log().line("denied, for the answer of");
    docker(&["rm", "--force", &name]);
}

#[test]
fn a_silent_server_denies_when_its_time_is_up() {
    let server = WebhookServer::start(|_, _| Answer::Silence);
    let berth = with_webhook(&server, |config| {
        config["auth"]["password"]["webhook"]["timeout"] = "300ms".into();
        config["auth"]["password"]["webhook"]["authTimeout"] = "500ms".into();
    });
    let (is_in, time) = login(&berth, PASSWORD);
    assert!(!is_in && time < Duration::from_secs(20), "{time:?}");
    assert!(berth.log().line("denied").contains("timed out while waiting for the answer"));
}

#[test]
fn names_reach_the_server_as_they_are() {
    let server = WebhookServer::start(|_, _| success(true));
    let berth = with_webhook(&server, |_| ());
    let name = "../%u\\al,ice: \u{1f600}$HOME";
    let key = key("ed25519").path.display().to_string();
    berth.ssh(["-T", "-l", name, "-i", &key, "berth", "echo in"]).run().succeeds().prints("in\n");
    assert_eq!(server.questions()[0].1["username"], name);
}

/// A berth that asks this server about every connection.
fn with_config_server(server: &WebhookServer, change: impl FnOnce(&mut Value)) -> Berth {
    Berth::with(|config| {
        config["configserver"] = json!({"url": format!("{}/config", server.url())});
        change(config);
    })
}

#[test]
fn a_connection_is_served_with_what_the_configuration_server_says() {
    let server = WebhookServer::start(|_, question| match question["username"].as_str() {
        // All that was never set stands beside it, as ContainerSSH's own library has it.
        Some("alice") => Answer::Json(json!({"config": {
            "ssh": {"listen": "", "hostkeys": null}, "log": {"level": "emerg", "format": ""}, "backend": "",
            "docker": {
                "connection": {"host": "", "cacert": ""},
                "execution": {
                    "container": {"Hostname": "from-the-server", "Image": "", "Env": null, "Labels": {"b": "server"}},
                    "host": null, "mode": "", "shellCommand": null, "disableAgent": false,
                },
                "timeouts": {"containerStart": 30_000_000_000_i64, "http": 0},
            },
            "security": {"maxSessions": 1, "forwarding": {"forwardingMode": ""}},
        }})),
        _ => Answer::Json(json!({"config": {}})),
    });
    let berth = with_config_server(&server, |config| {
        let container = &mut config["docker"]["execution"]["container"];
        container["labels"] = json!({"a": "file", "b": "file"});
        container["env"] = json!(["FILE=yes"]);
    });
    let master = berth.master();
    let shell = master.exec("hostname; echo $FILE; sleep 100").spawn();
    shell.stdout.line("yes");
    assert!(shell.stdout.text().starts_with("from-the-server\n"));
    let labels = docker(&["inspect", "-f", "{{.Config.Labels.a}} {{.Config.Labels.b}}", &berth.containers()[0]]);
    assert_eq!(labels.trim(), "file server");
    // It may have one session at once.
    master.exec("true").run().says("Session open refused by peer");
    let (path, question) = &server.questions()[0];
    assert_eq!((path.as_str(), question["authenticatedUsername"].as_str()), ("/config", Some("alice")));
}

#[test]
fn what_the_webhooks_say_of_a_user_reaches_the_configuration_server() {
    let server = WebhookServer::start(|path, question| match path {
        "/password" => Answer::Json(json!({
            "success": true, "authenticatedUsername": "Alice",
            "metadata": {"image": {"value": "berth-test/busybox"}, "token": {"value": "s3cret", "sensitive": true}},
        })),
        _ => Answer::Json(json!({"config": {"docker": {"execution": {"container": {
            "image": question["metadata"]["image"]["value"],
            "hostname": question["authenticatedUsername"],
        }}}}})),
    });
    for (transmit, told) in [(false, json!(null)), (true, json!("s3cret"))] {
        let berth = with_webhook(&server, |config| {
            config["configserver"] = json!({"url": server.url(), "transmitSensitiveMetadata": transmit});
            config["docker"]["execution"]["container"] = json!({});
        });
        let ssh = berth.openssh_with_password("ssh", PASSWORD, 1).args(["-T", "berth", "hostname"]);
        ssh.run().succeeds().prints("Alice\n");
        assert_eq!(server.questions_at("/").last().unwrap()["metadata"]["token"]["value"], told);
    }
}

#[test]
fn whom_the_configuration_server_fails_is_turned_away() {
    for answer in [
        json!({"config": {"docker": {"execution": {"mode": "often"}}}}),
        json!({"config": {"docker": {"execution": {"container": {"imagge": "x"}}}}}),
        json!({"config": {"ssh": 1, "docker": {"execution": {"container": {"image": {"file": "/etc/passwd"}}}}}}),
        json!({"config": []}),
    ] {
        let server = WebhookServer::start(move |_, _| Answer::Json(answer.clone()));
        let berth = with_config_server(&server, |_| ());
        berth.exec("echo in").run().exits(255).prints("").says("the server cannot serve you at this time");
        berth.log().line("turned away");
    }
    let server = WebhookServer::start(|_, _| Answer::Status(500, ""));
    let berth = with_config_server(&server, |_| ());
    berth.exec("echo in").run().exits(255).prints("").says("the server cannot serve you at this time");
    assert!(berth.log().line("turned away").contains("/config failed: status 500"));
}

#[test]
fn answers_of_the_configuration_server_are_kept_where_that_is_wanted() {
    let server = WebhookServer::start(|_, question| {
        let name = format!("{}s", question["username"].as_str().unwrap());
        Answer::Json(json!({"config": {"docker": {"execution": {"container": {"hostname": name}}}}}))
    });
    let berth = with_config_server(&server, |config| {
        config["configserver"]["cacheTime"] = "1h".into();
        config["auth"]["users"]["bob"] = config["auth"]["users"]["alice"].clone();
    });
    for _ in 0..2 {
        berth.exec("hostname").run().succeeds().prints("alices\n");
        berth
            .ssh(["-T", "-l", "bob", "-i", &key("ed25519").path.display().to_string(), "berth", "hostname"])
            .run()
            .prints("bobs\n");
    }
    assert_eq!(server.questions().len(), 2);
}

#[test]
fn what_webhooks_give_is_in_the_container_before_its_user_is() {
    let server = WebhookServer::start(|path, _| match path {
        "/pubkey" => Answer::Json(json!({
            "success": true,
            "metadata": {"TEAM": {"value": "blue"}},
            "environment": {"TOKEN": {"value": "s3cret 'x", "sensitive": true}, "FILE": {"value": "new"}, "A=B": {"value": "c"}},
            "files": {"/etc/deep/er/key": {"value": "AAEC/w==", "sensitive": true}},
        })),
        _ => Answer::Json(json!({"config": {}, "files": {"/home/alice/motd": {"value": "aGVsbG8K"}}})),
    });
    for execution in [
        json!({}),
        json!({"disableAgent": true}),
        json!({"disableAgent": true, "mode": "session"}),
        json!({"exposeAuthMetadataAsEnv": true}),
    ] {
        let berth = with_webhook(&server, |config| {
            config["configserver"] = json!({"url": server.url()});
            let settings = &mut config["docker"]["execution"];
            settings["container"]["user"] = "1000:1000".into();
            settings["container"]["env"] = json!(["FILE=old", "KEPT=yes"]);
            settings.as_object_mut().unwrap().extend(execution.as_object().unwrap().clone());
        });
        let show = "echo $TOKEN $FILE $KEPT $TEAM; od -An -tx1 /etc/deep/er/key; stat -c '%a %u' /etc/deep/er/key; \
                    cat /home/alice/motd";
        let team = if execution["exposeAuthMetadataAsEnv"] == true { " blue" } else { "" };
        let expected = format!("s3cret 'x new yes{team}\n 00 01 02 ff\n600 1000\nhello\n");
        berth.exec(show).run().succeeds().prints(&expected);
        assert!(!berth.log().text().contains("s3cret"));
    }
}

#[test]
fn what_webhooks_give_is_in_a_container_that_was_there_before() {
    let server = WebhookServer::start(|_, question| {
        let token = question["connectionId"].as_str().unwrap().as_bytes();
        let environment = json!({"TEAM": {"value": "blue"}});
        let files = json!({"/run/secrets/token": {"value": STANDARD.encode(token), "sensitive": true}});
        Answer::Json(json!({"success": true, "environment": environment, "files": files}))
    });
    let name = unique();
    docker(&["run", "--detach", "--network", "none", "--name", &name, "berth-test/busybox", "sleep", "1000"]);
    let berth = with_webhook(&server, |config| {
        let container = json!({"user": "1000"});
        config["docker"]["execution"] = json!({"mode": "persistent", "containername": name, "container": container});
    });
    let show = "cat /run/secrets/token; echo; stat -c '%a %u' /run/secrets/token; echo $TEAM";
    for login in 0..2 {
        let text = berth.exec(show).run().succeeds().text();
        let token = server.questions()[login].1["connectionId"].as_str().unwrap().to_owned();
        assert_eq!(text, format!("{token}\n600 1000\nblue\n"));
    }
    docker(&["rm", "--force", &name]);
}

#[test]
fn a_file_at_an_impossible_path_is_no_way_out() {
    for path in ["relative", "/../etc/passwd", "/a/../../b", "/", "/tmp/"] {
        let server =
            WebhookServer::start(move |_, _| Answer::Json(json!({"success": true, "files": {path: {"value": ""}}})));
        let berth = with_webhook(&server, |_| ());
        berth.exec("echo in").run().exits(255).prints("").says("the container service is misconfigured");
        assert!(berth.log().line("impossible path").contains(path));
    }
}
