//! A server in this process, whose containers are none.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth::auth::{Attempt, Authenticator, Busy, ForwardAddress, Grant, Offer, Restrictions};
use berth::backend::{Backend, Container, Error, Lease, Request, Scope, Waiter};
use berth::config;
use berth::connection::frame::{self, HELLO, VERSION};
use berth::connection::message::{GlobalRequest, number};
use berth::connection::wire::Write;
use berth::metadata::Metadata;
use berth::ssh::Services;

use crate::port::free_port;

/// Nothing here takes that long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A server, and what its clients need.
pub struct Server {
    pub port: u16,
    pub directory: PathBuf,
    played: Receiver<UnixStream>,
}

/// Lets everybody in. What users are held to is in their names.
struct Anybody;

impl Authenticator for Anybody {
    fn password(&self, attempt: &Attempt<'_>, _password: &[u8]) -> Result<Option<Grant>, Busy> {
        if attempt.user == "unlucky" { Err(Busy) } else { Ok(None) }
    }

    fn public_key(&self, attempt: &Attempt<'_>, _offer: &Offer) -> Option<Grant> {
        let mut restrictions = Restrictions::default();
        match attempt.user {
            "no-forwarding" => {
                restrictions.no_port_forwarding = true;
                restrictions.no_agent_forwarding = true;
                restrictions.no_x11_forwarding = true;
            }
            "only-localhost" => {
                restrictions.permit_open = Some(ForwardAddress::parse("localhost:*").into_iter().collect());
                restrictions.permit_listen = Some(ForwardAddress::parse("localhost:*").into_iter().collect());
            }
            _ => {}
        }
        Some(Grant::new(attempt.user, restrictions))
    }
}

/// Gives agents in place of containers.
struct Agents {
    directory: PathBuf,
    scope: Scope,
    played: Mutex<Sender<UnixStream>>,
}

