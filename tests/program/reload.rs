//! SIGHUP: the configuration is read again.

use std::fs;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::common::{Berth, DEADLINE, daemon_socket, docker, eventually, free_port, key, unique};

fn image(config: &mut Value, variable: &str) {
    config["docker"]["execution"]["container"]["env"] = json!([format!("VERSION={variable}")]);
}

#[test]
fn new_connections_get_the_new_settings_and_old_ones_keep_theirs() {
    let berth = Berth::with(|config| {
        config["docker"]["execution"]["mode"] = "session".into();
        image(config, "old");
    });
    let master = berth.master();
    master.exec("echo $VERSION").run().succeeds().prints("old\n");
    let log = berth.reload(|config| {
        image(config, "new");
        config["security"] = json!({"forwarding": {"forwardingMode": "disable"}});
        config["auth"]["users"]["bob"] = json!({"authorizedKeys": [key("ed25519").public]});
        config["ssh"]["banner"] = "Welcome\n".into();
    });
    assert!(log.contains("new connections are served"), "{log}");
    // A further container of the old connection's is as it was to be.
    master.exec("echo $VERSION").run().succeeds().prints("old\n");
    berth.exec("echo $VERSION").run().succeeds().prints("new\n").says("Welcome");
    berth.ssh(["-T", "bob@berth", "echo $VERSION"]).run().succeeds().prints("new\n");
    berth.ssh(["-W", "localhost:9", "berth"]).run().says("administratively prohibited");
    berth.reload(|config| config["auth"]["users"] = json!({"bob": {"authorizedKeys": [key("ed25519").public]}}));
    berth.exec("true").run().exits(255);
    master.exec("echo $VERSION").run().succeeds().prints("old\n");
}

#[test]
fn what_lives_of_old_connections_is_not_reaped() {
    let berth = Berth::start();
    let master = berth.master();
    master.exec("touch /mine").run().succeeds();
    let reload = |host: &str| {
        berth.reload(|config| config["docker"]["connection"] = json!({"host": host}));
        // Once this is gone, all has been looked at.
        let name = unique();
        let label = format!("berth.instance={}", berth.instance);
        docker(&["create", "--name", &name, "--label", &label, "berth-test/busybox", "true"]);
        berth.reload(|_| ());
        eventually("the stray container is removed", DEADLINE, || {
            docker(&["ps", "--all", "--quiet", "--filter", &format!("name={name}")]).is_empty()
        });
        master.exec("ls /mine").run().succeeds().prints("/mine\n");
    };
    let socket = daemon_socket();
    reload(&format!("unix://{socket}"));
    // By another name, so it is another daemon for all that berth knows.
    reload(&format!("unix:///.{socket}"));
}

#[test]
fn a_bad_file_changes_nothing_and_the_log_has_all_that_is_wrong() {
    let berth = Berth::start();
    fs::copy(berth.path("config.yaml"), berth.path("good.yaml")).unwrap();
    let log = berth.reload(|config| {
        config["auth"]["users"] = json!({});
        config["ssh"]["lisen"] = "127.0.0.1:0".into();
        config["docker"]["execution"]["mode"] = "sesion".into();
    });
    for words in ["ssh.lisen: unknown key; did you mean listen?", "docker.execution.mode: must be", "the old one stays"]
    {
        assert!(berth.log().line(words).contains("ERROR"), "{log}");
    }
    let good = fs::read_to_string(berth.path("good.yaml")).unwrap();
    for (name, text, words) in [
        ("ssh", json!({"listen": "192.0.2.1:22"}), "ssh.listen: 192.0.2.1:22: "),
        ("ssh", json!({"hostkeys": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"}), "not a private key"),
        ("log", json!({"destination": "file", "file": "missing/log"}), "log.file: "),
    ] {
        berth.exec("echo in").run().succeeds().prints("in\n");
        let log = berth.reload(|config| {
            *config = serde_json::from_str(&good).unwrap();
            config[name] = text;
        });
        assert!(log.contains(words), "{log}");
    }
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn host_keys_are_read_again() {
    let berth = Berth::start();
    let master = berth.master();
    fs::remove_file(berth.path("host_key")).unwrap();
    berth.reload(|_| ());
    // The client knows the old one.
    berth.exec("true").run().exits(255).says("Host key verification failed");
    master.exec("echo in").run().succeeds().prints("in\n");
    fs::write(berth.path("known_hosts"), format!("* {}", fs::read_to_string(berth.path("host_key.pub")).unwrap()))
        .unwrap();
    berth.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn it_listens_where_the_new_configuration_says() {
    let berth = Berth::start();
    let master = berth.master();
    let port = free_port();
    let answers = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
    berth.reload(|config| config["ssh"]["listen"] = json!([format!("127.0.0.1:{port}"), "127.0.0.1:0"]));
    assert!(answers(port) && answers(berth.port), "the old address is still among them");
    berth.reload(|config| config["ssh"]["listen"] = json!(format!("127.0.0.1:{port}")));
    assert!(answers(port) && !answers(berth.port));
    master.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn what_takes_a_restart_is_named() {
    let berth = Berth::start();
    berth.exec("true").run().succeeds();
    let log = berth.reload(|config| config["instance"] = "another".into());
    assert!(log.contains("instance and runDirectory stay") && log.contains("new connections are served"), "{log}");
    let master = berth.master();
    master.exec("true").run().succeeds();
    berth.has_containers(1, DEADLINE);
}

#[test]
fn the_log_goes_on_in_another_file_and_level() {
    let berth = Berth::start();
    let file = berth.path("log");
    let log = |text: &str| fs::read_to_string(&file).is_ok_and(|log| log.contains(text));
    let start = fs::read_to_string(berth.path("config.yaml")).unwrap();
    let debug = r#""level": "debug""#;
    let settings = format!(r#"{debug}, "destination": "file", "file": "{}""#, file.display());
    fs::write(berth.path("config.yaml"), start.replace(debug, &settings)).unwrap();
    berth.hang_up();
    eventually("the log is in the file", DEADLINE, || log("new connections are served"));
    // As a program does that rotates logs.
    fs::rename(&file, berth.path("log.1")).unwrap();
    berth.hang_up();
    eventually("the log is in a new file", DEADLINE, || log("new connections are served"));
    berth.exec("true").run().succeeds();
    assert!(log("connected"));
}
