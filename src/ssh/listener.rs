//! The listening sockets, and the life of the whole server.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use libssh_server::Algorithms;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::connection::Connection;
use super::worker::STACK;
use super::{KeyFileError, Server, Services, hostkey};
use crate::auth::{Authenticator, SIGNATURE_ALGORITHMS};
use crate::config;
use crate::geoip;
use crate::waker::Waker;

/// How many connections the kernel keeps for us.
const BACKLOG: i32 = 128;

/// How often the reaper looks.
const REAPING: Duration = Duration::from_secs(60);

/// How long accepting rests where no descriptor or thread is left.
const REST: Duration = Duration::from_millis(200);

/// Why the server could not start.
#[derive(Debug)]
pub enum ServeError {
    /// A host key file.
    HostKey(KeyFileError),
    /// No host key is configured.
    NoHostKey,
    /// An address could not be listened on.
    Listen(SocketAddr, io::Error),
    /// Signals could not be caught, or another thing that only a broken system lacks.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::HostKey(error) => error.fmt(f),
            ServeError::NoHostKey => f.write_str("ssh.hostkeys: name at least one file"),
            ServeError::Listen(address, error) => write!(f, "ssh.listen: {address}: {error}"),
            ServeError::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<KeyFileError> for ServeError {
    fn from(error: KeyFileError) -> Self {
        ServeError::HostKey(error)
    }
}

/// Serves until SIGTERM or SIGINT, then ends all connections, removes their containers, and returns.
///
/// `geoip` is for the log. `stop_time` bounds how long that end may take.
pub fn serve(
    settings: config::Ssh,
    services: Services,
    authenticator: Box<dyn Authenticator>,
    geoip: Option<geoip::Database>,
    stop_time: Duration,
) -> Result<(), ServeError> {
    if settings.host_keys.is_empty() {
        return Err(ServeError::NoHostKey);
    }
    let host_keys = Arc::new(hostkey::load(&settings.host_keys)?);
    let (signalled, signals) = UnixStream::pair().map_err(ServeError::System)?;
    for signal in [SIGTERM, SIGINT] {
        let signals = signals.try_clone().map_err(ServeError::System)?;
        signal_hook::low_level::pipe::register(signal, signals).map_err(ServeError::System)?;
    }
    let mut listeners = Vec::new();
    for address in &settings.listen {
        let listener = listen(*address, &settings.listen).map_err(|error| ServeError::Listen(*address, error))?;
        log::info!("listening on {}", listener.local_addr().unwrap_or(*address));
        listeners.push(listener);
    }
    let algorithms = Algorithms::new(
        &settings.server_version,
        &settings.kex.join(","),
        &settings.host_key_algorithms.join(","),
        &settings.ciphers.join(","),
        &settings.macs.join(","),
        SIGNATURE_ALGORITHMS,
    );
    let server = Arc::new(Server { settings, algorithms, host_keys, authenticator, services, geoip });
    let reaper = Reaper::start(Arc::clone(&server)).map_err(ServeError::System)?;
    let connections = Connections::default();
    accept_loop(&server, &listeners, &signalled, &connections);
    drop(listeners);
    connections.end(stop_time);
    drop(reaper);
    Ok(())
}

/// The thread that removes what no live connection owns, at the start and from time to time. Ends when dropped.
struct Reaper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    fn start(server: Arc<Server>) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("reaper".into()).stack_size(STACK).spawn(move || {
            loop {
                match server.services.reap() {
                    Ok(0) => (),
                    Ok(count) => log::warn!("removed {count} containers that no connection owned"),
                    Err(error) => log::error!("containers that no connection owns could not be removed: {}", error.log),
                }
                if stopped.recv_timeout(REAPING) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Reaper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It waits for one call of the backend's at most, which has a deadline.
            let _ = thread.join();
        }
    }
}

/// A listening socket. Where `[::]` stands alone for its port it takes IPv4 too; beside an IPv4 address it does not, as
/// they would be in each other's way.
fn listen(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        let beside_ipv4 = all.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        sockopt::set_ipv6_v6only(&socket, beside_ipv4)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn accept_loop(server: &Arc<Server>, listeners: &[TcpListener], signalled: &UnixStream, connections: &Connections) {
    let startups = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = vec![PollFd::new(signalled, PollFlags::IN)];
        fds.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => {
                log::error!("poll: {error}");
                std::thread::sleep(REST);
            }
        }
        if !fds[0].revents().is_empty() {
            log::info!("ending");
            return;
        }
        for (listener, fd) in listeners.iter().zip(&fds[1..]) {
            if fd.revents().is_empty() {
                continue;
            }
            match listener.accept() {
                Ok((socket, client)) => {
                    if let Err(error) = begin(server, socket, client, &startups, connections) {
                        log::error!("{client}: {error}");
                    }
                }
                Err(error) if is_clients_fault(&error) => (),
                Err(error) => {
                    log::error!("accept: {error}");
                    std::thread::sleep(REST);
                }
            }
        }
    }
}

