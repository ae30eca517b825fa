//! A way to the Docker daemon other than its socket.

use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, Running};
use super::docker::daemon_socket;

/// How a test's server reaches the daemon, and the agents in its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the daemon's socket.
    Socket,
    /// By the socket, and agents by attaching.
    Attach,
    /// By TCP on loopback.
    Tcp,
    /// By TLS on loopback, with certificates on both sides.
    Tls,
    /// Not the daemon runs the containers, but Kubernetes.
    Kubernetes,
}

impl Way {
    /// That of all tests in `tests/pods`, or else what `BERTH_TEST_DOCKER` says for a whole run.
    pub fn of_this_run() -> Way {
        if env!("CARGO_CRATE_NAME") == "pods" {
            return Way::Kubernetes;
        }
        match std::env::var("BERTH_TEST_DOCKER").as_deref() {
            Err(_) | Ok("socket") => Way::Socket,
            Ok("attach") => Way::Attach,
            Ok("tcp") => Way::Tcp,
            Ok("tls") => Way::Tls,
            Ok(other) => panic!("BERTH_TEST_DOCKER={other}: socket, attach, tcp or tls"),
        }
    }
}

/// The daemon's socket, as socat has it.
pub fn daemon() -> String {
    format!("UNIX-CONNECT:{}", daemon_socket())
}

/// A port that leads to another socket. Gone when dropped.
pub struct Relay {
    _process: Running,
    pub port: u16,
}

impl Relay {
    /// Without TLS, to the daemon.
    pub fn tcp() -> Self {
        Relay::listen("TCP-LISTEN:0,bind=127.0.0.1,reuseaddr,fork", &daemon())
    }

    /// With TLS, to what socat has for `target`, for clients with a certificate of the authority's. Puts `ca.pem`, and `cert.pem` and `key.pem` for a
    /// client, into this directory.
    pub fn tls(directory: &Path, target: &str) -> Self {
        certificates(directory);
        let file = |name: &str| directory.join(name).display().to_string();
        let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let address = format!(
            "OPENSSL-LISTEN:0,bind=127.0.0.1,reuseaddr,fork,cert={certificate},key={key},cafile={authority},verify=1"
        );
        Relay::listen(&address, target)
    }

    /// Listens on one of socat's addresses for another one.
    pub fn listen(address: &str, target: &str) -> Self {
        let process = Client::new("socat").args(["-d", "-d", address, target]).spawn();
        let line = process.stderr.line("listening on ");
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        Relay { _process: process, port }
    }
}

/// An authority, what it has issued to a server on 127.0.0.1, and what to a client.
fn certificates(directory: &Path) {
    let script = r#"
        new() { openssl req -x509 -newkey ed25519 -noenc -days 2 -subj "/CN=$1" -out "$2" -keyout "$3" "${@:4}"; }
        cd "$0" && new authority ca.pem ca.key &&
        new server server.pem server.key -CA ca.pem -CAkey ca.key -addext subjectAltName=IP:127.0.0.1 &&
        new client cert.pem key.pem -CA ca.pem -CAkey ca.key"#;
    Client::new("bash").args(["-c", script]).arg(directory).run().succeeds();
}

/// What a server's configuration says of this way, `docker.connection`. The relay, if it takes one, goes on for as long
/// as it is kept.
pub fn connect(way: Way, directory: &Path) -> (Value, Option<Relay>) {
    match way {
        Way::Socket | Way::Kubernetes => (json!({}), None),
        Way::Attach => (json!({"agentTransport": "attach"}), None),
        Way::Tcp => {
            let relay = Relay::tcp();
            (json!({"host": format!("tcp://127.0.0.1:{}", relay.port)}), Some(relay))
        }
        Way::Tls => {
            // A place of its own: tests may put certificates of theirs beside the configuration.
            let own = directory.join("daemon");
            std::fs::create_dir(&own).unwrap();
            let relay = Relay::tls(&own, &daemon());
            let host = format!("tcp://127.0.0.1:{}", relay.port);
            let connection = json!({"host": host, "cacertFile": "daemon/ca.pem", "certFile": "daemon/cert.pem",
                    "keyFile": "daemon/key.pem"});
            (connection, Some(relay))
        }
    }
}
