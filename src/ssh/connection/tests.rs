//! Whether what takes long waits for its turn, and for whose.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libssh_server::{Algorithms, HostKey, KeyKind, Session, number};

use super::{Connection, EXCHANGES};
use crate::auth::{Attempt, Authenticator, Busy, Grant, Offer, Restrictions};
use crate::backend::{Backend, Container, Error, Request, Scope, Waiter};
use crate::config;
use crate::connection::frame::Queue;
use crate::connection::wire::Write;
use crate::metadata::Metadata;
use crate::ssh::startups::Startups;
use crate::ssh::{Server, Services};
use crate::waker::Waker;

/// Lets everybody in, and tells of which networks they were.
struct Anybody(Mutex<Sender<IpAddr>>);

impl Authenticator for Anybody {
    fn password(&self, attempt: &Attempt<'_>, _password: &[u8]) -> Result<Option<Grant>, Busy> {
        self.0.lock().unwrap().send(attempt.source).unwrap();
        Ok(Some(Grant::new(attempt.user, Restrictions::default())))
    }

    fn public_key(&self, _attempt: &Attempt<'_>, _offer: &Offer) -> Option<Grant> {
        None
    }
}

/// Has no containers.
struct Nothing;

impl Backend for Nothing {
    fn scope(&self) -> Scope {
        Scope::Connection
    }

    fn offers_choice(&self) -> bool {
        false
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        None
    }

    fn variables(&self, _metadata: &Metadata) -> Vec<(String, String)> {
        Vec::new()
    }

    fn start(&self, _request: &Request, _waiter: &dyn Waiter) -> Result<Container, Error> {
        Err(Error::new("none", "none"))
    }

    fn reap(&self) -> Result<usize, Error> {
        Ok(0)
    }
}

#[track_caller]
fn until(mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_done() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A client that is connected.
struct Client(Session, Queue);

impl Client {
    /// Writes and reads what there is.
    fn turn(&mut self) {
        self.0.flush().unwrap();
        self.0.receive(self.1.tail()).unwrap();
    }

    /// Sends a message, and waits for one of this number.
    fn ask(&mut self, message: &[u8], answer: u8) {
        self.0.expect_answers();
        self.0.send(message).unwrap();
        until(|| {
            self.turn();
            let found = self.1.front().unwrap().map(|message| message[0]);
            found.inspect(|_| self.1.pop()) == Some(answer)
        });
    }
}

fn message(number: u8, strings: &[&str]) -> Vec<u8> {
    let mut message = vec![number];
    strings.iter().for_each(|string| message.put_string(string));
    message
}

#[test]
fn networks_take_turns_at_key_exchanges_at_the_login_and_after_it() {
    let (sender, sources) = channel();
    let mut settings = config::Ssh::new(Path::new("/"));
    let key = HostKey::generate(KeyKind::Ed25519).unwrap().private_text().unwrap();
    settings.host_keys = vec![config::Pem::Text(key)];
    let security = config::Security::default();
    let services = Services::new(Arc::new(Nothing), security, config::Forwardings::default(), settings.max_sessions);
    let (authenticator, log) = (Box::new(Anybody(Mutex::new(sender))), config::Log::default());
    let monitoring = config::Monitoring::default();
    let server = Server::new(settings, services, authenticator, None, monitoring, log, Duration::ZERO).unwrap();
    let (server, startups) = (Arc::new(server), Startups::default());
    let network: IpAddr = "2001:db8::".parse().unwrap();
    let address: SocketAddr = "[2001:db8::1:2:3:4]:22".parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let algorithms = Algorithms::new(
        "test",
        "curve25519-sha256",
        "ssh-ed25519",
        "aes128-gcm@openssh.com",
        "hmac-sha2-256",
        "ssh-ed25519",
    );
    let mut client = Client(Session::connect(socket, &algorithms).unwrap(), Queue::default());
    let (startup, _) = startups.admit(&server.limits(), address.ip(), None, 99, Instant::now()).unwrap();
    let connection = Connection {
        server,
        id: "0123".into(),
        client: address,
        local: listener.local_addr().unwrap(),
        country: "XX".into(),
        waker: Waker::new().unwrap(),
        startups,
        stop: Arc::default(),
    };
    let others = EXCHANGES.all();
    let socket = listener.accept().unwrap().0;
    let thread = std::thread::spawn(move || connection.run(socket, startup));
    until(|| {
        client.turn();
        assert!(client.0.is_exchanging(), "it took no turn");
        EXCHANGES.is_awaited_by(network)
    });
    drop(others);
    until(|| {
        client.turn();
        !client.0.is_exchanging()
    });
    assert!(!EXCHANGES.is_awaited_by(network));

    client.ask(&message(number::SERVICE_REQUEST, &["ssh-userauth"]), number::SERVICE_ACCEPT);
    let mut login = message(number::USERAUTH_REQUEST, &["alice", "ssh-connection", "password"]);
    login.push(0);
    login.put_string("secret");
    client.ask(&login, number::USERAUTH_SUCCESS);
    assert_eq!(sources.recv(), Ok(network));

    let others = EXCHANGES.all();
    let mut begin = [&[number::KEXINIT][..], &[7; 16]].concat();
    let ciphers = "aes128-gcm@openssh.com";
    for names in ["curve25519-sha256", "ssh-ed25519", ciphers, ciphers, "", "", "none", "none", "", ""] {
        begin.put_string(names);
    }
    begin.extend_from_slice(&[0; 5]);
    let mut init = vec![30];
    init.put_string([&[9][..], &[0; 31]].concat());
    for message in [begin, init] {
        client.0.send(&message).unwrap();
    }
    // Both at once, so that the server knows of no exchange when it reads.
    client.0.flush().unwrap();
    assert!(!client.0.has_output());
    until(|| EXCHANGES.is_awaited_by(network));
    drop(others);
    drop(client);
    thread.join().unwrap();
}