/// Whether accept failed since the client has gone again.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | ConnectionReset | Interrupted)
}

/// Starts a connection's thread.
fn begin(
    server: &Arc<Server>,
    socket: TcpStream,
    client: SocketAddr,
    startups: &Arc<AtomicUsize>,
    connections: &Connections,
) -> io::Result<()> {
    let settings = &server.settings;
    let Some(startup) = Startup::take(startups, settings.max_startups) else {
        log::warn!("{client}: refused: ssh.maxStartups ({}) clients have not authenticated yet", settings.max_startups);
        return Ok(());
    };
    if settings.max_connections > 0 && connections.count() >= settings.max_connections {
        log::warn!("{client}: refused: there are ssh.maxConnections ({}) connections", settings.max_connections);
        return Ok(());
    }
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    let local = socket.local_addr()?;
    let waker = Waker::new()?;
    let id = random_id()?;
    let registration = connections.register(&id, &waker);
    let stop = Arc::clone(&connections.0.stop);
    let connection = Connection { server: Arc::clone(server), id, client, local, waker, stop };
    log::debug!("{}: {client} connected", connection.id);
    if let Some(country) = server.geoip.as_ref().and_then(|database| database.country(client.ip())) {
        log::info!("{}: {client} is in {country}", connection.id);
    }
    std::thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(move || {
        let _registration = registration;
        connection.run(socket, startup);
    })?;
    Ok(())
}

/// 32 hexadecimal digits.
fn random_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A place among the clients that have not authenticated: sshd_config(5), MaxStartups. Freed when dropped.
pub struct Startup(Arc<AtomicUsize>);

impl Startup {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        // Only the accepting thread adds, so the count cannot grow between the look and the addition.
        if count.load(Ordering::Relaxed) >= most {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(Startup(Arc::clone(count)))
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All running connections.
#[derive(Clone, Default)]
struct Connections(Arc<Registry>);

#[derive(Default)]
struct Registry {
    stop: Arc<AtomicBool>,
    running: Mutex<HashMap<String, Waker>>,
    ended: Condvar,
}

/// A connection's entry, removed when dropped.
struct Registration {
    id: String,
    connections: Connections,
}

impl Connections {
    fn register(&self, id: &str, waker: &Waker) -> Registration {
        self.running().insert(id.to_owned(), waker.clone());
        Registration { id: id.to_owned(), connections: self.clone() }
    }

    fn count(&self) -> usize {
        self.running().len()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waker>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all to end, and waits until they have, for `time` at most.
    fn end(&self, time: Duration) {
        self.0.stop.store(true, Ordering::Relaxed);
        let running = self.running();
        for waker in running.values() {
            waker.wake();
        }
        let result = self.0.ended.wait_timeout_while(running, time, |running| !running.is_empty());
        let left = result.map_or(0, |(running, _)| running.len());
        if left > 0 {
            log::error!("{left} connections have not ended in time; the next start removes their containers");
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.running().remove(&self.id);
        self.connections.0.ended.notify_all();
    }
}
