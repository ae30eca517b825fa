//! Clients that have not logged in: how many there may be, from where, and what they may cost.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, RwLock};

use serde_json::{Value, json};

use crate::common::{
    Answer, Berth, Client, DEADLINE, PASSWORD, RawClient, WebhookServer, auth_request, connect_from, eventually, key,
    string,
};

/// With these settings in place of a test's usual ones: there, nobody is refused for having failed.
fn with(change: impl FnOnce(&mut Value)) -> Berth {
    Berth::with(|config| {
        config["ssh"].as_object_mut().unwrap().remove("perSourcePenalties");
        change(&mut config["ssh"]);
    })
}

/// What a client hears that says nothing.
fn greeting(mut socket: TcpStream) -> String {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An address of loopback.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(Ipv4Addr::new(127, 0, 1, 1).to_bits() + number)
}

#[test]
fn half_open_connections_from_one_address_or_from_many_keep_nobody_out() {
    for addresses in [1, 60] {
        let berth = with(|_| ());
        let open = |number: u32| connect_from(address(number % addresses), berth.port);
        let mut open_ones: Vec<TcpStream> = (0..300).map(open).collect();
        for round in 0..5 {
            berth.exec("echo in").run().succeeds().prints("in\n");
            open_ones.extend((0..60).map(|number| open(number + round)));
        }
        berth.log().line(if addresses == 1 { "ssh.perSourceMaxStartups" } else { "ssh.maxStartups" });
    }
}

#[test]
fn a_source_has_so_many_places_and_is_told() {
    let berth = with(|ssh| ssh["perSourceMaxStartups"] = 2.into());
    let waiting = [RawClient::connect(berth.port), RawClient::connect(berth.port)];
    for _ in 0..3 {
        assert_eq!(greeting(connect_from(Ipv4Addr::LOCALHOST, berth.port)), "Not allowed at this time\r\n");
    }
    // However many they were.
    berth.log().line("ssh.perSourceMaxStartups; further ones are counted");
    assert_eq!(berth.log().text().matches("ssh.perSourceMaxStartups").count(), 1);
    berth.ssh(["-T", "-b", "127.0.0.2", "berth", "echo in"]).run().succeeds().prints("in\n");
    drop(waiting);
    eventually("room", DEADLINE, || berth.exec("true").run().code == Some(0));
}

#[test]
fn whoever_fails_again_and_again_is_refused_for_a_while_and_nobody_else() {
    let berth = with(|ssh| ssh["perSourcePenalties"] = "authfail:40s min:60s".into());
    for _ in 0..2 {
        berth.openssh_with_key("ssh", "ed25519-stranger").args(["berth", "true"]).run().exits(255);
    }
    berth.log().line("127.0.0.1 is refused for");
    berth.exec("true").run().exits(255);
    berth.ssh(["-T", "-b", "127.0.0.2", "berth", "echo in"]).run().succeeds().prints("in\n");
}