impl Backend for Agents {
    fn offers_choice(&self) -> bool {
        false
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn subsystems(&self) -> Option<BTreeMap<String, String>> {
        Some(BTreeMap::from([("sftp".to_owned(), "internal-sftp".to_owned())]))
    }

    fn variables(&self, _metadata: &Metadata) -> Vec<(String, String)> {
        Vec::new()
    }

    fn start(&self, request: &Request, _waiter: &dyn Waiter) -> Result<Container, Error> {
        match request.user.as_str() {
            "nowhere" => Err(Error::new("no container today", "no container")),
            "played" => {
                let (stream, ours) = UnixStream::pair().unwrap();
                stream.set_nonblocking(true).unwrap();
                self.played.lock().unwrap_or_else(PoisonError::into_inner).send(ours).unwrap();
                Ok(Container { stream: Box::new(stream), lease: Box::new(()) })
            }
            user => {
                if user == "late" {
                    until("the test lets the container begin", || self.directory.join("begin").exists());
                }
                let socket = self.directory.join(request.id());
                let listener = UnixListener::bind(&socket).unwrap();
                let mut agent = Command::new(env!("CARGO_BIN_EXE_berth"));
                agent.args(["agent", "--socket"]).arg(&socket).stdin(Stdio::null());
                agent.env("XAUTHORITY", self.directory.join("guests-xauthority"));
                let agent = Killed(agent.spawn().unwrap());
                let (stream, _) = listener.accept().unwrap();
                stream.set_nonblocking(true).unwrap();
                Ok(Container { stream: Box::new(stream), lease: Box::new(agent) })
            }
        }
    }

    fn reap(&self) -> Result<usize, Error> {
        Ok(0)
    }
}

impl Lease for Killed {}

/// A process that does not outlive the test.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(config::Forwarding { agent: true, x11: true, ..config::Forwarding::default() })
    }

    pub fn start_with(forwarding: config::Forwarding) -> Self {
        Self::start_as(forwarding, Scope::Connection)
    }

    pub fn start_as(forwarding: config::Forwarding, scope: Scope) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("berth-bridge-{}-{count}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let key = directory.join("key");
        let keygen = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(keygen.unwrap().success());
        let port = free_port();
        let (sender, played) = channel();
        let backend = Arc::new(Agents { directory: directory.clone(), scope, played: Mutex::new(sender) });
        let settings = settings(port, directory.join("ssh_host_ed25519_key"));
        let forwarding = config::Forwardings { everyone: forwarding, ..Default::default() };
        let services = Services::new(backend, config::Security::default(), forwarding, settings.max_sessions);
        // Ends with the process.
        std::thread::spawn(move || {
            let log = config::Log::default();
            let server = berth::ssh::Server::new(
                settings,
                services,
                Box::new(Anybody),
                None,
                config::Monitoring::default(),
                log,
                DEADLINE,
            );
            berth::ssh::serve(server.unwrap(), || None).unwrap();
        });
        until("the server listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Server { port, directory, played }
    }

    /// An ssh client.
    pub fn ssh(&self, user: &str, arguments: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-i"]);
        ssh.arg(self.directory.join("key")).arg("-p").arg(self.port.to_string());
        ssh.args(["-l", user]).args(arguments).stdin(Stdio::null());
        ssh
    }

    /// Runs an ssh client to its end.
    pub fn run(&self, user: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.ssh(user, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code(), text(stdout), text(stderr))
    }

    /// Starts an ssh client that forwards, and waits until its standard error has `line`.
    pub fn forward(&self, user: &str, arguments: &[&str], line: &str) -> (Killed, String) {
        let mut ssh =
            Killed(self.ssh(user, &[&["-v", "-N"], arguments].concat()).stderr(Stdio::piped()).spawn().unwrap());
        let mut stderr = std::io::BufReader::new(ssh.0.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            while std::io::BufRead::read_line(&mut stderr, &mut text).is_ok_and(|count| count > 0) {
                let _ = sender.send(std::mem::take(&mut text));
            }
        });
        let (started, mut all) = (Instant::now(), String::new());
        while let Ok(next) = lines.recv_timeout(DEADLINE.saturating_sub(started.elapsed())) {
            all.push_str(&next);
            if next.contains(line) {
                return (ssh, next);
            }
        }
        panic!("no {line:?} in {all}");
    }

    /// Asserts that a client with an agent of its own is served.
    pub fn assert_serves_others(&self) {
        let (status, stdout, stderr) = self.run("alice", &["localhost", "echo served"]);
        assert_eq!((status, stdout.as_str()), (Some(0), "served\n"), "{stderr}");
    }

    /// The agent that the next client named `played` gets.
    pub fn play(&self) -> Played {
        let stream = self.played.recv_timeout(DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Played { stream, bytes: Vec::new() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The test as an agent.
pub struct Played {
    pub stream: UnixStream,
    bytes: Vec<u8>,
}

impl Played {
    pub fn greet(&mut self) {
        let mut specific = Vec::new();
        specific.put_u32(VERSION);
        specific.put_string("session");
        self.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode());
        let hello = self.expect(number::GLOBAL_REQUEST);
        assert_eq!(GlobalRequest::decode(&hello[1..]).unwrap().name, HELLO);
    }

    pub fn send(&mut self, message: &[u8]) {
        let mut framed = Vec::new();
        frame::append(&mut framed, message);
        self.stream.write_all(&framed).unwrap();
    }

    /// The next message, unless the stream ends.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((message, rest)) = frame::split(&self.bytes).unwrap() {
                let (message, rest) = (message.to_vec(), rest.to_vec());
                self.bytes = rest;
                return Some(message);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next message of this number. Others are passed over.
    pub fn expect(&mut self, number: u8) -> Vec<u8> {
        loop {
            let message = self.next().expect("a message before the stream's end");
            if message[0] == number {
                return message;
            }
        }
    }

    /// Whether nothing has come that was not looked at.
    pub fn is_idle(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        self.bytes.is_empty() && poll(&mut fds, Some(&Timespec::default())) == Ok(0)
    }

    /// Waits for the server to end the stream.
    pub fn ends(&mut self) {
        while self.next().is_some() {}
    }
}

/// Waits for something to become true.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads what there is until the end.
pub fn read_to_end(mut source: impl Read) -> String {
    let mut text = String::new();
    source.read_to_string(&mut text).unwrap();
    text
}

fn settings(port: u16, host_key: PathBuf) -> config::Ssh {
    let names = |names: &str| names.split(',').map(str::to_owned).collect();
    config::Ssh {
        authentication_methods: Vec::new(),
        listen: vec![(Ipv4Addr::LOCALHOST, port).into()],
        host_keys: vec![config::Pem::File(host_key)],
        host_certificates: Vec::new(),
        server_version: "berth_test".into(),
        banner: None,
        ciphers: names("aes128-gcm@openssh.com"),
        kex: names("curve25519-sha256"),
        macs: names("hmac-sha2-256-etm@openssh.com"),
        host_key_algorithms: names("ssh-ed25519"),
        login_grace_time: DEADLINE,
        max_auth_tries: 6,
        pubkey_auth_options: Vec::new(),
        trusted_user_ca_keys: Vec::new(),
        revoked_keys: Vec::new(),
        strict_modes: Default::default(),
        key_exchange_timeout: DEADLINE,
        max_startups: config::MaxStartups { start: 100, rate: 100, full: 100 },
        per_source_max_startups: None,
        per_source_net_block_size: config::NetBlockSize { v4: 32, v6: 64 },
        per_source_penalties: vec![],
        per_source_penalty_exempt_list: vec![],
        max_connections: 0,
        accept_env: Vec::new(),
        ip_qos: Default::default(),
        permit_user_environment: Default::default(),
        client_alive_interval: Duration::ZERO,
        client_alive_count_max: 3,
        max_sessions: 10,
    }
}

/// Whether nobody is at the other end of a socket any more.
pub fn has_hung_up(stream: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&stream, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// A socket of this machine that takes connections.
pub fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
