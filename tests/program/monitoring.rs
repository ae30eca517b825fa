//! The pages of metrics and health.

use std::net::Ipv4Addr;

use rustix::process::Signal;
use serde_json::json;

use crate::common::{Answer, Berth, Client, DEADLINE, RawClient, WebhookServer, eventually, free_port};

fn get(port: u16, path: &str) -> (String, String) {
    let curl =
        Client::new("curl").args(["--silent", "--noproxy", "*", "--max-time", "10", "--write-out", "%{http_code}"]);
    let text = curl.arg(format!("http://127.0.0.1:{port}{path}")).run().text();
    let (body, status) = text.split_at(text.len() - 3);
    (status.to_owned(), body.to_owned())
}

#[test]
fn connections_logins_and_containers_are_counted() {
    let port = free_port();
    let berth = Berth::with(|config| {
        config["metrics"] = json!({"enable": true, "listen": format!("127.0.0.1:{port}"), "path": "/counts"});
    });
    assert_eq!(get(port, "/metrics").0, "404");
    let has = |line: &str| get(port, "/counts").1.lines().any(|one| one == line);
    assert!(has("# TYPE containerssh_ssh_current_connections gauge"));
    let master = berth.master();
    master.exec("true").run().succeeds();
    assert!(has("containerssh_ssh_current_connections{country=\"XX\"} 1"));
    assert!(has("containerssh_auth_success_total{authtype=\"pubkey\",country=\"XX\"} 1"));
    assert!(has("containerssh_backend_requests_total 1"));
    berth.openssh_with_password("ssh", "wrong", 1).args(["-T", "berth", "true"]).run().exits(255);
    assert!(has("containerssh_auth_failures_total{authtype=\"password\",country=\"XX\"} 1"));
    drop(master);
    eventually("all have ended", DEADLINE, || {
        has("containerssh_ssh_current_connections{country=\"XX\"} 0")
            && has("containerssh_ssh_connections_total{country=\"XX\"} 2")
            && has("containerssh_ssh_successful_handshakes_total{country=\"XX\"} 1")
            && has("containerssh_ssh_failed_handshakes_total{country=\"XX\"} 1")
    });
    // A new configuration goes on counting, here or elsewhere.
    let elsewhere = free_port();
    berth.reload(|_| ());
    assert!(has("containerssh_ssh_connections_total{country=\"XX\"} 2"));
    berth.reload(|config| config["metrics"]["listen"] = json!(format!("127.0.0.1:{elsewhere}")));
    assert!(get(elsewhere, "/counts").1.contains("containerssh_ssh_connections_total{country=\"XX\"} 2"));
    assert_eq!(get(port, "/counts").0, "000");
}

#[test]
fn refused_connections_are_counted_by_the_setting_that_refuses_them() {
    let port = free_port();
    let berth = Berth::with(|config| {
        config["metrics"] = json!({"enable": true, "listen": format!("127.0.0.1:{port}")});
        config["ssh"]["perSourceMaxStartups"] = 1.into();
        config["ssh"]["maxConnections"] = 2.into();
    });
    let refuses = |setting: &str, count: u32| {
        berth.exec("true").run().exits(255);
        let line = format!("containerssh_ssh_refused_connections_total{{setting={setting:?}}} {count}");
        let counts = get(port, "/metrics").1;
        assert!(counts.lines().any(|one| one == line), "{line}: {counts}");
    };
    let _waiting = RawClient::connect(berth.port);
    refuses("ssh.perSourceMaxStartups", 1);
    refuses("ssh.perSourceMaxStartups", 2);
    let _another = RawClient::connect_from(Ipv4Addr::new(127, 0, 0, 2), berth.port);
    refuses("ssh.maxConnections", 1);
}

#[test]
fn questions_to_webhooks_are_counted() {
    let port = free_port();
    let server = WebhookServer::start(|_, _| Answer::Json(json!({"success": true})));
    let berth = Berth::with(|config| {
        config["metrics"] = json!({"enable": true, "listen": format!("127.0.0.1:{port}")});
        config["auth"]["password"] = json!({"method": "webhook", "webhook": {"url": server.url()}});
    });
    berth.openssh_with_password("ssh", "any", 1).args(["-T", "bob@berth", "true"]).run().succeeds();
    let counts = get(port, "/metrics").1;
    assert!(counts.contains("containerssh_auth_server_requests_total{authtype=\"password\"} 1\n"), "{counts}");
}

#[test]
fn health_is_good_until_berth_ends() {
    let port = free_port();
    let mut berth = Berth::with(|config| {
        config["health"] = json!({"enable": true, "listen": format!("127.0.0.1:{port}")});
    });
    assert_eq!(get(port, "/"), ("200".into(), "ok\n".into()));
    berth.end(Signal::TERM).succeeds();
    assert_eq!(get(port, "/").0, "000");
}

#[test]
fn a_page_that_cannot_be_served_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let berth = Berth::start();
    let address = taken.local_addr().unwrap().to_string();
    let log = berth.reload(|config| config["health"] = json!({"enable": true, "listen": address}));
    assert!(log.contains(&format!("health.listen: {address}: ")), "{log}");
}