#[test]
fn whoever_is_exempt_is_not_refused() {
    let berth = with(|ssh| {
        ssh["perSourcePenalties"] = "authfail:40s min:1s".into();
        ssh["perSourcePenaltyExemptList"] = "127.0.0.0/8,!127.0.0.2".into();
    });
    for source in ["127.0.0.1", "127.0.0.2"] {
        let ssh = berth.openssh_with_key("ssh", "ed25519-stranger").args(["-b", source, "berth", "true"]);
        ssh.run().exits(255);
    }
    berth.log().line("127.0.0.2 is refused for");
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_class_behind_one_address_gets_in_though_some_mistype() {
    let berth = with(|_| ());
    let log_in = |student: usize| {
        let mut client = RawClient::connect(berth.port);
        client.ask_for_service();
        let password = if student.is_multiple_of(5) { "mistyped" } else { PASSWORD };
        client.send(&[&auth_request("password")[..], &[0], &string(password)].concat());
        assert_eq!(client.next().map(|message| message[0]), Some(if student.is_multiple_of(5) { 51 } else { 52 }));
        client
    };
    std::thread::scope(|scope| {
        let students: Vec<_> = (0..30).map(|student| scope.spawn(move || drop(log_in(student)))).collect();
        students.into_iter().for_each(|student| student.join().unwrap());
    });
    (0..6).for_each(|_| RawClient::connect(berth.port).log_in(PASSWORD));
}

#[test]
fn a_client_has_less_time_for_its_keys_than_for_its_login() {
    let berth = with(|ssh| ssh["keyExchangeTimeout"] = "5s".into());
    let mut at_the_login = RawClient::connect(berth.port);
    assert!(greeting(connect_from(Ipv4Addr::LOCALHOST, berth.port)).starts_with("SSH-2.0-berth"));
    berth.log().line("timeout before the key exchange");
    at_the_login.log_in(PASSWORD);
}

#[test]
fn work_ends_when_its_client_has_gone() {
    let berth = Berth::with(|config| {
        config["ssh"]["maxStartups"] = 2.into();
        config["auth"]["users"]["alice"]["authorizedKeysCommand"] = json!(["./keys", "%u"]);
        config["auth"]["users"]["alice"]["authorizedKeys"] = json!([]);
        let directory = crate::common::directory_of(config);
        let script = format!("#!/bin/sh\necho $$ >>{}/started\nexec sleep 60\n", directory.display());
        fs::write(directory.join("keys"), script).unwrap();
        fs::set_permissions(directory.join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    let blob = openssl::base64::decode_block(key("ed25519").public.split(' ').nth(1).unwrap()).unwrap();
    let query = [&auth_request("publickey")[..], &[0], &string("ssh-ed25519"), &string(blob)].concat();
    let started = || -> Vec<String> {
        fs::read_to_string(berth.path("started")).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    for round in 1..=4 {
        let mut client = RawClient::connect(berth.port);
        client.ask_for_service();
        client.send(&query);
        client.push();
        eventually("the program", DEADLINE, || started().len() == round);
        drop(client);
        eventually("its end", DEADLINE, || !started().iter().any(|id| Path::new("/proc").join(id).exists()));
    }
}

#[test]
fn work_keeps_its_clients_place_though_the_client_has_gone() {
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write().unwrap();
    let answers = Arc::clone(&gate);
    let server = WebhookServer::start(move |_, _| {
        drop(answers.read());
        Answer::Json(json!({"success": true}))
    });
    let berth = Berth::with(|config| {
        config["ssh"]["maxStartups"] = 2.into();
        config["auth"] = json!({"password": {
            "method": "webhook", "webhook": {"url": server.url(), "timeout": "600s", "authTimeout": "600s"},
        }});
    });
    let ask = || {
        let mut client = RawClient::connect(berth.port);
        client.ask_for_service();
        client.send(&[&auth_request("password")[..], &[0], &string("any")].concat());
        client.push();
        client
    };
    let clients = [ask(), ask()];
    eventually("both questions", DEADLINE, || server.questions().len() == 2);
    let [one, other] = clients;
    one.reset();
    drop(other);
    // Their connections have ended, and what was asked for them goes on.
    berth.has_connections(0);
    for _ in 0..3 {
        assert_eq!(greeting(connect_from(Ipv4Addr::LOCALHOST, berth.port)), "Not allowed at this time\r\n");
    }
    drop(closed);
    let ssh = || berth.openssh_with_password("ssh", "any", 1).args(["-T", "berth", "echo in"]).run();
    eventually("room", DEADLINE, || ssh().text() == "in\n");
}

#[test]
fn whoever_cannot_be_looked_at_for_lack_of_threads_has_not_failed() {
    // The kernel holds root to no such limit.
    let berth = Berth::by_another_user();
    let limit = |soft: &str| {
        let limit = format!("--nproc={soft}:");
        let (id, user) =
            (berth.id().to_string(), ["--reuid", "61234", "--regid", "61234", "--clear-groups", "prlimit"]);
        // As that user: in a container, root may not.
        let prlimit = match rustix::process::getuid().is_root() {
            true => Client::new("setpriv").args(user),
            false => Client::new("prlimit"),
        };
        prlimit.args(["--pid", &id, &limit]).run().succeeds();
    };
    let limits = fs::read_to_string(format!("/proc/{}/limits", berth.id())).unwrap();
    let processes = limits.lines().find_map(|line| line.strip_prefix("Max processes")).unwrap();
    let hard = processes.split_whitespace().nth(1).unwrap().to_owned();
    let clients: [RawClient; 2] = [(); 2].map(|()| RawClient::connect(berth.port));
    limit("1");
    let blob = openssl::base64::decode_block(key("ed25519").public.split(' ').nth(1).unwrap()).unwrap();
    let requests = [
        [&auth_request("password")[..], &[0], &string(PASSWORD)].concat(),
        [&auth_request("publickey")[..], &[0], &string("ssh-ed25519"), &string(blob)].concat(),
    ];
    for (mut client, request) in clients.into_iter().zip(requests) {
        client.ask_for_service();
        client.send(&request);
        assert_eq!(client.next(), None);
    }
    berth.log().line("no thread for a worker");
    berth.has_connections(0);
    let log = berth.log().text();
    assert_eq!(log.matches("the server cannot serve you at this time").count(), 2, "{log}");
    assert!(!log.contains(": failed "), "{log}");
    limit(&hard);
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn an_exchange_that_is_left_is_a_failure() {
    let berth = Berth::start();
    let mut client = RawClient::connect(berth.port);
    client.ask_for_service();
    let begin = [&auth_request("keyboard-interactive")[..], &string(""), &string("")].concat();
    for _ in 0..6 {
        client.send(&begin);
        client.expect(60);
    }
    client.send(&begin);
    assert_eq!(client.next(), None);
    berth.log().line("Too many authentication failures");
    assert_eq!(berth.log().text().matches("failed keyboard-interactive").count(), 6);
}

#[test]
fn a_user_has_so_many_connections() {
    let berth = Berth::with(|config| config["security"]["maxConnections"] = 2.into());
    let masters = [berth.master(), berth.master()];
    let refused = "berth: you have 2 connections already, the most that are allowed";
    berth.exec("true").run().exits(255).says(refused);
    drop(masters);
    eventually("room", DEADLINE, || berth.exec("true").run().code == Some(0));
}

#[test]
fn a_user_has_so_many_containers_and_groups_have_their_own_number() {
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["mode"] = "session".into();
        config["security"]["maxContainers"] = 9.into();
        config["auth"]["groups"]["few"]["security"]["maxContainers"] = 1.into();
        config["auth"]["users"]["alice"]["groups"] = json!(["few"]);
    });
    let master = berth.master();
    let first = berth.exec("echo in; sleep 60").spawn();
    first.stdout.line("in");
    let refused = "berth: you have 1 container already, the most that are allowed";
    master.exec("true").run().exits(255).says(refused);
    berth.exec("true").run().exits(255).says(refused);
    drop(first);
    eventually("room", DEADLINE, || master.exec("true").run().code == Some(0));
}
